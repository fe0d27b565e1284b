/**
 * The sink of the benchmarks: adds up what windows counted, so that a run can be checked to have every event in
 * exactly as many windows as it belongs to. Cheap: it touches two columns. What a changelog takes back is subtracted, so
 * that what is left is what its rows say in the end.
 */
import type { Sink } from '../engine/contract/sink.ts'
import type { Batch, Float64Column, Int64Column } from '../engine/core/batch.ts'
import { isRetraction, kindAt } from '../engine/core/row-kinds.ts'

/** Totals of what arrived. */
export interface Tally {
  rows: number
  events: number
  value: number
}

export interface TallySink extends Sink {
  /** Filled on the coordinator's thread at each checkpoint and at the end. */
  readonly tally: Tally
}

/** Counts rows of `{ events, value }`, in columns or as objects. */
export function tallySink(): TallySink {
  const tally: Tally = { rows: 0, events: 0, value: 0 }
  return {
    kind: 'tally',
    guarantee: 'at-least-once',
    changelogMode: 'upsert',
    tally,
    createWriter(context) {
      let own: Tally = { rows: 0, events: 0, value: 0 }
      return {
        async open() {},
        write(batch, from) {
          add(batch, from, own)
          return batch.length
        },
        async prepareCommit() {
          context.post(own)
          own = { rows: 0, events: 0, value: 0 }
          return null
        },
        async close() {},
      }
    },
    onMessage(message) {
      const part = message as Tally
      tally.rows += part.rows
      tally.events += part.events
      tally.value += part.value
    },
  }
}

function add(batch: Batch, from: number, into: Tally): void {
  into.rows += batch.length - from
  const [first] = batch.columns
  if (first!.kind === 'opaque') {
    const rows = first.values as readonly { events: number; value: number }[]
    for (let i = from; i < batch.length; i++) {
      into.events += rows[i]!.events
      into.value += rows[i]!.value
    }
    return
  }
  const names = batch.schema.fields.map((field) => field.name)
  const events = (batch.columns[names.indexOf('events')] as Float64Column | Int64Column).values
  const values = (batch.columns[names.indexOf('value')] as Float64Column).values
  if (events instanceof BigInt64Array) {
    for (let i = from; i < batch.length; i++) {
      const sign = isRetraction(kindAt(batch.kinds, i)) ? -1 : 1
      into.events += sign * Number(events[i])
      into.value += sign * values[i]!
    }
    return
  }
  for (let i = from; i < batch.length; i++) {
    into.events += events[i]!
    into.value += values[i]!
  }
}
