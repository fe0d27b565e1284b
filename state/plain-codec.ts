/**
 * Bytes for plain data of any shape: the same value always gives the same bytes.
 *
 * Called by value-codec.ts for values without a declared shape. node:v8's serialisation writes one number in
 * different bytes, by how the engine happens to hold it, so equal states had different content hashes. What is
 * not plain (typed arrays, errors, regular expressions, an object reached twice, arrays with holes or
 * names of their own) is left to node:v8, which keeps it as it is.
 *
 * A value is a tag byte and a body; lengths and counts are u32 LE, text is UTF-8.
 *
 * Invariants:
 * - `decodePlain(encodePlain(v))` equals v; nothing is dropped.
 * - The bytes depend on the value only.
 */
import { assert } from '../engine/core/assert.ts'
import type { ByteArena } from '../engine/core/strings.ts'

const Tag = {
  undefined: 0,
  null: 1,
  false: 2,
  true: 3,
  int32: 4,
  double: 5,
  bigint: 6,
  text: 7,
  /** Text with lone surrogates, as UTF-16. */
  rawText: 8,
  date: 9,
  array: 10,
  object: 11,
  map: 12,
  set: 13,
} as const

const DEPTH_MAX = 64
/** Up to this many objects a list is searched faster than a set. */
const LIST_MAX = 16

/** Writes values into one arena, one after the other. */
export class PlainEncoder {
  private readonly arena: ByteArena
  /** Objects of the value under way, to notice one that is reached twice. */
  private readonly list: object[] = []
  private readonly set = new Set<object>()

  constructor(arena: ByteArena) {
    this.arena = arena
  }

  /** Appends a value; false when it is not plain: what was written of it then means nothing. */
  encode(value: unknown): boolean {
    this.list.length = 0
    this.set.clear()
    return this.write(value, 0)
  }

  private write(value: unknown, depth: number): boolean {
    switch (typeof value) {
      case 'number':
        this.writeNumber(value)
        return true
      case 'string':
        this.writeText(value)
        return true
      case 'boolean':
        this.arena.writeByte(value ? Tag.true : Tag.false)
        return true
      case 'undefined':
        this.arena.writeByte(Tag.undefined)
        return true
      case 'bigint':
        this.arena.writeByte(Tag.bigint)
        this.writeText(String(value))
        return true
      case 'object':
        if (value === null) {
          this.arena.writeByte(Tag.null)
          return true
        }
        return depth < DEPTH_MAX && this.isNew(value) && this.writeObject(value, depth + 1)
      default:
        return false
    }
  }

  private isNew(value: object): boolean {
    if (this.list.length < LIST_MAX) {
      if (this.list.includes(value)) return false
      this.list.push(value)
      return true
    }
    if (this.list.includes(value) || this.set.has(value)) return false
    this.set.add(value)
    return true
  }

  private writeNumber(value: number): void {
    const { arena } = this
    arena.reserve(9)
    if ((value | 0) === value && !Object.is(value, -0)) {
      arena.bytes[arena.length] = Tag.int32
      arena.length = arena.bytes.writeInt32LE(value, arena.length + 1)
      return
    }
    arena.bytes[arena.length] = Tag.double
    arena.length = arena.bytes.writeDoubleLE(value, arena.length + 1)
  }

  private writeText(value: string): void {
    const { arena } = this
    const isWell = value.isWellFormed()
    arena.writeByte(isWell ? Tag.text : Tag.rawText)
    arena.reserve(4 + value.length * 3)
    const at = arena.length
    const count = isWell ? arena.bytes.utf8Write(value, at + 4) : arena.bytes.write(value, at + 4, 'utf16le')
    arena.bytes.writeUInt32LE(count, at)
    arena.length = at + 4 + count
  }

  private writeCount(tag: number, count: number): void {
    const { arena } = this
    arena.reserve(5)
    arena.bytes[arena.length] = tag
    arena.length = arena.bytes.writeUInt32LE(count, arena.length + 1)
  }

  private writeObject(value: object, depth: number): boolean {
    if (Array.isArray(value)) return this.writeArray(value, depth)
    if (value instanceof Map) return this.writeMap(value, depth)
    if (value instanceof Set) {
      this.writeCount(Tag.set, value.size)
      for (const element of value) if (!this.write(element, depth)) return false
      return Object.keys(value).length === 0
    }
    if (value instanceof Date) {
      this.arena.writeByte(Tag.date)
      this.writeNumber(value.getTime())
      return Object.keys(value).length === 0
    }
    // Objects with data that their own properties do not show have another class than Object.
    if (Object.prototype.toString.call(value) !== '[object Object]') return false
    const names = Object.keys(value)
    this.writeCount(Tag.object, names.length)
    for (const name of names) {
      this.writeText(name)
      if (!this.write((value as Record<string, unknown>)[name], depth)) return false
    }
    return true
  }

  private writeArray(value: readonly unknown[], depth: number): boolean {
    // Fewer names are holes, more are properties.
    if (Object.keys(value).length !== value.length) return false
    this.writeCount(Tag.array, value.length)
    for (const element of value) if (!this.write(element, depth)) return false
    return true
  }

  private writeMap(value: ReadonlyMap<unknown, unknown>, depth: number): boolean {
    this.writeCount(Tag.map, value.size)
    for (const [key, element] of value) if (!this.write(key, depth) || !this.write(element, depth)) return false
    return Object.keys(value).length === 0
  }
}

/** The value that stands in bytes[start, end). */
export function decodePlain(bytes: Uint8Array, start: number, end: number): unknown {
  const reader = new PlainReader(bytes, start)
  const value = reader.read()
  assert(reader.at === end, 'a value fills its record')
  return value
}

class PlainReader {
  at: number
  private readonly bytes: Buffer

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength)
    this.at = at
  }

  read(): unknown {
    const tag = this.bytes[this.at++]
    switch (tag) {
      case Tag.undefined:
        return undefined
      case Tag.null:
        return null
      case Tag.false:
        return false
      case Tag.true:
        return true
      case Tag.int32:
        this.at += 4
        return this.bytes.readInt32LE(this.at - 4)
      case Tag.double:
        this.at += 8
        return this.bytes.readDoubleLE(this.at - 8)
      case Tag.bigint:
        return BigInt(this.read() as string)
      case Tag.text:
      case Tag.rawText: {
        const length = this.count()
        const from = this.at
        this.at += length
        return tag === Tag.text ? this.bytes.utf8Slice(from, this.at) : this.bytes.toString('utf16le', from, this.at)
      }
      case Tag.date:
        return new Date(this.read() as number)
      default:
        return this.readCollection(tag)
    }
  }

  private readCollection(tag: number | undefined): unknown {
    const count = this.count()
    switch (tag) {
      case Tag.array: {
        const array: unknown[] = []
        for (let i = 0; i < count; i++) array.push(this.read())
        return array
      }
      case Tag.object: {
        const object: Record<string, unknown> = {}
        for (let i = 0; i < count; i++) {
          const name = this.read() as string
          if (name === '__proto__') {
            const data = { value: this.read(), enumerable: true, writable: true, configurable: true }
            Object.defineProperty(object, name, data)
          } else object[name] = this.read()
        }
        return object
      }
      case Tag.map: {
        const map = new Map<unknown, unknown>()
        for (let i = 0; i < count; i++) map.set(this.read(), this.read())
        return map
      }
      case Tag.set: {
        const set = new Set<unknown>()
        for (let i = 0; i < count; i++) set.add(this.read())
        return set
      }
    }
    throw new Error(`Tag ${tag} is none of plain data.`)
  }

  private count(): number {
    this.at += 4
    return this.bytes.readUInt32LE(this.at - 4)
  }
}
