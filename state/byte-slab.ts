/**
 * Byte strings of any length in one growing array, freed and reused piece by piece.
 *
 * Holds a segment's key bytes and encoded values. Sizes are rounded up to classes (multiples of 8 bytes up
 * to 256, then eight steps an octave); each class keeps its free pieces in a list threaded through the bytes
 * themselves, as in any segregated-fit allocator (Knuth vol. 1, 2.5). Keys and values of a stream are much
 * alike, so what dies makes room for what comes, and nothing has to be moved while the mix stays the same.
 *
 * Invariants:
 * - A piece stays where it is until it is freed; `bytes` is replaced when the slab grows.
 * - `endBytes` is what was ever given out: memory above it was never touched.
 */
import { MillraceError } from '../engine/core/errors.ts'

const BYTES_MIN = 256
const BYTES_MAX = 0x7fff_ff00
/** From here on memory is reserved well ahead: untouched pages cost nothing, copies of large arrays do. */
const RESERVE_BYTES_MIN = 4 << 20
const SMALL_UNITS_MAX = 32
const CLASSES = SMALL_UNITS_MAX + 1 + 8 * 28

/** Units of 8 bytes that a piece of `size` bytes takes. */
function unitsOf(size: number): number {
  const units = (size + 7) >>> 3
  if (units <= SMALL_UNITS_MAX) return units === 0 ? 1 : units
  const step = 1 << (28 - Math.clz32(units - 1))
  return Math.ceil(units / step) * step
}

function classOf(units: number): number {
  if (units <= SMALL_UNITS_MAX) return units
  const octave = 31 - Math.clz32(units - 1)
  return SMALL_UNITS_MAX + (octave - 5) * 8 + ((units >>> (octave - 3)) - 8)
}

export class ByteSlab {
  bytes: Uint8Array
  endBytes = 0
  /** Bytes below `endBytes` that no piece takes. */
  freeBytes = 0
  private words: Int32Array
  /** First free piece of a class, as its unit number + 1; 0 for none. */
  private readonly heads = new Int32Array(CLASSES)

  /** `bytes` is how much is known to come. */
  constructor(bytes = 0) {
    this.bytes = new Uint8Array(Math.max(BYTES_MIN, Math.ceil(bytes / 8) * 8))
    this.words = new Int32Array(this.bytes.buffer)
  }

  /** Room for `size` bytes; returns where. Throws `STATE_SEGMENT_FULL` beyond 2 GiB. */
  allocate(size: number): number {
    const units = unitsOf(size)
    const kind = classOf(units)
    const head = this.heads[kind]
    if (head !== 0) {
      this.heads[kind] = this.words[(head - 1) * 2]
      this.freeBytes -= units * 8
      return (head - 1) * 8
    }
    const at = this.endBytes
    const end = at + units * 8
    if (end > this.bytes.length) this.grow(end)
    this.endBytes = end
    return at
  }

  free(at: number, size: number): void {
    const units = unitsOf(size)
    const kind = classOf(units)
    this.words[at >>> 2] = this.heads[kind]
    this.heads[kind] = (at >>> 3) + 1
    this.freeBytes += units * 8
  }

  /** True when both sizes take the same room. */
  static fits(sizeBefore: number, size: number): boolean {
    return unitsOf(sizeBefore) === unitsOf(size)
  }

  /** Bytes of memory in use or used before. */
  get touchedBytes(): number {
    return this.bytes.length < RESERVE_BYTES_MIN ? this.bytes.length : this.endBytes
  }

  private grow(needed: number): void {
    if (needed > BYTES_MAX) {
      throw new MillraceError('STATE_SEGMENT_FULL', 'One window of a state table holds more than 2 GiB.', {
        hint: 'Raise the parallelism or lower the memory budget of keyed state.',
      })
    }
    const factor = this.bytes.length >= RESERVE_BYTES_MIN ? 4 : 2
    const length = Math.min(BYTES_MAX, Math.max(needed, this.bytes.length * factor))
    const bytes = new Uint8Array(Math.ceil(length / 8) * 8)
    bytes.set(this.bytes.subarray(0, this.endBytes))
    this.bytes = bytes
    this.words = new Int32Array(bytes.buffer)
  }
}
