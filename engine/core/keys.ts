/**
 * Keys: one type-tagged byte encoding, murmur3 over it, and the key group that follows. Fixed for ever,
 * because state and partitions of old checkpoints depend on it.
 *
 * Encoding: a tag byte, then the payload.
 *   0x01 string   UTF-8 bytes
 *   0x02 number   Float64 big-endian (-0 is written as 0; NaN is refused)
 *   0x03 bigint   int64 big-endian (outside 64 bits is refused)
 *   0x04 boolean  one byte, 0 or 1
 *   0x05 null     nothing
 *   0x06 array    for each element: u32 big-endian length, then its encoding
 *   0x07 bytes    as they are; of the engine's own state, never a user's key. Decodes to their hexadecimal text
 * A number column of any width encodes as number, so a key's encoding does not depend on its column.
 *
 * Hash: MurmurHash3 x86 32-bit, seed 0 (Austin Appleby, public domain algorithm).
 * Key group: (hash as unsigned) % key groups. Subtask: floor(group * parallelism / key groups).
 */
import type { Batch, KeyColumn, StringColumn } from './batch.ts'
import { MillraceError } from './errors.ts'
import type { Schema } from './schema.ts'
import { asBuffer, ByteArena } from './strings.ts'

export const DEFAULT_KEY_GROUPS = 128

const TAG_STRING = 1
const TAG_NUMBER = 2
const TAG_BIGINT = 3
const TAG_BOOLEAN = 4
const TAG_NULL = 5
const TAG_ARRAY = 6
const TAG_BYTES = 7

/** Values that may be keys. */
export type Key = string | number | bigint | boolean | null | readonly Key[]

function keyError(value: unknown): MillraceError {
  const shown = typeof value === 'number' ? String(value) : typeof value
  return new MillraceError('KEY_INVALID', `A key cannot be ${shown}.`, {
    hint: 'Return a string, finite or infinite number, 64-bit bigint, boolean, null, or an array of these from the key selector.',
  })
}

/** MurmurHash3 x86 32-bit, seed 0, of bytes[start, end); the result is a signed int32. */
export function murmur3(bytes: Uint8Array, start: number, end: number): number {
  const length = end - start
  const tail = end - (length & 3)
  let h = 0
  for (let i = start; i < tail; i += 4) {
    let k = bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)
    k = Math.imul(k, 0xcc9e2d51)
    k = (k << 15) | (k >>> 17)
    h ^= Math.imul(k, 0x1b873593)
    h = (h << 13) | (h >>> 19)
    h = (Math.imul(h, 5) + 0xe6546b64) | 0
  }
  if (tail < end) {
    let k = bytes[tail]!
    if (tail + 1 < end) k |= bytes[tail + 1]! << 8
    if (tail + 2 < end) k |= bytes[tail + 2]! << 16
    k = Math.imul(k, 0xcc9e2d51)
    k = (k << 15) | (k >>> 17)
    h ^= Math.imul(k, 0x1b873593)
  }
  return finishHash(h ^ length)
}

/** The final mix of MurmurHash3 x86 32-bit, of what has been hashed exclusive-or the length. */
function finishHash(hash: number): number {
  let h = hash ^ (hash >>> 16)
  h = Math.imul(h, 0x85ebca6b)
  h ^= h >>> 13
  h = Math.imul(h, 0xc2b2ae35)
  return h ^ (h >>> 16)
}

/** Key group of a hash. */
export function keyGroupOf(hash: number, keyGroups: number): number {
  return (hash >>> 0) % keyGroups
}

/** Subtask that owns a key group. */
export function subtaskOfKeyGroup(group: number, parallelism: number, keyGroups: number): number {
  return Math.floor((group * parallelism) / keyGroups)
}

/** Key groups [from, to) of a subtask: the inverse of `subtaskOfKeyGroup`. */
export function keyGroupRange(
  subtask: number,
  parallelism: number,
  keyGroups: number,
): { from: number; to: number; total: number } {
  return {
    from: Math.ceil((subtask * keyGroups) / parallelism),
    to: Math.ceil(((subtask + 1) * keyGroups) / parallelism),
    total: keyGroups,
  }
}

/** Appends the encoding of a key value. Throws `KEY_INVALID`. */
export function encodeKey(value: unknown, arena: ByteArena): void {
  switch (typeof value) {
    case 'string':
      arena.writeByte(TAG_STRING)
      arena.writeString(value)
      return
    case 'number':
      if (Number.isNaN(value)) throw keyError(value)
      writeNumber(value, arena)
      return
    case 'bigint':
      if (BigInt.asIntN(64, value) !== value) throw keyError(value)
      arena.reserve(9)
      arena.writeByte(TAG_BIGINT)
      arena.length = arena.bytes.writeBigInt64BE(value, arena.length)
      return
    case 'boolean':
      arena.writeByte(TAG_BOOLEAN)
      arena.writeByte(value ? 1 : 0)
      return
    case 'object':
      if (value === null) {
        arena.writeByte(TAG_NULL)
        return
      }
      if (Array.isArray(value)) {
        arena.writeByte(TAG_ARRAY)
        for (const element of value) writeElement(element, arena)
        return
      }
      throw keyError(value)
    default:
      throw keyError(value)
  }
}

/** Appends the encoding of bytes[start, end), which begins with a byte of its own. */
export function encodeKeyBytes(bytes: Uint8Array, start: number, end: number, arena: ByteArena): void {
  arena.writeByte(TAG_BYTES)
  arena.writeBytes(bytes, start, end)
}

function writeNumber(value: number, arena: ByteArena): void {
  arena.reserve(9)
  arena.writeByte(TAG_NUMBER)
  arena.length = arena.bytes.writeDoubleBE(value === 0 ? 0 : value, arena.length)
}

function writeElement(element: unknown, arena: ByteArena): void {
  arena.reserve(4)
  const lengthAt = arena.length
  arena.length += 4
  encodeKey(element, arena)
  arena.bytes.writeUInt32BE(arena.length - lengthAt - 4, lengthAt)
}

/** The key value of bytes[start, end), an encoding. */
export function decodeKey(bytes: Uint8Array, start: number, end: number): Key {
  const buffer = asBuffer(bytes)
  switch (bytes[start]) {
    case TAG_STRING:
      return buffer.utf8Slice(start + 1, end)
    case TAG_NUMBER:
      return buffer.readDoubleBE(start + 1)
    case TAG_BIGINT:
      return buffer.readBigInt64BE(start + 1)
    case TAG_BOOLEAN:
      return bytes[start + 1] === 1
    case TAG_NULL:
      return null
    case TAG_BYTES:
      return buffer.toString('hex', start + 1, end)
    case TAG_ARRAY: {
      const elements: Key[] = []
      let at = start + 1
      while (at < end) {
        const length = buffer.readUInt32BE(at)
        elements.push(decodeKey(bytes, at + 4, at + 4 + length))
        at += 4 + length
      }
      return elements
    }
    default:
      throw new MillraceError('KEY_CORRUPT', `Unknown key tag ${bytes[start]}.`, { domain: 'internal' })
  }
}

/** Computes the keys of a batch's rows. The result is valid until the next call. */
export type KeyExtractor = (batch: Batch) => KeyColumn

/** Reused output of an extractor: encodings back to back. */
class KeyColumnBuilder {
  private readonly arena = new ByteArena(64 * 1_024)
  private starts = new Int32Array(2_048)
  private ends = new Int32Array(2_048)
  private hashes = new Int32Array(2_048)

  begin(rows: number): ByteArena {
    if (rows > this.starts.length) {
      this.starts = new Int32Array(rows)
      this.ends = new Int32Array(rows)
      this.hashes = new Int32Array(rows)
    }
    this.arena.clear()
    return this.arena
  }

  /** All rows of a column of strings without NULLs: several times faster than one by one. */
  strings(column: StringColumn, rows: number): KeyColumn {
    const { bytes, starts, ends } = column
    let total = 4
    for (let i = 0; i < rows; i++) total += ends[i]! - starts[i]! + 1
    const arena = this.begin(rows)
    arena.reserve(total)
    encodeStrings(bytes, viewOf(bytes), starts, ends, rows, viewOf(arena.bytes), this.starts, this.ends, this.hashes)
    return this.finish(rows)
  }

  end(row: number, start: number): void {
    const end = this.arena.length
    this.starts[row] = start
    this.ends[row] = end
    this.hashes[row] = murmur3(this.arena.bytes, start, end)
  }

  finish(rows: number): KeyColumn {
    return {
      bytes: this.arena.bytes,
      starts: this.starts.subarray(0, rows),
      ends: this.ends.subarray(0, rows),
      hashes: this.hashes.subarray(0, rows),
    }
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/**
 * Encodes strings back to back and hashes what it wrote, four bytes at a time: a word of the encoding is the last byte
 * of one word of the string (at first the tag) and three of the next. Writes up to three bytes beyond the last
 * encoding. Hashes are those of `murmur3`.
 */
function encodeStrings(
  bytes: Uint8Array,
  view: DataView,
  starts: Int32Array,
  ends: Int32Array,
  count: number,
  into: DataView,
  keyStarts: Int32Array,
  keyEnds: Int32Array,
  hashes: Int32Array,
): void {
  let at = 0
  for (let i = 0; i < count; i++) {
    const start = starts[i]!
    const end = ends[i]!
    keyStarts[i] = at
    let h = 0
    let carry = TAG_STRING
    let from = start
    for (; from + 4 <= end; from += 4, at += 4) {
      const word = view.getInt32(from, true)
      let k = carry | (word << 8)
      carry = word >>> 24
      into.setInt32(at, k, true)
      k = Math.imul(k, 0xcc9e2d51)
      h ^= Math.imul((k << 15) | (k >>> 17), 0x1b873593)
      h = (h << 13) | (h >>> 19)
      h = (Math.imul(h, 5) + 0xe6546b64) | 0
    }
    const left = end - from
    let k = carry
    if (left > 0) k |= bytes[from]! << 8
    if (left > 1) k |= bytes[from + 1]! << 16
    if (left > 2) k |= bytes[from + 2]! << 24
    into.setInt32(at, k, true)
    at += 1 + left
    keyEnds[i] = at
    k = Math.imul(k, 0xcc9e2d51)
    h ^= Math.imul((k << 15) | (k >>> 17), 0x1b873593)
    if (left === 3) {
      // The encoding ends with a whole word.
      h = (h << 13) | (h >>> 19)
      h = (Math.imul(h, 5) + 0xe6546b64) | 0
    }
    hashes[i] = finishHash(h ^ (end - start + 1))
  }
}

/** Extractor for the value of one field of a schema, without making rows. */
export function fieldKeyExtractor(schema: Schema, index: number): KeyExtractor {
  const builder = new KeyColumnBuilder()
  const kind = schema.fields[index]!.kind
  return (batch) => {
    const column = batch.columns[index]!
    if (column.kind === 'string' && column.nulls === null) {
      return builder.strings(column, batch.length)
    }
    const arena = builder.begin(batch.length)
    for (let i = 0; i < batch.length; i++) {
      const start = arena.length
      if (column.nulls !== null && column.nulls[i] === 1) arena.writeByte(TAG_NULL)
      else if (column.kind === 'string') {
        arena.writeByte(TAG_STRING)
        arena.writeBytes(column.bytes, column.starts[i]!, column.ends[i]!)
      } else encodeKey(kind === 'boolean' ? column.values[i] === 1 : column.values[i], arena)
      builder.end(i, start)
    }
    return builder.finish(batch.length)
  }
}

/** Extractor for the array of several fields' values, in this order, without making rows. */
export function fieldsKeyExtractor(schema: Schema, indices: readonly number[]): KeyExtractor {
  const builder = new KeyColumnBuilder()
  const isBoolean = indices.map((index) => schema.fields[index]!.kind === 'boolean')
  const element = new ByteArena(256)
  return (batch) => {
    const arena = builder.begin(batch.length)
    for (let i = 0; i < batch.length; i++) {
      const start = arena.length
      arena.writeByte(TAG_ARRAY)
      for (let k = 0; k < indices.length; k++) {
        const column = batch.columns[indices[k]!]!
        element.clear()
        if (column.nulls !== null && column.nulls[i] === 1) element.writeByte(TAG_NULL)
        else if (column.kind === 'string') {
          element.writeByte(TAG_STRING)
          element.writeBytes(column.bytes, column.starts[i]!, column.ends[i]!)
        } else encodeKey(isBoolean[k] ? column.values[i] === 1 : column.values[i], element)
        arena.reserve(4)
        arena.length = arena.bytes.writeUInt32BE(element.length, arena.length)
        arena.writeBytes(element.bytes, 0, element.length)
      }
      builder.end(i, start)
    }
    return builder.finish(batch.length)
  }
}

/** Extractor for `keyOf(i)`, called once for each row in order. */
export function valueKeyExtractor(keyOf: (batch: Batch, i: number) => unknown): KeyExtractor {
  const builder = new KeyColumnBuilder()
  return (batch) => {
    const arena = builder.begin(batch.length)
    for (let i = 0; i < batch.length; i++) {
      const start = arena.length
      encodeKey(keyOf(batch, i), arena)
      builder.end(i, start)
    }
    return builder.finish(batch.length)
  }
}
