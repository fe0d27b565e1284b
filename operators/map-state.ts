/**
 * Map state: an entry of the state store for each map key, so that a change costs one entry however large the
 * map is.
 *
 * Made by user-state.ts. Over a table of composite keys (core/composite-keys.ts). Puts and removals read nothing;
 * a get of what is not in memory reads the store at once, which is counted. Clearing a map takes as long as what memory
 * has of it. Invariant: iteration holds a bounded
 * number of entries at a time.
 */
import type { MapState } from '../engine/contract/functions.ts'
import type { KeyedState, SegmentChunk, StateTable } from '../engine/contract/keyed-state.ts'
import { CompositeKeys, entryStart } from '../engine/core/composite-keys.ts'
import { decodeKey, type Key } from '../engine/core/keys.ts'
import type { CurrentKey } from './current-key.ts'
import { type Stamped, type TtlPolicy, usedValue } from './state-ttl.ts'

/** Entries read at a time. Few, because those at hand are looked up again when the map changes meanwhile. */
const CHUNK_ENTRIES = 32

type EntryView<R> = (chunk: SegmentChunk, i: number, value: unknown) => R

const GONE = Symbol('gone')

export class KeyedMap implements MapState<Key, unknown> {
  private readonly table: StateTable
  private readonly current: CurrentKey
  private readonly ttl: TtlPolicy | null
  private readonly composed: CompositeKeys
  private readonly slots = new Int32Array(CHUNK_ENTRIES)
  private readonly rows = new Int32Array(1)
  private version = -1
  /** Counts changes, so that an iteration notices them. */
  private changes = 0

  private readonly refuse: (value: unknown) => void

  /** `refuse` throws for values that cannot be kept. */
  constructor(
    table: StateTable,
    keyed: KeyedState,
    current: CurrentKey,
    ttl: TtlPolicy | null,
    refuse: (value: unknown) => void,
  ) {
    this.refuse = refuse
    this.table = table
    this.current = current
    this.ttl = ttl
    this.composed = new CompositeKeys(keyed.keyGroups.total)
  }

  /** Composes the current key, and `entry` when there is one. */
  private compose(entry?: Key): CompositeKeys {
    const { composed, current } = this
    const keys = current.require()
    if (this.version === current.version) composed.restart()
    else {
      composed.begin(keys, current.rows[0])
      this.version = current.version
    }
    if (entry !== undefined) composed.add(entry)
    return composed
  }

  private find(key: Key): number {
    const { keys } = this.compose(key)
    this.table.segment(0).find(keys, null, 1, this.slots)
    return this.slots[0]
  }

  get(key: Key): unknown {
    return usedValue(this.table.segment(0), this.find(key), this.ttl)
  }

  put(key: Key, value: unknown): void {
    this.refuse(value)
    this.changes++
    const { keys } = this.compose(key)
    const segment = this.table.segment(0)
    segment.overwrite(keys, null, 1, this.slots)
    segment.objects[this.slots[0]] = this.ttl === null ? value : this.ttl.stamp(value)
  }

  putAll(entries: Iterable<readonly [Key, unknown]>): void {
    for (const [key, value] of entries) this.put(key, value)
  }

  remove(key: Key): void {
    this.changes++
    const { keys } = this.compose(key)
    const segment = this.table.segment(0)
    segment.overwrite(keys, null, 1, this.slots)
    segment.remove(this.slots[0])
  }

  contains(key: Key): boolean {
    return this.get(key) !== undefined
  }

  isEmpty(): boolean {
    for (const _ of this.read(1, this.current.version, () => true)) return false
    return true
  }

  keys(): Iterable<Key> {
    return this.reading(keyAt)
  }

  values(): Iterable<unknown> {
    return this.reading((_, __, value) => value)
  }

  entries(): Iterable<[Key, unknown]> {
    return this.reading((chunk, i, value) => [keyAt(chunk, i), value])
  }

  clear(): void {
    this.changes++
    const { prefix, ownerHash } = this.compose()
    this.table.segment(0).removeKey(prefix, ownerHash)
  }

  private *chunks(entries: number): Generator<SegmentChunk> {
    const { current } = this
    const { prefix, ownerHash } = this.compose()
    const { version } = current
    const scan = this.table.segment(0).scanKey(prefix, ownerHash)
    current.opened(scan)
    try {
      for (let chunk = scan.next(entries); chunk !== null; chunk = scan.next(entries)) {
        yield chunk
        current.requireSame(version)
      }
    } finally {
      current.closed(scan)
    }
  }

  private reading<R>(of: EntryView<R>): Iterable<R> {
    const { version } = this.current
    return { [Symbol.iterator]: () => this.read(CHUNK_ENTRIES, version, of) }
  }

  private *read<R>(entries: number, version: number, of: EntryView<R>): Generator<R> {
    this.current.requireSame(version)
    for (const chunk of this.chunks(entries)) {
      let objects = chunk.objects
      let { changes } = this
      for (let i = 0; i < chunk.count; i++) {
        if (changes !== this.changes) {
          objects = this.readAgain(chunk)
          changes = this.changes
        }
        const seen = this.see(chunk, i, objects[i])
        if (seen === GONE) continue
        yield of(chunk, i, seen)
        this.current.requireSame(version)
      }
    }
  }

  /** The values of a chunk as they are now; GONE where there is none any more. */
  private readAgain(chunk: SegmentChunk): unknown[] {
    const segment = this.table.segment(0)
    segment.find(chunk.keys, null, chunk.count, this.slots)
    return Array.from({ length: chunk.count }, (_, i) => {
      const slot = this.slots[i]
      return slot < 0 ? GONE : segment.objects[slot]
    })
  }

  /** What the user may see of an entry, or GONE. */
  private see(chunk: SegmentChunk, i: number, value: unknown): unknown {
    const { ttl } = this
    if (ttl === null || value === GONE) return value
    const stamped = value as Stamped
    if (ttl.hasExpired(stamped.atMs)) return ttl.returnExpired ? stamped.value : GONE
    if (ttl.updateOnRead) {
      this.rows[0] = i
      const segment = this.table.segment(0)
      segment.overwrite(chunk.keys, this.rows, 1, this.slots)
      segment.objects[this.slots[0]] = ttl.stamp(stamped.value)
    }
    return stamped.value
  }
}

function keyAt({ keys }: SegmentChunk, i: number): Key {
  return decodeKey(keys.bytes, entryStart(keys.bytes, keys.starts[i]), keys.ends[i])
}
