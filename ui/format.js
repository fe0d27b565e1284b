/**
 * Numbers, sizes, durations and times as short text. Pure; used by every view.
 *
 * Invariant: what is not known (null, NaN, infinite) becomes a dash, never "NaN" or "null". Numbers
 * and their units are joined by a no-break space.
 */
export const unknown = '–'
const space = '\u00a0'

function isKnown(value) {
  return typeof value === 'number' && Number.isFinite(value)
}

/** Three significant digits at most: 1.23, 12.3, 123. */
function short(value) {
  const digits = Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0
  return String(Number(value.toFixed(digits)))
}

function scaled(value, base, units) {
  let size = value
  let index = 0
  // 999.5 would round to 1000 of the smaller unit.
  while (Math.abs(size) >= base * 0.9995 && index < units.length - 1) {
    size /= base
    index++
  }
  return `${short(size)}${units[index] === '' ? '' : space + units[index]}`
}

/** 1,234 below ten thousand, else 12.3 k, 1.2 M, 3.4 G, 5.6 T. */
export function formatCount(value) {
  if (!isKnown(value)) return unknown
  if (Math.abs(value) < 10_000) return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',')
  return scaled(value, 1000, ['', 'k', 'M', 'G', 'T'])
}

/** Every digit, for titles. */
export function formatExact(value) {
  return isKnown(value) ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',') : unknown
}

/** Events per second, without the unit. */
export function formatRate(value) {
  if (!isKnown(value)) return unknown
  return value < 10 ? short(Number(value.toFixed(1))) : scaled(Math.round(value), 1000, ['', 'k', 'M', 'G'])
}

/** In the units of the command line and of the options for memory. */
export function formatBytes(value) {
  return isKnown(value) ? scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']) : unknown
}

/** A share from 0 to 1 as 34 %. */
export function formatPercent(share) {
  return isKnown(share) ? `${Math.round(share * 100)}${space}%` : unknown
}

const second = 1000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour
const year = 365.25 * day

function twoParts(ms, major, majorUnit, minor, minorUnit) {
  const whole = Math.floor(ms / major)
  const rest = Math.floor((ms - whole * major) / minor)
  const head = `${whole}${space}${majorUnit}`
  return rest === 0 ? head : `${head} ${rest}${space}${minorUnit}`
}

/** 34 ms, 1.23 s, 3 min 4 s, 2 h 5 min, 3 d 4 h, 24.9 y. */
export function formatDuration(ms) {
  if (!isKnown(ms)) return unknown
  if (ms < 0) return `-${formatDuration(-ms)}`
  if (ms < 999.5) return `${ms < 10 ? short(Number(ms.toFixed(1))) : Math.round(ms)}${space}ms`
  if (ms < minute) return `${short(ms / second)}${space}s`
  if (ms < hour) return twoParts(ms, minute, 'min', second, 's')
  if (ms < day) return twoParts(ms, hour, 'h', minute, 'min')
  if (ms < year) return twoParts(ms, day, 'd', hour, 'h')
  return `${short(ms / year)}${space}y`
}

function iso(ms) {
  return isKnown(ms) && Math.abs(ms) <= 8.64e15 ? new Date(ms).toISOString() : null
}

/** 2025-01-31 12:34:56, in UTC. */
export function formatTime(ms) {
  return (
    iso(ms)
      ?.replace('T', ' ')
      .replace(/\.\d+Z$/, '') ?? unknown
  )
}

/** 12:34:56, in UTC. */
export function formatClock(ms) {
  return (
    iso(ms)
      ?.replace(/^.*T/, '')
      .replace(/\.\d+Z$/, '') ?? unknown
  )
}

/** At most `length` characters, the last of them an ellipsis where something was cut. */
export function truncate(text, length) {
  const characters = [...text]
  return characters.length <= length ? text : `${characters.slice(0, length - 1).join('')}…`
}
