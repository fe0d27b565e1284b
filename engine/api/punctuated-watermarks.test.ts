/**
 * Generators that emit in `onEvent`: every watermark takes effect directly after its row, whatever batches the rows came
 * in. Whole jobs against a model that sees one row at a time.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  type DataStream,
  milliseconds,
  outputTag,
  RestartStrategies,
  StreamExecutionEnvironment,
  schema,
  TumblingEventTimeWindows,
  t,
  type WatermarkGenerator,
  WatermarkStrategy,
} from './index.ts'

/** `mark`: the watermark that comes with this row, or null. */
const ROWS = schema({ n: t.float64(), at: t.timestamp(), mark: t.nullable(t.timestamp()) })
interface Row {
  readonly n: number
  readonly at: number
  readonly mark: number | null
}

const onMark = (): WatermarkGenerator<Row> => ({
  onEvent(row, _time, output) {
    if (row.mark !== null) output.emitWatermark(row.mark)
  },
  onPeriodicEmit() {},
})
const strategy = WatermarkStrategy.forGenerator(onMark).withTimestampAssigner('at')

const rowsOf = fc
  .array(
    fc.record({
      at: fc.integer({ min: 0, max: 60 }),
      mark: fc.option(fc.integer({ min: 0, max: 60 }), { freq: 2 }),
    }),
    { minLength: 1, maxLength: 40 },
  )
  .map((rows) => rows.map((row, n): Row => ({ n, ...row })))

/** The watermark that each row meets: the greatest of those before it. */
function watermarksBefore(rows: readonly Row[]): number[] {
  let watermark = Number.NEGATIVE_INFINITY
  return rows.map(({ mark }) => {
    const before = watermark
    if (mark !== null && mark > watermark) watermark = mark
    return before
  })
}

const WHERE: Readonly<Record<string, (rows: DataStream<Row>) => DataStream<Row>>> = {
  'in the source': (rows) => rows.assignTimestampsAndWatermarks(strategy),
  'in the midst of a chain': (rows) =>
    rows
      .flatMap((row) => [row], { schema: ROWS })
      .assignTimestampsAndWatermarks(strategy)
      .filter(() => true),
  'first in a task': (rows) =>
    rows
      .map((row) => row, { schema: ROWS })
      .assignTimestampsAndWatermarks(strategy)
      .startNewChain(),
}

const streamOf = (rows: readonly Row[], batchRows: number): DataStream<Row> =>
  StreamExecutionEnvironment.createEnvironment()
    .setParallelism(1)
    .setStateBackend('memory')
    .fromCollection(rows, { schema: ROWS, batchRows })

describe('a watermark that comes with a row takes effect directly after it', () => {
  for (const [where, assigned] of Object.entries(WHERE)) {
    test(where, () =>
      fc.assert(
        fc.asyncProperty(rowsOf, fc.constantFrom(1, 3, 2_048), async (rows, batchRows) => {
          const seen = await assigned(streamOf(rows, batchRows))
            .process<number>({
              processElement(_row, { timerService }, collect) {
                collect(timerService.currentWatermark())
              },
            })
            .executeAndCollect()
          assert.deepEqual(seen, watermarksBefore(rows))
        }),
        { numRuns: 5 },
      ),
    )
  }

  test('so that windows fire between the rows of a batch, and what is late is late', () =>
    fc.assert(
      fc.asyncProperty(rowsOf, fc.constantFrom(1, 2_048), async (rows, batchRows) => {
        const late = outputTag<Row>('late')
        const counted = WHERE['in the source']!(streamOf(rows, batchRows))
          .keyBy(() => 'all')
          .window(TumblingEventTimeWindows.of(milliseconds(10)))
          .sideOutputLateData(late)
          .process<string>(({ window }, elements, collect) => collect(`${window.start} ${[...elements].length}`))
        const fired = counted.map((text) => text)
        const tooLate = counted.getSideOutput(late).map((row) => `late ${row.n}`)
        assert.deepEqual((await fired.union(tooLate).executeAndCollect()).sort(), windowModel(rows).sort())
      }),
      { numRuns: 5 },
    ))

  test('and no checkpoint is cut between the parts of a batch', async () => {
    const rows = Array.from({ length: 12_000 }, (_, n): Row => ({ n, at: n, mark: n }))
    let hasFailed = false
    const env = StreamExecutionEnvironment.createEnvironment()
      .setParallelism(1)
      .setStateBackend('memory')
      .enableCheckpointing(1)
      .setRestartStrategy(RestartStrategies.fixedDelayRestart(1, 0))
    const sums = env
      .fromCollection(rows, { schema: ROWS, batchRows: 100 })
      .assignTimestampsAndWatermarks(strategy)
      .map((row) => {
        if (row.n === 11_000 && !hasFailed) {
          hasFailed = true
          throw new Error('planned')
        }
        return row.n
      })
      .keyBy(() => 'all')
      .reduce((a, b) => a + b)
    const seen: number[] = []
    sums.addSink((sum) => void seen.push(sum))
    const { checkpoints: completed, restarts } = await env.execute('sum')
    assert.ok(restarts === 1 && completed > 1, `${completed} checkpoints`)
    assert.equal(seen.at(-1), (11_999 * 12_000) / 2)
  })

  test('and generators that only emit periodically cut no batch', async () => {
    const periodic: WatermarkGenerator<Row> = {
      onEvent() {},
      onPeriodicEmit: (output) => output.emitWatermark(7),
    }
    const byBatch = WatermarkStrategy.forGenerator(() => periodic).withTimestampAssigner('at')
    const rows = Array.from({ length: 100 }, (_, n): Row => ({ n, at: n, mark: null }))
    const seen = await streamOf(rows, 50)
      .assignTimestampsAndWatermarks(byBatch)
      .process<number>({
        processElement: (_row, { timerService }, collect) => collect(timerService.currentWatermark()),
      })
      .executeAndCollect()
    assert.equal(new Set(seen.slice(0, 50)).size, 1)
  })
})

function windowModel(rows: readonly Row[]): string[] {
  const before = watermarksBefore(rows)
  const counts = new Map<number, number>()
  const results: string[] = []
  rows.forEach(({ n, at }, i) => {
    const start = Math.floor(at / 10) * 10
    if (start + 9 <= before[i]!) results.push(`late ${n}`)
    else counts.set(start, (counts.get(start) ?? 0) + 1)
  })
  for (const [start, count] of counts) results.push(`${start} ${count}`)
  return results
}
