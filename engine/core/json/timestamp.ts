/**
 * Timestamps written as text, read straight from bytes.
 *
 * Shape: `YYYY-MM-DD`, optionally `T` or a space and `HH:MM[:SS[.f...]]`, optionally `Z` or `+HH:MM` or
 * `-HH:MM`. Dates may be written with slashes (`2001/01/14 21:55`). Without a zone the time is UTC.
 * Dates that do not exist and hour 24 or second 60 are refused.
 */

const DAYS_BEFORE_MONTH = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365]

/** Two digits at `p`, or a number above 99. */
function twoDigits(b: Uint8Array, p: number): number {
  const tens = b[p]! - 48
  const ones = b[p + 1]! - 48
  return tens >>> 0 > 9 || ones >>> 0 > 9 ? 1_000 : tens * 10 + ones
}

/** Days from 1970-01-01 of a Gregorian date, NaN if there is no such day. */
function daysOf(year: number, month: number, day: number): number {
  if (month < 1 || month > 12 || day < 1) return Number.NaN
  const isLeap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)
  const lengthDays = DAYS_BEFORE_MONTH[month]! - DAYS_BEFORE_MONTH[month - 1]! + (isLeap && month === 2 ? 1 : 0)
  if (day > lengthDays) return Number.NaN
  const before = year - 1
  const leaps = Math.floor(before / 4) - Math.floor(before / 100) + Math.floor(before / 400)
  // 719,162 days lie between 0001-01-01 and 1970-01-01.
  return before * 365 + leaps + DAYS_BEFORE_MONTH[month - 1]! + (isLeap && month > 2 ? 1 : 0) + day - 1 - 719_162
}

/** Milliseconds since 1970 UTC of the text bytes[start, end); NaN when it is not a timestamp. */
export function parseTimestamp(b: Uint8Array, start: number, end: number): number {
  const length = end - start
  if (length < 10 || length > 40) return Number.NaN
  const separator = b[start + 4]
  if ((separator !== 0x2d && separator !== 0x2f) || b[start + 7] !== separator) return Number.NaN
  const century = twoDigits(b, start)
  const yearOfCentury = twoDigits(b, start + 2)
  if (century > 99 || yearOfCentury > 99) return Number.NaN
  const days = daysOf(century * 100 + yearOfCentury, twoDigits(b, start + 5), twoDigits(b, start + 8))
  if (length === 10) return days * 86_400_000
  if (length < 16 || (b[start + 10] !== 0x54 && b[start + 10] !== 0x20) || b[start + 13] !== 0x3a) return Number.NaN
  const hour = twoDigits(b, start + 11)
  const minute = twoDigits(b, start + 14)
  if (hour > 23 || minute > 59) return Number.NaN
  return days * 86_400_000 + hour * 3_600_000 + minute * 60_000 + tailMs(b, start + 16, end)
}

/** Milliseconds that the seconds and the zone add; `p` is after the minutes. */
function tailMs(b: Uint8Array, p: number, end: number): number {
  let ms = 0
  if (p < end && b[p] === 0x3a) {
    const second = p + 3 <= end ? twoDigits(b, p + 1) : 1_000
    if (second > 59) return Number.NaN
    ms = second * 1_000
    p += 3
    if (p < end && b[p] === 0x2e) {
      const first = ++p
      let fraction = 0
      while (p < end && (b[p]! - 48) >>> 0 <= 9 && p - first < 9) fraction = fraction * 10 + b[p++]! - 48
      if (p === first) return Number.NaN
      ms += (fraction * 1_000) / 10 ** (p - first)
    }
  }
  if (p === end) return ms
  const zone = b[p]
  if (zone === 0x5a) return p + 1 === end ? ms : Number.NaN
  if ((zone !== 0x2b && zone !== 0x2d) || p + 6 !== end || b[p + 3] !== 0x3a) return Number.NaN
  const hours = twoDigits(b, p + 1)
  const minutes = twoDigits(b, p + 4)
  if (hours > 23 || minutes > 59) return Number.NaN
  const offsetMs = hours * 3_600_000 + minutes * 60_000
  return zone === 0x2b ? ms - offsetMs : ms + offsetMs
}
