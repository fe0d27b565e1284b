/**
 * Broadcast state: maps that every subtask has a copy of, as operator state.
 *
 * Used by broadcast-process.ts. All copies are alike, because only broadcast elements change them and every subtask
 * sees all of those; so the first subtask alone puts its copy into the snapshot, and after a restore every subtask, of
 * any parallelism, begins with it. Keys are compared by value, as everywhere.
 */
import type { MapStateDescriptor } from '../engine/contract/functions.ts'
import type { BroadcastState } from '../engine/contract/joint-functions.ts'
import type { ValueCodec } from '../engine/contract/keyed-state.ts'
import type { OperatorContext } from '../engine/contract/operator.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { decodeKey, encodeKey, type Key } from '../engine/core/keys.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { asyncFunctionError, isPromise } from './user-function.ts'
import type { CodecFactory } from './user-state.ts'

export type BroadcastDescriptor = MapStateDescriptor<Key, unknown>

/** One map in a snapshot. */
interface StoredMap {
  readonly version: number
  readonly layout: string
  /** For each entry u32 LE length and encoded key, u32 LE length and encoded value; in base64. */
  readonly entries: string
}

type Entry = [Key, unknown]

class BroadcastMap implements BroadcastState<Key, unknown> {
  readonly descriptor: BroadcastDescriptor
  private readonly codec: ValueCodec
  private readonly refuse: (value: unknown) => void
  /** By the key itself; arrays by their encoding, in the second. */
  private readonly plain = new Map<Key, Entry>()
  private readonly composite = new Map<string, Entry>()
  private readonly scratch = new ByteArena(64)
  /** What the map is in a snapshot, until it changes: large maps that change rarely cost a checkpoint nothing. */
  private stored: StoredMap | null = null

  constructor(descriptor: BroadcastDescriptor, codec: ValueCodec, refuse: (value: unknown) => void) {
    this.descriptor = descriptor
    this.codec = codec
    this.refuse = refuse
  }

  private encoded(key: Key): string {
    this.scratch.clear()
    encodeKey(key, this.scratch)
    return Buffer.from(this.scratch.view()).toString('latin1')
  }

  private find(key: Key): Entry | undefined {
    return typeof key === 'object' && key !== null ? this.composite.get(this.encoded(key)) : this.plain.get(key)
  }

  get(key: Key): unknown {
    return this.find(key)?.[1]
  }

  contains(key: Key): boolean {
    return this.find(key) !== undefined
  }

  isEmpty(): boolean {
    return this.plain.size + this.composite.size === 0
  }

  put(key: Key, value: unknown): void {
    this.refuse(value)
    this.stored = null
    // Refuses what cannot be a key before it is in the map.
    const encoded = this.encoded(key)
    if (typeof key === 'object' && key !== null) this.composite.set(encoded, [key, value])
    else this.plain.set(key, [key, value])
  }

  putAll(entries: Iterable<readonly [Key, unknown]>): void {
    for (const [key, value] of entries) this.put(key, value)
  }

  remove(key: Key): void {
    this.stored = null
    if (typeof key === 'object' && key !== null) this.composite.delete(this.encoded(key))
    else this.plain.delete(key)
  }

  clear(): void {
    this.stored = null
    this.plain.clear()
    this.composite.clear()
  }

  *entries(): Iterable<Entry> {
    for (const [key, value] of this.plain.values()) yield [key, value]
    for (const [key, value] of this.composite.values()) yield [key, value]
  }

  *keys(): Iterable<Key> {
    for (const [key] of this.entries()) yield key
  }

  *values(): Iterable<unknown> {
    for (const [, value] of this.entries()) yield value
  }

  snapshot(): StoredMap {
    this.stored ??= this.encodeAll()
    return this.stored
  }

  private encodeAll(): StoredMap {
    const arena = new ByteArena(1_024)
    const append = (bytes: Uint8Array): void => {
      arena.reserve(4)
      arena.length = arena.bytes.writeUInt32LE(bytes.length, arena.length)
      arena.writeBytes(bytes, 0, bytes.length)
    }
    for (const [key, value] of this.entries()) {
      this.scratch.clear()
      encodeKey(key, this.scratch)
      append(this.scratch.view())
      append(this.codec.encode(value))
    }
    const entries = Buffer.from(arena.view()).toString('base64')
    return { version: this.descriptor.version, layout: this.codec.description, entries }
  }

  restore(stored: StoredMap): void {
    const { version } = this.descriptor
    if (stored.version !== version || stored.layout !== this.codec.description) {
      throw new MillraceError(
        'STATE_INCOMPATIBLE',
        `Broadcast state ${JSON.stringify(this.descriptor.name)} was saved as version ${stored.version} ${stored.layout}, but is declared as version ${version} ${this.codec.description}.`,
        { hint: 'Keep the shape of the value, or give the changed state a new name.' },
      )
    }
    const bytes = Buffer.from(stored.entries, 'base64')
    for (let at = 0; at < bytes.length; ) {
      const valueAt = at + 4 + bytes.readUInt32LE(at)
      const end = valueAt + 4 + bytes.readUInt32LE(valueAt)
      this.put(decodeKey(bytes, at + 4, valueAt), this.codec.decode(bytes, valueAt + 4, end))
      at = end
    }
    this.stored = stored
  }
}

/** The broadcast states of one operator. */
export class BroadcastStates {
  private readonly maps = new Map<string, BroadcastMap>()
  private readonly descriptors: readonly BroadcastDescriptor[]
  private readonly codecOf: CodecFactory
  private context!: OperatorContext

  constructor(descriptors: readonly BroadcastDescriptor[], codecOf: CodecFactory) {
    this.descriptors = descriptors
    this.codecOf = codecOf
  }

  open(context: OperatorContext): void {
    this.context = context
    const stored = context.restored
      .map((state) => (state as { broadcast?: Record<string, StoredMap> } | null)?.broadcast)
      .find((maps) => maps !== undefined)
    const refuse = (value: unknown): void => {
      if (isPromise(value)) throw asyncFunctionError(context.name)
    }
    for (const descriptor of this.descriptors) {
      const { name } = descriptor
      const codec = this.codecOf(descriptor, {
        what: `Broadcast state ${JSON.stringify(name)}`,
        id: context.worker.uniqueId(name),
      })
      const map = new BroadcastMap(descriptor, codec, refuse)
      const before = stored?.[name]
      if (before !== undefined) map.restore(before)
      this.maps.set(name, map)
    }
  }

  /** Throws `BROADCAST_STATE_UNKNOWN`. */
  get({ name }: { readonly name: string }): BroadcastMap {
    const map = this.maps.get(name)
    if (map !== undefined) return map
    throw new MillraceError('BROADCAST_STATE_UNKNOWN', `There is no broadcast state ${JSON.stringify(name)}.`, {
      hint: 'Give its descriptor to broadcast(...) as well.',
    })
  }

  snapshot(): Readonly<Record<string, JsonValue>> {
    if (this.context.subtask !== 0) return {}
    return {
      broadcast: Object.fromEntries(
        [...this.maps].map(([name, map]) => [name, map.snapshot() as unknown as JsonValue]),
      ),
    }
  }
}
