/**
 * The job that is killed: numbers each key's events in keyed state into an exactly-once file sink, and sums
 * them in windows into an exactly-once Postgres sink.
 *
 * Settings through `--set`: `dir`, the directory of the log, the sinks and the fault file. Each process says
 * `first-record` on stderr once it processes again, and obeys one fault at a time from the fault file:
 * `throw` throws in the operator, `exit` ends the worker thread.
 */
import { readFileSync, unlinkSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import {
  count,
  job,
  type KeyedProcessFunction,
  milliseconds,
  RestartStrategies,
  schema,
  sum,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  WatermarkStrategy,
} from 'millrace'
import { filesSink } from 'millrace/connectors/files'
import { logSource } from 'millrace/connectors/log'
import { postgresSink } from 'millrace/connectors/postgres'
import { type ChaosEvent, DISORDER_MS, TOPIC, WINDOW_MS } from './events.ts'

const eventSchema = schema({ id: t.float64(), key: t.string(), at: t.timestamp(), amount: t.float64() })

/** The n-th event of its key. */
export interface NumberedEvent {
  readonly id: number
  readonly key: string
  readonly nth: number
}

export interface WindowSum {
  readonly key: string
  readonly window_start: number
  readonly events: number
  readonly amount: number
}

const FAULT_CHECK_EVERY_RECORDS = 64

/** Says once a process that records flow, and does what the fault file asks for. */
class Saboteur {
  private readonly file: string
  private seen = 0

  constructor(directory: string) {
    this.file = join(directory, 'fault')
  }

  onRecord(): void {
    if (this.seen++ === 0) writeSync(2, 'first-record\n')
    if (this.seen % FAULT_CHECK_EVERY_RECORDS !== 0) return
    const fault = this.take()
    if (fault === 'throw') throw new Error('a planted exception')
    if (fault === 'exit') process.exit(3)
  }

  /** The fault, taken by the subtask that removes the file. */
  private take(): string | null {
    try {
      const fault = readFileSync(this.file, 'utf8')
      unlinkSync(this.file)
      return fault
    } catch {
      return null
    }
  }
}

class NumberEvents implements KeyedProcessFunction<string, ChaosEvent, NumberedEvent> {
  private readonly directory: string
  private saboteur!: Saboteur
  private seen!: ValueState<number>

  constructor(directory: string) {
    this.directory = directory
  }

  open(context: Parameters<NonNullable<KeyedProcessFunction<string, ChaosEvent, NumberedEvent>['open']>>[0]): void {
    this.saboteur = new Saboteur(this.directory)
    this.seen = context.getState<number>({ kind: 'value', name: 'seen', version: 1 })
  }

  processElement(event: ChaosEvent, _context: unknown, collect: (row: NumberedEvent) => void): void {
    this.saboteur.onRecord()
    const nth = (this.seen.value() ?? 0) + 1
    this.seen.update(nth)
    collect({ id: event.id, key: event.key, nth })
  }
}

export default job('chaos', (env) => {
  const directory = env.config['dir'] ?? '.millrace/chaos'
  env.enableCheckpointing(Number(env.config['checkpoint-ms'] ?? 200))
  env.setRestartStrategy(RestartStrategies.fixedDelayRestart(Number.POSITIVE_INFINITY, milliseconds(100)))

  const events = env
    .fromSource(
      logSource({ directory: join(directory, 'log'), topic: TOPIC, schema: eventSchema, untilSealed: true }),
      WatermarkStrategy.forBoundedOutOfOrderness<ChaosEvent>(milliseconds(DISORDER_MS)).withTimestampAssigner('at'),
      'Events',
    )
    .uid('events')

  events
    .keyBy('key')
    .process(() => new NumberEvents(directory))
    .uid('number')
    .sinkTo(filesSink<NumberedEvent>({ path: join(directory, 'numbered') }))
    .uid('numbered')

  events
    .keyBy('key')
    .window(TumblingEventTimeWindows.of(milliseconds(WINDOW_MS)))
    .aggregate({ events: count(), amount: sum('amount') })
    .uid('windows')
    .map(
      (row): WindowSum => ({
        key: row.key,
        window_start: row.windowStart,
        events: Number(row.events),
        amount: row.amount,
      }),
    )
    .uid('window-rows')
    .sinkTo(
      postgresSink<WindowSum>({
        table: 'window_sums',
        // No primary key: a duplicate must be seen, not refused.
        columns: {
          key: 'text not null',
          window_start: 'double precision not null',
          events: 'integer not null',
          amount: 'double precision not null',
        },
        connection: { kind: 'pglite', directory: join(directory, 'store') },
      }),
    )
    .uid('window-sums')
})
