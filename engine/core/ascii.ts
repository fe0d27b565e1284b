/**
 * Short ASCII texts and whole numbers into a byte arena. Used by the writers of JSON and CSV.
 */
import type { ByteArena } from './strings.ts'

/** Appends text of ASCII characters. */
export function writeAscii(arena: ByteArena, text: string): void {
  arena.reserve(text.length)
  arena.length += arena.bytes.latin1Write(text, arena.length)
}

/** Appends a positive int32. Most of what is written are small whole numbers: digits by hand save a string and a native call. */
export function writeDigits(arena: ByteArena, value: number): void {
  let length = 1
  for (let power = 10; power <= value; power *= 10) length++
  arena.reserve(length)
  const to = arena.bytes
  for (let at = arena.length + length - 1; at >= arena.length; at--) {
    const rest = (value / 10) | 0
    to[at] = 48 + value - rest * 10
    value = rest
  }
  arena.length += length
}
