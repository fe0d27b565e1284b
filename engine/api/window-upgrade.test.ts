/**
 * Open windows over versions of a job: what they hold is shown, accumulators of sessions and of windows with triggers are
 * migrated, and what cannot be is refused before the first record.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import {
  type AggregateFunction,
  CountTrigger,
  count,
  type DataStream,
  EventTimeSessionWindows,
  max,
  StreamExecutionEnvironment,
  schema,
  seconds,
  sum,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from './index.ts'
import { bootstrapWith, SavepointReader, SavepointWriter } from './state.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-windows-'))
after(() => rmSync(folder, { recursive: true, force: true }))

interface Row {
  readonly key: string
  readonly at: number
  readonly n: number
}
const rows: readonly Row[] = [
  { key: 'a', at: 1_000, n: 1 },
  { key: 'a', at: 2_000, n: 2 },
  { key: 'b', at: 9_000, n: 5 },
]
const byAt = WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner((row) => row.at)

const first: AggregateFunction<Row, { sum: number }, string> = {
  createAccumulator: () => ({ sum: 0 }),
  add: (row, acc) => ({ sum: acc.sum + row.n }),
  getResult: ({ sum }) => `${sum}`,
  merge: (a, b) => ({ sum: a.sum + b.sum }),
}
const second: AggregateFunction<Row, { total: number; count: number }, string> = {
  version: 2,
  migrations: { 2: { rename: { sum: 'total' } } },
  createAccumulator: () => ({ total: 0, count: 100 }),
  add: (row, acc) => ({ total: acc.total + row.n, count: acc.count + 1 }),
  getResult: ({ total, count }) => `${total} of ${count}`,
  merge: (a, b) => ({ total: a.total + b.total, count: a.count + b.count }),
}

function sessions(stream: DataStream<Row>, aggregate: AggregateFunction<Row, never, string>) {
  return stream
    .keyBy('key')
    .window(EventTimeSessionWindows.withGap(seconds(5)))
    .trigger(CountTrigger.of(3))
    .aggregate(aggregate)
}
const anyOf = (fn: object) => fn as AggregateFunction<Row, never, string>

async function goOn(path: string, aggregate: object, name: string): Promise<string[]> {
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend('memory')
  const more = env.fromCollection<Row>([{ key: 'a', at: 3_000, n: 10 }]).assignTimestampsAndWatermarks(byAt)
  const lines: string[] = []
  sessions(more, anyOf(aggregate))
    .uid('sessions')
    .addSink((line) => void lines.push(line))
  const args = ['--restore', path, '--checkpoint-dir', join(folder, name)]
  await (await env.executeAsync('go on', { args })).done
  return lines
}

test('the contents of windows with triggers are shown and migrated', async () => {
  const path = await SavepointWriter.newSavepoint({ stateBackend: 'memory' })
    .withOperator(
      'sessions',
      bootstrapWith((env) => sessions(env.fromCollection(rows).assignTimestampsAndWatermarks(byAt), anyOf(first))),
    )
    .write(join(folder, 'first'))
  await using savepoint = await SavepointReader.read(path)
  const shown: unknown[] = []
  for await (const { key, value } of savepoint.readKeyedState('sessions', '$windows')) shown.push([key, value])
  const windowOf = (start: number, end: number, sum: number, seen: number) => [
    {
      window: { start, end },
      contents: { sum },
      eventTimers: [end - 1],
      processingTimers: [],
      states: { [`${Object.keys((shown[0] as [string, { states: object }[]])[1][0]!.states)[0]}`]: seen },
    },
  ]
  assert.deepEqual(
    new Map(shown as [string, unknown][]),
    new Map([
      ['a', windowOf(1_000, 7_000, 3, 2)],
      ['b', windowOf(9_000, 14_000, 5, 1)],
    ]),
  )
  const open: unknown[] = []
  for await (const { key, value, windowStart } of savepoint.readWindowState('sessions'))
    open.push([key, windowStart, value])
  assert.deepEqual(open.sort(), [
    ['a', 1_000, { sum: 3 }],
    ['b', 9_000, { sum: 5 }],
  ])

  assert.deepEqual(await goOn(path, first, 'same'), ['13'])
  // The migrated accumulator has the template's count of 100.
  assert.deepEqual(await goOn(path, second, 'next'), ['13 of 101'])
  await assert.rejects(goOn(path, { ...second, version: 1, migrations: undefined }, 'same-version'), {
    message: /total: number was added.*sum: number was removed/,
  })
})

test('columns of built-in aggregates that came or went are named', async () => {
  const columns = schema({ key: t.string(), at: t.timestamp(), n: t.float64() })
  const windows = (
    env: StreamExecutionEnvironment,
    aggregates: { readonly [name: string]: ReturnType<typeof count> },
  ) =>
    env
      .fromCollection(rows, { schema: columns })
      .assignTimestampsAndWatermarks(byAt)
      .keyBy('key')
      .window(TumblingEventTimeWindows.of(seconds(60)))
      .aggregate(aggregates)
  const path = await SavepointWriter.newSavepoint({ stateBackend: 'memory' })
    .withOperator(
      'built-in',
      bootstrapWith((env) => windows(env, { rows: count(), all: sum('n') as never })),
    )
    .write(join(folder, 'columns'))
  const goOnWith = async (aggregates: object, name: string) => {
    const env = StreamExecutionEnvironment.createEnvironment().setStateBackend('memory')
    windows(env, aggregates as never)
      .uid('built-in')
      .addSink(() => {})
    const args = ['--restore', path, '--checkpoint-dir', join(folder, name)]
    await (await env.executeAsync('go on', { args })).done
  }
  await assert.rejects(goOnWith({ renamed: sum('n'), rows: count() }, 'other-order'), {
    message: /the same columns in another order/,
  })
  await assert.rejects(goOnWith({ rows: count(), all: sum('n'), most: max('n') }, 'added'), {
    code: 'STATE_INCOMPATIBLE',
    message: /keep max\(n\) now, of which the saved ones know nothing\./,
  })
  await assert.rejects(goOnWith({ rows: count() }, 'removed'), {
    message: /were saved with sum\(n\), which no aggregate asks for any more\./,
  })
})
