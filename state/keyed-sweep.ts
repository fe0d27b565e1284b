/**
 * Removes what is past its time to live, a little at a time, whether or not anybody looks it up.
 *
 * Made by keyed-backend.ts for each table that says what has expired; driven once a turn of work. A round visits
 * the slots of every segment and then, where the store may hold more than memory, the store's rows; the next
 * round follows at once. Invariants:
 * - A step looks at no more than `SLOTS_STEP` slots or one chunk of the store.
 * - Nothing is written to the store here: expired rows become tombstones, which the next capture carries.
 */
import type { ScanChunk } from '../engine/contract/keyed-store.ts'
import { keyPrefix, PREFIX_BYTES, prefixEnd, setKeyGroup } from './keyed-layout.ts'
import type { Segment } from './keyed-segment.ts'
import type { Table } from './keyed-table.ts'

const SLOTS_STEP = 256
const STORE_CHUNK_BYTES = 16 << 10
/** Opening a scan of the store costs as much as many slots, so only every so many steps do it. */
const STEPS_PER_STORE_CHUNK = 16

export class Sweeper {
  private readonly table: Table
  /** Namespaces that this round has not finished, the one at hand last. */
  private waiting: number[] = []
  /** Slot to look at next; -1 when the store's rows are being looked at. */
  private slot = 0
  private keyGroup = 0
  /** Where the key group's rows go on; null at its beginning. */
  private from: Uint8Array | null = null
  private steps = 0

  constructor(table: Table) {
    this.table = table
  }

  step(): void {
    const namespace = this.waiting.at(-1)
    const segment = namespace === undefined ? undefined : this.table.segments.get(namespace)
    if (segment === undefined) {
      this.waiting.pop()
      if (this.waiting.length === 0) this.waiting = this.table.namespaces()
      this.begin()
    } else if (this.slot >= 0) this.sweepSlots(segment)
    else if (++this.steps % STEPS_PER_STORE_CHUNK === 0) this.sweepStore(segment)
  }

  private begin(): void {
    this.slot = 0
    this.keyGroup = this.table.shared.keyGroups.from
    this.from = null
  }

  private sweepSlots(segment: Segment): void {
    this.slot = segment.sweep(this.slot, SLOTS_STEP)
    if (this.slot < segment.slotCount) return
    if (segment.complete) this.finish()
    else this.slot = -1
  }

  private finish(): void {
    this.waiting.pop()
    this.begin()
  }

  private sweepStore(segment: Segment): void {
    const { operatorId, stateId, keyGroups, store } = this.table.shared
    if (this.keyGroup >= keyGroups.to) {
      this.finish()
      return
    }
    const prefix = keyPrefix(operatorId, stateId, segment.namespace)
    setKeyGroup(prefix, this.keyGroup)
    const scan = store.scan(this.from ?? prefix, prefixEnd(prefix))
    const chunk = scan.next(STORE_CHUNK_BYTES)
    if (chunk === null) {
      this.keyGroup++
      this.from = null
    } else {
      const { keys } = chunk
      // The first key after the last one of this chunk.
      this.from = new Uint8Array(keys.offsets[keys.count] - keys.offsets[keys.count - 1] + 1)
      this.from.set(keys.bytes.subarray(keys.offsets[keys.count - 1], keys.offsets[keys.count]))
      this.buryExpired(segment, chunk)
    }
    scan.close()
  }

  private buryExpired(segment: Segment, { keys, values }: ScanChunk): void {
    const { layout, isExpired } = segment.shared
    if (layout.kind !== 'object' || isExpired === null) return
    for (let row = 0; row < keys.count; row++) {
      const start = keys.offsets[row] + PREFIX_BYTES
      const end = keys.offsets[row + 1]
      const hash = segment.hashOf(keys.bytes, start, end)
      if (segment.holds(hash, keys.bytes, start, end) || segment.isCleared(keys.bytes, start)) continue
      const value = layout.codec.decode(values.bytes, values.offsets[row], values.offsets[row + 1])
      if (isExpired(value)) segment.bury(hash, keys.bytes, start, end)
    }
  }
}
