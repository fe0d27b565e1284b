/**
 * The stored windows of a key (operators/window-records.ts), for those who do not have the job: what shows them, and what
 * rewrites their contents when the accumulator has a new version.
 *
 * Layout of a value: u32 count of windows; each f64 start, f64 end, u32 n and n f64 event-time timers, the same of
 * processing time, u32 n and n states (name, bytes), u8 whether there are contents, and these. Names, states and contents
 * have a u32 length before them; all little-endian.
 */
import type { ByteArena } from '../engine/core/strings.ts'

export interface StoredWindow {
  /** Milliseconds since 1970 UTC. */
  readonly start: number
  readonly end: number
  readonly eventTimers: readonly number[]
  readonly processingTimers: readonly number[]
  /** Of triggers and window functions, by name and version. */
  readonly states: Readonly<Record<string, Uint8Array>>
  /** Accumulator, reduced row or elements; null for none. Valid as long as what was read. */
  readonly contents: Uint8Array | null
}

/** Reads the windows in bytes [from, to). */
export function readWindows(bytes: Uint8Array, from: number, to: number): StoredWindow[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset + from, to - from)
  let at = 0
  const length = (): number => {
    at += 4
    return view.getUint32(at - 4, true)
  }
  const time = (): number => {
    at += 8
    return view.getFloat64(at - 8, true)
  }
  const piece = (): Uint8Array => {
    const size = length()
    at += size
    return bytes.subarray(from + at - size, from + at)
  }
  const times = (): number[] => Array.from({ length: length() }, time)
  const states = (): Record<string, Uint8Array> =>
    Object.fromEntries(Array.from({ length: length() }, () => [new TextDecoder().decode(piece()), piece()]))
  return Array.from({ length: length() }, () => ({
    start: time(),
    end: time(),
    eventTimers: times(),
    processingTimers: times(),
    states: states(),
    contents: view.getUint8(at++) === 1 ? piece() : null,
  }))
}

/** The windows with other contents, as they are stored; valid until the next call with the same arena. */
export function writeWindows(
  windows: readonly StoredWindow[],
  contentsOf: (contents: Uint8Array) => Uint8Array,
  arena: ByteArena,
): Uint8Array {
  const length = (value: number): void => {
    arena.reserve(4)
    arena.length = arena.bytes.writeUInt32LE(value, arena.length)
  }
  const times = (values: readonly number[]): void => {
    arena.reserve(values.length * 8)
    for (const value of values) arena.length = arena.bytes.writeDoubleLE(value, arena.length)
  }
  const piece = (value: Uint8Array): void => {
    length(value.length)
    arena.writeBytes(value, 0, value.length)
  }
  arena.clear()
  length(windows.length)
  for (const { start, end, eventTimers, processingTimers, states, contents } of windows) {
    times([start, end])
    length(eventTimers.length)
    times(eventTimers)
    length(processingTimers.length)
    times(processingTimers)
    const named = Object.entries(states)
    length(named.length)
    for (const [name, state] of named) {
      piece(Buffer.from(name))
      piece(state)
    }
    arena.writeByte(contents === null ? 0 : 1)
    if (contents !== null) piece(contentsOf(contents))
  }
  return arena.view()
}

/** What is within the brackets of a described layout as `windows(...)`; null for another one. */
export function withinBrackets(layout: string, name: string): string | null {
  return layout.startsWith(`${name}(`) && layout.endsWith(')') ? layout.slice(name.length + 1, -1) : null
}
