/**
 * The windows of one key, as the triggered window operator keeps them: one object in state a key (`KeyWindows`).
 *
 * A record holds all that belongs to a window: contents, the timers that its trigger set, and small states by
 * name. So merging windows moves all of it at once, and a key without windows leaves nothing behind. Invariant:
 * a state is kept as bytes until someone who knows its codec asks for it.
 */
import type { EarlierLayout, ValueCodec } from '../engine/contract/keyed-state.ts'
import { TimeWindow } from '../engine/contract/windows.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { writeEncoded, writeLength } from './window-contents.ts'

/** A named value of a window: encoded in `bytes` until its codec is known. */
interface KeptState {
  name: string
  codec: ValueCodec | null
  value: unknown
  bytes: Uint8Array
  next: KeptState | null
}

const NO_BYTES = new Uint8Array(0)

/**
 * All windows of a key. The key has a timer at or before the earliest time that any of them waits for; when it has
 * fired, the next one is set. So a session that grows with each element needs no new timer each time.
 */
export class KeyWindows {
  readonly records: WindowRecord[]
  /** The record where there is just one, as `settle` found it: most rows need no more. */
  only: WindowRecord | null = null
  /** The key has timers at these times; NaN where that is not known, as after a restore. */
  eventWakeMs = Number.NaN
  processingWakeMs = Number.NaN

  constructor(records: WindowRecord[] = []) {
    this.records = records
    this.settle()
  }

  /** To be called when records came or went. */
  settle(): void {
    this.only = this.records.length === 1 ? this.records[0] : null
  }
}

export class WindowRecord {
  window: TimeWindow
  contents: unknown = undefined
  /** `eventTimers` has the window's last millisecond. False also where nobody looked. */
  waitsForEnd = false
  /** The time after which the window is forgotten is among its timers. False also where nobody looked. */
  waitsForCleanup = false
  readonly eventTimers: number[] = []
  readonly processingTimers: number[] = []
  /** The first of a list: windows have one or two states, and a map of its own for each window would be large. */
  states: KeptState | null = null

  constructor(window: TimeWindow) {
    this.window = window
  }

  /** Nothing is kept and nothing will happen. */
  get isIdle(): boolean {
    return (
      this.contents === undefined &&
      this.eventTimers.length === 0 &&
      this.processingTimers.length === 0 &&
      this.states === null
    )
  }

  state(name: string, codec: ValueCodec): unknown {
    const kept = this.kept(name)
    if (kept === null) return undefined
    if (kept.codec === null) {
      kept.value = codec.decode(kept.bytes, 0, kept.bytes.length)
      kept.codec = codec
      kept.bytes = NO_BYTES
      // The very text that it will be asked for by.
      kept.name = name
    }
    return kept.value
  }

  setState(name: string, codec: ValueCodec, value: unknown): void {
    const kept = this.kept(name)
    if (kept === null) this.states = { name, codec, value, bytes: NO_BYTES, next: this.states }
    else {
      kept.codec = codec
      kept.value = value
    }
  }

  deleteState(name: string): void {
    let before: KeptState | null = null
    for (let kept = this.states; kept !== null; before = kept, kept = kept.next) {
      if (kept.name !== name) continue
      if (before === null) this.states = kept.next
      else before.next = kept.next
      return
    }
  }

  private kept(name: string): KeptState | null {
    let kept = this.states
    while (kept !== null && kept.name !== name) kept = kept.next
    return kept
  }
}

/** The codec of a key's records; `contents` encodes what a window keeps of its elements. */
export function windowRecordsCodec(contents: ValueCodec): ValueCodec {
  const arena = new ByteArena(1_024)
  return {
    description: described(contents),
    // What a new version changes is the contents of each window (state/stored-windows.ts).
    ...(contents.evolution === undefined ? {} : { evolution: contents.evolution }),
    earlier: (contents.earlier ?? []).map((layout) => ({
      description: described(layout),
      decode: (bytes, start) => decodeWindows(bytes, start, layout),
    })),
    encode(value) {
      const { records } = value as KeyWindows
      arena.clear()
      writeLength(arena, records.length)
      for (const record of records) writeRecord(arena, record, contents)
      return arena.view()
    },
    decode: (bytes, start) => decodeWindows(bytes, start, contents),
  }
}

const described = ({ description }: EarlierLayout): string => `windows(${description})`

function decodeWindows(bytes: Uint8Array, start: number, contents: EarlierLayout): KeyWindows {
  const reader = new RecordReader(bytes, start, contents)
  return new KeyWindows(Array.from({ length: reader.length() }, () => reader.record()))
}

function writeRecord(arena: ByteArena, record: WindowRecord, contents: ValueCodec): void {
  const { window, eventTimers, processingTimers, states } = record
  writeTimes(arena, [window.start, window.end])
  writeLength(arena, eventTimers.length)
  writeTimes(arena, eventTimers)
  writeLength(arena, processingTimers.length)
  writeTimes(arena, processingTimers)
  let count = 0
  for (let kept = states; kept !== null; kept = kept.next) count++
  writeLength(arena, count)
  for (let kept = states; kept !== null; kept = kept.next) {
    writeEncoded(arena, Buffer.from(kept.name))
    writeEncoded(arena, kept.codec === null ? kept.bytes : kept.codec.encode(kept.value))
  }
  arena.writeByte(record.contents === undefined ? 0 : 1)
  if (record.contents !== undefined) writeEncoded(arena, contents.encode(record.contents))
}

function writeTimes(arena: ByteArena, times: readonly number[]): void {
  arena.reserve(times.length * 8)
  for (const time of times) arena.length = arena.bytes.writeDoubleLE(time, arena.length)
}

class RecordReader {
  private readonly bytes: Uint8Array
  private readonly view: DataView
  private readonly contents: EarlierLayout
  private at: number

  constructor(bytes: Uint8Array, start: number, contents: EarlierLayout) {
    this.bytes = bytes
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.contents = contents
    this.at = start
  }

  length(): number {
    const length = this.view.getUint32(this.at, true)
    this.at += 4
    return length
  }

  private time(): number {
    const time = this.view.getFloat64(this.at, true)
    this.at += 8
    return time
  }

  private times(into: number[]): void {
    for (let left = this.length(); left > 0; left--) into.push(this.time())
  }

  /** Steps over an encoding with its length before it, and returns where it begins. */
  private encoded(): number {
    const length = this.length()
    this.at += length
    return this.at - length
  }

  private copied(): Uint8Array {
    const start = this.encoded()
    return new Uint8Array(this.bytes.subarray(start, this.at))
  }

  record(): WindowRecord {
    const record = new WindowRecord(new TimeWindow(this.time(), this.time()))
    this.times(record.eventTimers)
    this.times(record.processingTimers)
    for (let left = this.length(); left > 0; left--) {
      const name = new TextDecoder().decode(this.copied())
      record.states = { name, codec: null, value: undefined, bytes: this.copied(), next: record.states }
    }
    if (this.bytes[this.at++] === 1) {
      const start = this.encoded()
      record.contents = this.contents.decode(this.bytes, start, this.at)
    }
    return record
  }
}
