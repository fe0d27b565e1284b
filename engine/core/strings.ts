/**
 * UTF-8 bytes to JavaScript strings and back, at batch cost.
 *
 * Making a string from bytes costs 65-100 ns, so repeated values go through a bounded, direct-mapped
 * cache: a hit compares bytes instead. One interner a worker (it lives in the WorkerContext), never
 * shared between threads.
 */

const SLOTS = 8_192
/** Longer values are rarely repeated, and comparing them costs more than decoding. */
const INTERN_BYTES_MAX = 64

/** A Buffer over the same memory; SharedArrayBuffers work too. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength)
}

export class StringInterner {
  private readonly strings: string[] = new Array<string>(SLOTS).fill('')
  private readonly hashes = new Int32Array(SLOTS)
  private readonly lengths = new Int32Array(SLOTS).fill(-1)
  private readonly copies = new Uint8Array(SLOTS * INTERN_BYTES_MAX)
  private lastBytes: Uint8Array | null = null
  private lastBuffer: Buffer = Buffer.alloc(0)

  /** The string of bytes[start, end); malformed UTF-8 becomes U+FFFD. */
  decode(bytes: Uint8Array, start: number, end: number): string {
    const length = end - start
    if (length === 0) return ''
    if (length > INTERN_BYTES_MAX) return this.bufferOf(bytes).utf8Slice(start, end)
    let hash = length | 0
    for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193)
    const slot = (hash ^ (hash >>> 15)) & (SLOTS - 1)
    if (this.hashes[slot] === hash && this.lengths[slot] === length) {
      const copies = this.copies
      const base = slot * INTERN_BYTES_MAX
      let i = 0
      while (i < length && copies[base + i] === bytes[start + i]) i++
      if (i === length) return this.strings[slot]!
    }
    const decoded = this.bufferOf(bytes).utf8Slice(start, end)
    this.hashes[slot] = hash
    this.lengths[slot] = length
    this.strings[slot] = decoded
    const base = slot * INTERN_BYTES_MAX
    for (let i = 0; i < length; i++) this.copies[base + i] = bytes[start + i]!
    return decoded
  }

  private bufferOf(bytes: Uint8Array): Buffer {
    if (this.lastBytes !== bytes) {
      this.lastBytes = bytes
      this.lastBuffer = asBuffer(bytes)
    }
    return this.lastBuffer
  }
}

const LONG_STRING_CHARS = 65_536
/** What an arena keeps when it is cleared. */
const CLEARED_BYTES_MAX = 16 << 20

/** A growing byte buffer; `bytes` is replaced when it grows, earlier contents keep their positions. */
export class ByteArena {
  bytes: Buffer
  length = 0

  constructor(capacity = 1_024) {
    this.bytes = Buffer.allocUnsafeSlow(capacity)
  }

  /** Makes room for `extra` more bytes. */
  reserve(extra: number): void {
    const needed = this.length + extra
    if (needed <= this.bytes.length) return
    const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.bytes.length * 2))
    this.bytes.copy(grown, 0, 0, this.length)
    this.bytes = grown
  }

  /** Appends a string as UTF-8 and returns its start. */
  writeString(value: string): number {
    // Counting a long string's bytes costs less than room for three times its length.
    this.reserve(value.length < LONG_STRING_CHARS ? value.length * 3 : Buffer.byteLength(value))
    const start = this.length
    this.length += this.bytes.utf8Write(value, start)
    return start
  }

  /** Appends from[start, end) and returns its new start. */
  writeBytes(from: Uint8Array, start: number, end: number): number {
    const count = end - start
    this.reserve(count)
    const at = this.length
    const to = this.bytes
    if (count < 48) {
      for (let i = 0; i < count; i++) to[at + i] = from[start + i]!
    } else {
      to.set(from.subarray(start, end), at)
    }
    this.length = at + count
    return at
  }

  writeByte(value: number): void {
    this.reserve(1)
    this.bytes[this.length++] = value
  }

  /** A view of what was written; overwritten by later use after `clear`. */
  view(): Uint8Array {
    return this.bytes.subarray(0, this.length)
  }

  /** A copy of what was written. */
  copy(): Uint8Array {
    return new Uint8Array(this.view())
  }

  clear(): void {
    this.length = 0
    if (this.bytes.length > CLEARED_BYTES_MAX) this.bytes = Buffer.allocUnsafeSlow(1_024)
  }
}

/**
 * Copies rows `rows[0..count)` of a column of strings (its first `count` when null) back to back from `to[at]` on, which
 * has room for them, and returns where they end. Eight bytes at a time, which takes about half as long as one by one.
 */
export function gatherStrings(
  bytes: Uint8Array,
  starts: Int32Array,
  ends: Int32Array,
  rows: Int32Array | null,
  count: number,
  to: Uint8Array,
  at: number,
): number {
  const from = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const into = new DataView(to.buffer, to.byteOffset, to.byteLength)
  return gather(bytes, from, starts, ends, rows, count, to, into, at)
}

const MEMCPY_BYTES_MIN = 256

function gather(
  bytes: Uint8Array,
  from: DataView,
  starts: Int32Array,
  ends: Int32Array,
  rows: Int32Array | null,
  count: number,
  to: Uint8Array,
  into: DataView,
  at: number,
): number {
  for (let i = 0; i < count; i++) {
    const row = rows === null ? i : rows[i]!
    const end = ends[row]!
    let k = starts[row]!
    if (end - k >= MEMCPY_BYTES_MIN) {
      to.set(bytes.subarray(k, end), at)
      at += end - k
      continue
    }
    for (; k + 8 <= end; k += 8, at += 8) into.setBigInt64(at, from.getBigInt64(k, true), true)
    for (; k < end; k++) to[at++] = bytes[k]!
  }
  return at
}
