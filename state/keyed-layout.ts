/**
 * The fixed layout of keys in the keyed store (see engine/contract/keyed-store.ts), and the batch
 * builder that a barrier's cut is encoded into.
 *
 *   operator id u16 | key group u16 | state id u16 | namespace (order-preserving f64, 8 bytes) | key bytes
 *
 * Called by the keyed segments and the keyed backend. Invariants:
 * - Byte order of encoded namespaces is their numeric order; -0 is written as 0, NaN is refused.
 * - A `WriteBatchBuilder` has as many keys as values; the value of a deleted row is empty.
 * - Doubles are stored little-endian on every platform that Node runs on.
 */
import type { Arena, WriteBatch } from '../engine/contract/keyed-store.ts'
import { assert } from '../engine/core/assert.ts'
import { MillraceError } from '../engine/core/errors.ts'

export const PREFIX_BYTES = 14
const OPERATOR_AT = 0
const KEY_GROUP_AT = 2
const STATE_AT = 4
const NAMESPACE_AT = 6
const ARENA_BYTES_MAX = 0x7fff_ffff
const SHRINK_BYTES_MIN = 4 << 20

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Writes 8 bytes whose unsigned order is the order of the numbers. */
export function encodeNamespace(namespace: number, into: DataView, at: number): void {
  assert(!Number.isNaN(namespace), 'a namespace is a number')
  into.setFloat64(at, namespace === 0 ? 0 : namespace)
  const high = into.getUint32(at)
  if ((high & 0x8000_0000) !== 0) {
    into.setUint32(at, ~high >>> 0)
    into.setUint32(at + 4, ~into.getUint32(at + 4) >>> 0)
  } else {
    into.setUint32(at, (high | 0x8000_0000) >>> 0)
  }
}

/** The inverse of `encodeNamespace`. */
export function decodeNamespace(bytes: Uint8Array, at: number): number {
  const scratch = new DataView(new ArrayBuffer(8))
  for (let i = 0; i < 8; i++) scratch.setUint8(i, bytes[at + i])
  const high = scratch.getUint32(0)
  if ((high & 0x8000_0000) !== 0) {
    scratch.setUint32(0, (high & 0x7fff_ffff) >>> 0)
  } else {
    scratch.setUint32(0, ~high >>> 0)
    scratch.setUint32(4, ~scratch.getUint32(4) >>> 0)
  }
  return scratch.getFloat64(0)
}

/** The 14 bytes before the key bytes; key group 0 until `setKeyGroup`. */
export function keyPrefix(operatorId: number, stateId: number, namespace: number): Uint8Array {
  const prefix = new Uint8Array(PREFIX_BYTES)
  const view = viewOf(prefix)
  view.setUint16(OPERATOR_AT, operatorId)
  view.setUint16(STATE_AT, stateId)
  encodeNamespace(namespace, view, NAMESPACE_AT)
  return prefix
}

/** The 4 bytes that open every key of an operator in one key group. */
export function keyGroupPrefix(operatorId: number, keyGroup: number): Uint8Array {
  const prefix = new Uint8Array(4)
  const view = viewOf(prefix)
  view.setUint16(OPERATOR_AT, operatorId)
  view.setUint16(KEY_GROUP_AT, keyGroup)
  return prefix
}

/** The 6 bytes that open every key of one table in one key group. */
export function statePrefix(operatorId: number, keyGroup: number, stateId: number): Uint8Array {
  const prefix = new Uint8Array(6)
  prefix.set(keyGroupPrefix(operatorId, keyGroup))
  viewOf(prefix).setUint16(STATE_AT, stateId)
  return prefix
}

/** Makes a prefix speak of another key group. */
export function setKeyGroup(prefix: Uint8Array, keyGroup: number): void {
  prefix[KEY_GROUP_AT] = keyGroup >>> 8
  prefix[KEY_GROUP_AT + 1] = keyGroup & 0xff
}

export function stateIdOf(key: Uint8Array, start: number): number {
  return (key[start + STATE_AT] << 8) | key[start + STATE_AT + 1]
}

export function namespaceOf(key: Uint8Array, start: number): number {
  return decodeNamespace(key, start + NAMESPACE_AT)
}

/** The first byte string above all that start with `prefix`; null when there is none. */
export function prefixEnd(prefix: Uint8Array): Uint8Array | null {
  let last = prefix.length - 1
  while (last >= 0 && prefix[last] === 0xff) last--
  if (last < 0) return null
  const end = new Uint8Array(prefix.subarray(0, last + 1))
  end[last]++
  return end
}

/** A growing arena whose rows are appended piece by piece. */
export class PieceArena implements Arena {
  bytes: Uint8Array = new Uint8Array(4_096)
  offsets: Uint32Array = new Uint32Array(257)
  count = 0
  private length = 0
  private readonly double = new Float64Array(1)
  private readonly doubleBytes = new Uint8Array(this.double.buffer)

  /** Forgets the rows; after an unusually large use the memory goes too. */
  clear(): void {
    const isOversized = this.bytes.length > SHRINK_BYTES_MIN && this.length < this.bytes.length / 8
    if (isOversized) {
      this.bytes = new Uint8Array(Math.max(4_096, this.length * 2))
      this.offsets = new Uint32Array(Math.max(257, this.count * 2))
    }
    this.count = 0
    this.length = 0
  }

  /** Makes room for `extra` bytes of the current row and returns where they go. */
  private extend(extra: number): number {
    const at = this.length
    const needed = at + extra
    if (needed > this.bytes.length) {
      if (needed > ARENA_BYTES_MAX) {
        throw new MillraceError('STATE_CUT_TOO_LARGE', 'One checkpoint changes more than 2 GiB of state.', {
          hint: 'Checkpoint more often, or raise the parallelism.',
        })
      }
      const grown = new Uint8Array(Math.min(ARENA_BYTES_MAX, Math.max(needed, this.bytes.length * 2)))
      grown.set(this.bytes.subarray(0, at))
      this.bytes = grown
    }
    this.length = needed
    return at
  }

  add(from: Uint8Array, start: number, end: number): void {
    const size = end - start
    const at = this.extend(size)
    const to = this.bytes
    if (size < 40) for (let i = 0; i < size; i++) to[at + i] = from[start + i]
    else to.set(from.subarray(start, end), at)
  }

  /** Eight bytes, little-endian on every platform that Node runs on. */
  addDouble(value: number): void {
    const at = this.extend(8)
    this.double[0] = value
    for (let i = 0; i < 8; i++) this.bytes[at + i] = this.doubleBytes[i]
  }

  /** Prefix and key in one step: the common case is measured in tens of nanoseconds. */
  addPrefixed(prefix: Uint8Array, from: Uint8Array, start: number, end: number): void {
    const size = end - start
    const at = this.extend(PREFIX_BYTES + size)
    const to = this.bytes
    for (let i = 0; i < PREFIX_BYTES; i++) to[at + i] = prefix[i]
    const keyAt = at + PREFIX_BYTES
    if (size < 40) for (let i = 0; i < size; i++) to[keyAt + i] = from[start + i]
    else to.set(from.subarray(start, end), keyAt)
  }

  endRow(): void {
    if (this.count + 2 > this.offsets.length) {
      const grown = new Uint32Array(this.offsets.length * 2)
      grown.set(this.offsets)
      this.offsets = grown
    }
    this.offsets[++this.count] = this.length
  }

  get byteLength(): number {
    return this.length
  }
}

/** Collects puts and deletes; reused from one checkpoint to the next. */
export class WriteBatchBuilder {
  keys = new PieceArena()
  values = new PieceArena()
  private deletes = new Uint8Array(256)
  private deletesAny = false

  get count(): number {
    return this.keys.count
  }

  get byteLength(): number {
    return this.keys.byteLength + this.values.byteLength
  }

  /** Ends a row whose key and value pieces were added. */
  endPut(): void {
    this.keys.endRow()
    this.values.endRow()
    if (this.deletesAny) this.mark(0)
  }

  /** Ends a row whose key was added and that deletes it. */
  endDelete(): void {
    this.keys.endRow()
    this.values.endRow()
    if (!this.deletesAny) {
      this.deletesAny = true
      this.deletes.fill(0)
    }
    this.mark(1)
  }

  private mark(value: number): void {
    const count = this.keys.count
    if (count > this.deletes.length) {
      const grown = new Uint8Array(Math.max(count, this.deletes.length * 2))
      grown.set(this.deletes)
      this.deletes = grown
    }
    this.deletes[count - 1] = value
  }

  /** What was collected, as views that stay valid until `clear` or a further row. */
  batch(): WriteBatch {
    return { keys: this.keys, values: this.values, deletes: this.deletesAny ? this.deletes : null }
  }

  /** Exchanges what was collected, and the memory, with another builder. */
  swap(other: WriteBatchBuilder): void {
    const { keys, values, deletes, deletesAny } = this
    this.keys = other.keys
    this.values = other.values
    this.deletes = other.deletes
    this.deletesAny = other.deletesAny
    other.keys = keys
    other.values = values
    other.deletes = deletes
    other.deletesAny = deletesAny
  }

  clear(): void {
    this.keys.clear()
    this.values.clear()
    this.deletesAny = false
  }
}
