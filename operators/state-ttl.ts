/**
 * Time to live: a stamp beside each value, in memory and in its encoding, and what it means.
 *
 * Used by the state handles (user-state.ts, map-state.ts, list-state.ts). Flink's rules: what was last used
 * `timeToLiveMs` ago or longer has expired; a look-up that meets it clears it, and shows it once more only with
 * `ReturnExpiredIfNotCleanedUp`. The store drops the rest by `TableDeclaration.isExpired`.
 */
import type { StateTtl } from '../engine/contract/functions.ts'
import type { StateSegment, ValueCodec } from '../engine/contract/keyed-state.ts'

/** A value with the processing time at which it was last used. */
export class Stamped {
  value: unknown
  atMs: number

  constructor(value: unknown, atMs: number) {
    this.value = value
    this.atMs = atMs
  }
}

/** The rules of one state. */
export class TtlPolicy {
  readonly updateOnRead: boolean
  readonly returnExpired: boolean
  private readonly timeToLiveMs: number
  readonly nowMs: () => number

  constructor(ttl: StateTtl, nowMs: () => number) {
    this.timeToLiveMs = ttl.timeToLiveMs
    this.updateOnRead = ttl.updateType === 'OnReadAndWrite'
    this.returnExpired = ttl.stateVisibility === 'ReturnExpiredIfNotCleanedUp'
    this.nowMs = nowMs
  }

  hasExpired(atMs: number): boolean {
    return atMs + this.timeToLiveMs <= this.nowMs()
  }

  stamp(value: unknown): Stamped {
    return new Stamped(value, this.nowMs())
  }
}

/**
 * What a look-up finds in `slot` of a segment (-1: nothing) whose values are stamped where `ttl` is given: what has expired is
 * cleared, and the use is noted.
 */
export function usedValue(segment: StateSegment, slot: number, ttl: TtlPolicy | null): unknown {
  if (slot < 0) return undefined
  if (ttl === null) return segment.objects[slot]
  const stamped = segment.objects[slot] as Stamped
  if (ttl.hasExpired(stamped.atMs)) {
    segment.remove(slot)
    return ttl.returnExpired ? stamped.value : undefined
  }
  if (ttl.updateOnRead) {
    stamped.atMs = ttl.nowMs()
    segment.markDirty(slot)
  }
  return stamped.value
}

const STAMP_BYTES = 8

/** Stamp f64 LE, then the value. */
export function stampedCodec(values: ValueCodec): ValueCodec {
  let scratch = Buffer.alloc(256)
  return {
    description: `ttl ${values.description}`,
    ...(values.evolution === undefined ? {} : { evolution: values.evolution }),
    encode(stamped) {
      const { value, atMs } = stamped as Stamped
      const body = values.encode(value)
      const length = STAMP_BYTES + body.length
      if (length > scratch.length) scratch = Buffer.alloc(length * 2)
      scratch.writeDoubleLE(atMs, 0)
      scratch.set(body, STAMP_BYTES)
      return scratch.subarray(0, length)
    },
    decode(bytes, start, end) {
      const atMs = new DataView(bytes.buffer, bytes.byteOffset + start, STAMP_BYTES).getFloat64(0, true)
      return new Stamped(values.decode(bytes, start + STAMP_BYTES, end), atMs)
    },
  }
}
