/**
 * Event time, watermarks and tumbling windows: results go by when things happened, not by when they arrived.
 *
 * The watermark stays behind the latest event time by the bound given here, so records may come out of order by that
 * much. Built-in aggregates (`count`, `avg`, ...) run over columns, which is why the stream declares a schema.
 */
import {
  avg,
  count,
  job,
  max,
  minutes,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from 'millrace'

const reading = schema({ sensor: t.string(), at: t.timestamp(), celsius: t.float64() })
const at = (time: string): number => Date.parse(`2026-03-01T${time}Z`)
const clock = (ms: number): string => new Date(ms).toISOString().slice(11, 16)

const readings = [
  { sensor: 'oven', at: at('09:00:10'), celsius: 180 },
  { sensor: 'oven', at: at('09:03:00'), celsius: 190 },
  { sensor: 'fridge', at: at('09:01:00'), celsius: 5 },
  { sensor: 'oven', at: at('09:05:00'), celsius: 200 },
  // Ten seconds behind the one before, and still in the first window.
  { sensor: 'fridge', at: at('09:04:50'), celsius: 7 },
]

export default job('temperatures', (env) => {
  env
    .fromCollection(readings, { schema: reading })
    .assignTimestampsAndWatermarks(WatermarkStrategy.forBoundedOutOfOrderness(seconds(30)).withTimestampAssigner('at'))
    .keyBy('sensor')
    .window(TumblingEventTimeWindows.of(minutes(5)))
    .aggregate({ readings: count(), mean: avg('celsius'), highest: max('celsius') })
    .map((w) => `${clock(w.windowStart)} ${w.key}: ${w.readings} readings, mean ${w.mean}, highest ${w.highest}`)
    .print()
})

/* prints:
09:00 oven: 2 readings, mean 185, highest 190
09:00 fridge: 2 readings, mean 6, highest 7
09:05 oven: 1 readings, mean 200, highest 200
*/
