/**
 * The job of the recovery benchmark: one row of about a hundred bytes a key, filled once, then read and changed.
 * Settings: keys; fresh (rows after the filling, over keys that exist).
 *
 * A run that continues says on stdout when its first new record has gone through state:
 * `first-record <milliseconds since 1970>`, once a subtask.
 */
import { writeSync } from 'node:fs'
import { job, type KeyedProcessFunction, schema, t, type ValueState, ValueStateDescriptor } from 'millrace'
import type { Source } from '../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../engine/core/batch.ts'
import { BatchBuilder } from '../engine/core/rows.ts'

const ROW = schema({ key: t.string(), step: t.float64() })

/** A key's payload: text that does not compress, as ids and measurements do not. */
export function payloadOf(n: number): string {
  let text = ''
  for (let x = n + 1, i = 0; i < 10; i++) {
    x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d) ^ (i * 0x9e3779b9)
    text += (x >>> 0).toString(36).padStart(7, '0')
  }
  return text
}

/** Rows [0, keys + fresh), spread over as many splits as subtasks; row n is of key n modulo `keys`. */
function rowsSource(keys: number, fresh: number, splits: number): Source<{ key: string; step: number }> {
  const total = keys + fresh
  return {
    kind: 'recovery rows',
    schema: ROW,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: splits }, (_, i) => ({ id: String(i), position: i })),
    createReader() {
      const positions = new Map<string, number>()
      return {
        async open(assigned) {
          for (const split of assigned) positions.set(split.id, split.position as number)
        },
        poll(rowsMax) {
          for (const [split, position] of positions) {
            if (position >= total) continue
            const builder = new BatchBuilder(ROW)
            let n = position
            for (let i = 0; i < Math.min(rowsMax, BATCH_ROWS_MAX) && n < total; i++, n += splits) {
              builder.append({ key: `key-${n % keys}`, step: n < keys ? 0 : n - keys + 1 }, Number.NaN)
            }
            positions.set(split, n)
            return { kind: 'batch', split, batch: builder.build() }
          }
          return { kind: 'end' }
        },
        snapshot: () => [...positions].map(([id, position]) => ({ id, position })),
        async close() {},
      }
    },
  }
}

interface Kept {
  payload: string
  seen: number
}

class Keep implements KeyedProcessFunction<string, { key: string; step: number }, { key: string }> {
  private state!: ValueState<Kept>
  private hasSaid = false

  open(context: Parameters<NonNullable<KeyedProcessFunction<string, unknown, unknown>['open']>>[0]): void {
    const template = (): Kept => ({ payload: '', seen: 0 })
    this.state = context.getState(new ValueStateDescriptor<Kept>('kept', { template }))
  }

  processElement(row: { key: string; step: number }): void {
    const n = Number(row.key.slice(4))
    if (row.step === 0) {
      this.state.update({ payload: payloadOf(n), seen: 0 })
      return
    }
    const kept = this.state.value()
    if (kept?.payload !== payloadOf(n)) throw new Error(`the state of ${row.key} is not what was saved`)
    this.state.update({ payload: kept.payload, seen: kept.seen + 1 })
    if (this.hasSaid) return
    this.hasSaid = true
    writeSync(1, `first-record ${Date.now()}\n`)
  }
}

export default job('recovery', (env) => {
  const keys = Number(env.config['keys'] ?? 1_000)
  env
    .fromSource(rowsSource(keys, Number(env.config['fresh'] ?? 0), Number(env.config['splits'] ?? 1)))
    .uid('rows')
    .keyBy((row) => row.key)
    .process(new Keep())
    .uid('keep')
    .print()
    .uid('nothing')
})
