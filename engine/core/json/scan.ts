/**
 * Byte-level JSON scanning: the helpers that generated decoders call for each value.
 *
 * Every function takes a buffer and a position and returns the position after what it read, or -1 when
 * the bytes are malformed *or* merely unusual (an escape in a wanted string): the caller then gives the
 * whole record to the checked path (checked-record.ts), which decides. So -1 never rejects anything by
 * itself, but what is accepted here must be exactly what `JSON.parse` accepts.
 *
 * Precondition: a zero byte, or a newline where `newlines` is false, follows the record inside the buffer
 * and a few bytes more. No loop here runs across it.
 */

/** 0 for bytes that may stand in a JSON string as they are: printable ASCII without quote and backslash. */
const STRING_STOP = new Uint8Array(256).map((_, c) => (c < 0x20 || c === 0x22 || c === 0x5c || c >= 0x80 ? 1 : 0))

/** Exact powers of ten: 10^22 is the largest that a double holds exactly. */
const POWERS = Float64Array.from({ length: 23 }, (_, i) => Number(`1e${i}`))

const QUOTE = 0x22
const BACKSLASH = 0x5c

/** Length in bytes of the well-formed UTF-8 sequence at `p` (lead byte >= 0x80), or 0. */
export function utf8Length(b: Uint8Array, p: number): number {
  const lead = b[p]!
  const next = b[p + 1]!
  if (lead < 0xc2) return 0
  if (lead < 0xe0) return (next & 0xc0) === 0x80 ? 2 : 0
  if ((next & 0xc0) !== 0x80 || (b[p + 2]! & 0xc0) !== 0x80) return 0
  if (lead < 0xf0) {
    if (lead === 0xe0 && next < 0xa0) return 0
    // 0xed 0xa0.. would be a surrogate.
    return lead === 0xed && next >= 0xa0 ? 0 : 3
  }
  if (lead > 0xf4 || (b[p + 3]! & 0xc0) !== 0x80) return 0
  if (lead === 0xf0 && next < 0x90) return 0
  return lead === 0xf4 && next >= 0x90 ? 0 : 4
}

/** `p` is at an opening quote; the position after the closing one. -1 also for an escape. */
export function plainString(b: Uint8Array, p: number): number {
  p++
  for (;;) {
    let c = b[p]!
    while (STRING_STOP[c] === 0) c = b[++p]!
    if (c === QUOTE) return p + 1
    if (c < 0x80) return -1
    const length = utf8Length(b, p)
    if (length === 0) return -1
    p += length
  }
}

/** As `plainString`, but escapes are checked and passed over. */
export function anyString(b: Uint8Array, p: number): number {
  p++
  for (;;) {
    let c = b[p]!
    while (STRING_STOP[c] === 0) c = b[++p]!
    if (c === QUOTE) return p + 1
    if (c === BACKSLASH) {
      p = escapeEnd(b, p)
      if (p < 0) return -1
    } else {
      if (c < 0x80) return -1
      const length = utf8Length(b, p)
      if (length === 0) return -1
      p += length
    }
  }
}

function escapeEnd(b: Uint8Array, p: number): number {
  switch (b[p + 1]) {
    case 0x22: // "
    case 0x5c: // \
    case 0x2f: // /
    case 0x62: // b
    case 0x66: // f
    case 0x6e: // n
    case 0x72: // r
    case 0x74: // t
      return p + 2
    case 0x75: {
      for (let i = 2; i < 6; i++) {
        const c = b[p + i]! | 0x20
        if (!((c >= 0x30 && c <= 0x39) || (c >= 0x61 && c <= 0x66)) || b[p + i]! < 0x30) return -1
      }
      return p + 6
    }
    default:
      return -1
  }
}

/** The end of the number at `p`, by JSON's grammar. */
export function numberEnd(b: Uint8Array, p: number): number {
  let c = b[p]!
  if (c === 0x2d) c = b[++p]!
  if (c === 0x30) c = b[++p]!
  else {
    if (c < 0x31 || c > 0x39) return -1
    while (c >= 0x30 && c <= 0x39) c = b[++p]!
  }
  if (c === 0x2e) {
    c = b[++p]!
    if (!(c >= 0x30 && c <= 0x39)) return -1
    while (c >= 0x30 && c <= 0x39) c = b[++p]!
  }
  if (c === 0x65 || c === 0x45) {
    c = b[++p]!
    if (c === 0x2b || c === 0x2d) c = b[++p]!
    if (!(c >= 0x30 && c <= 0x39)) return -1
    while (c >= 0x30 && c <= 0x39) c = b[++p]!
  }
  // "01", "1.2.3" and "1-" end before a byte that cannot follow a value, which the caller refuses.
  return p
}

/**
 * Reads the number at `p` into out[row], the same bits as `JSON.parse` gives.
 *
 * Up to 15 digits are gathered in two integers; a mantissa below 2^53 divided by an exact power of ten
 * is correctly rounded (W. D. Clinger, "How to read floating point numbers accurately", 1990). Longer
 * ones and exponents go through `Number`.
 */
export function readNumber(b: Buffer, p: number, out: Float64Array, row: number): number {
  const start = p
  let c = b[p]!
  const negative = c === 0x2d
  if (negative) c = b[++p]!
  let d = c - 48
  if (d >>> 0 > 9) return -1
  let high = d
  let digits = 1
  c = b[++p]!
  d = c - 48
  if (high !== 0) {
    while (digits < 9 && d >>> 0 <= 9) {
      high = (high * 10 + d) | 0
      digits++
      c = b[++p]!
      d = c - 48
    }
  } else if ((c - 48) >>> 0 <= 9) return -1
  let value = high
  if (digits === 9) {
    let low = 0
    let more = 0
    while (more < 6 && d >>> 0 <= 9) {
      low = (low * 10 + d) | 0
      more++
      c = b[++p]!
      d = c - 48
    }
    value = high * POWERS[more]! + low
    digits += more
    if ((c - 48) >>> 0 <= 9) return readLongNumber(b, start, out, row)
  }
  if (c === 0x2e) {
    c = b[++p]!
    d = c - 48
    let fraction = 0
    let count = 0
    while (count < 9 && d >>> 0 <= 9) {
      fraction = (fraction * 10 + d) | 0
      count++
      c = b[++p]!
      d = c - 48
    }
    if (count === 0) return -1
    if (digits + count > 15 || (c - 48) >>> 0 <= 9) return readLongNumber(b, start, out, row)
    const power = POWERS[count]!
    value = (value * power + fraction) / power
  }
  if ((c | 0x20) === 0x65) return readLongNumber(b, start, out, row)
  out[row] = negative ? -value : value
  return p
}

function readLongNumber(b: Buffer, start: number, out: Float64Array, row: number): number {
  const end = numberEnd(b, start)
  if (end >= 0) out[row] = Number(b.latin1Slice(start, end))
  return end
}

const scratch = (): Float64Array => new Float64Array(1)

/** A reader of int32 numbers; a number that is not one gives -1. Made once a decoder, for its scratch cell. */
export function int32Reader(): (b: Buffer, p: number, out: Int32Array, row: number) => number {
  const cell = scratch()
  return (b, p, out, row) => {
    const end = readNumber(b, p, cell, 0)
    if (end < 0) return -1
    const value = cell[0]!
    if ((value | 0) !== value) return -1
    out[row] = value
    return end
  }
}

/**
 * A reader of int64 numbers into `words`, little-endian pairs over the column's memory. Integers that a
 * double cannot hold exactly give -1: the checked path reads their digits.
 */
export function int64Reader(): (b: Buffer, p: number, words: Int32Array, row: number) => number {
  const cell = scratch()
  return (b, p, words, row) => {
    const end = readNumber(b, p, cell, 0)
    if (end < 0) return -1
    const value = cell[0]!
    if (!Number.isSafeInteger(value)) return -1
    words[2 * row] = value | 0
    words[2 * row + 1] = Math.floor(value / 4_294_967_296) | 0
    return end
  }
}

function isSpace(c: number, newlines: boolean): boolean {
  return c === 0x20 || c === 0x09 || c === 0x0d || (newlines && c === 0x0a)
}

/** Position of the first byte at or after `p` that is not whitespace. */
export function skipSpace(b: Uint8Array, p: number, newlines: boolean): number {
  while (isSpace(b[p]!, newlines)) p++
  return p
}

/** `true`, `false` or `null` at `p`. */
export function literalEnd(b: Uint8Array, p: number): number {
  const c = b[p]
  if (c === 0x74) return b[p + 1] === 0x72 && b[p + 2] === 0x75 && b[p + 3] === 0x65 ? p + 4 : -1
  if (c === 0x6e) return b[p + 1] === 0x75 && b[p + 2] === 0x6c && b[p + 3] === 0x6c ? p + 4 : -1
  if (c !== 0x66) return -1
  return b[p + 1] === 0x61 && b[p + 2] === 0x6c && b[p + 3] === 0x73 && b[p + 4] === 0x65 ? p + 5 : -1
}

/**
 * Checks and passes over the value at `p` (not whitespace). A container here would be at nesting level
 * `depth`; levels above `depthMax` give -1.
 */
export function skipValue(b: Uint8Array, p: number, depth: number, depthMax: number, newlines: boolean): number {
  const c = b[p]!
  if (c === QUOTE) return anyString(b, p)
  if (c === 0x7b || c === 0x5b) return depth > depthMax ? -1 : skipContainer(b, p, depth, depthMax, newlines)
  if (c === 0x2d || (c >= 0x30 && c <= 0x39)) return numberEnd(b, p)
  return literalEnd(b, p)
}

function skipContainer(b: Uint8Array, p: number, depth: number, depthMax: number, newlines: boolean): number {
  const isObject = b[p] === 0x7b
  const close = isObject ? 0x7d : 0x5d
  p = skipSpace(b, p + 1, newlines)
  if (b[p] === close) return p + 1
  for (;;) {
    if (isObject) {
      if (b[p] !== QUOTE) return -1
      p = anyString(b, p)
      if (p < 0) return -1
      p = skipSpace(b, p, newlines)
      if (b[p] !== 0x3a) return -1
      p = skipSpace(b, p + 1, newlines)
    }
    p = skipValue(b, p, depth + 1, depthMax, newlines)
    if (p < 0) return -1
    p = skipSpace(b, p, newlines)
    if (b[p] === close) return p + 1
    if (b[p] !== 0x2c) return -1
    p = skipSpace(b, p + 1, newlines)
  }
}
