/** Aggregates of fields with NaN: the same whatever the order of elements, rolling and in windows. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { schema, t } from '../core/schema.ts'
import { max, min } from './aggregates.ts'
import { StreamExecutionEnvironment } from './environment.ts'
import { WatermarkStrategy } from './watermark-strategy.ts'
import { SlidingEventTimeWindows, TumblingEventTimeWindows } from './window-assigners.ts'

const ORDERS = [
  [Number.NaN, 1, 2],
  [2, 1, Number.NaN],
]
const reading = schema({ sensor: t.string(), at: t.timestamp(), value: t.float64() })
const strategy = WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at')

function readings(values: readonly number[]) {
  const rows = values.map((value, at) => ({ sensor: 'a', at, value }))
  const env = StreamExecutionEnvironment.createEnvironment()
  return env.fromCollection(rows, { schema: reading }).assignTimestampsAndWatermarks(strategy).keyBy('sensor')
}

test('NaN is greater than every number, wherever it comes', async () => {
  for (const values of ORDERS) {
    const last = async (kind: 'min' | 'max' | 'minBy' | 'maxBy') =>
      (await readings(values)[kind]('value').executeAndCollect()).at(-1)!.value
    assert.deepEqual(
      [await last('min'), await last('max'), await last('minBy'), await last('maxBy')],
      [1, Number.NaN, 1, Number.NaN],
      String(values),
    )
    for (const windows of [TumblingEventTimeWindows.of(50), SlidingEventTimeWindows.of(50, 10)]) {
      const stream = readings(values)
        .window(windows)
        .aggregate({ least: min('value'), greatest: max('value') })
      for (const { least, greatest } of await stream.executeAndCollect()) {
        assert.deepEqual([least, greatest], [1, Number.NaN], `${windows} of ${values}`)
      }
    }
  }
  const only = await readings([Number.NaN])
    .window(TumblingEventTimeWindows.of(5))
    .aggregate({ least: min('value') })
  assert.deepEqual((await only.executeAndCollect())[0]!.least, Number.NaN)
})
