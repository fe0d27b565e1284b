/**
 * Late data: `allowedLateness` keeps a window that has fired and corrects its result; what comes later still goes to a
 * side output instead of being lost.
 *
 * Reach for it when devices are offline for a while: answer early, correct for some time, and count the rest apart.
 */
import { count, job, minutes, outputTag, schema, TumblingEventTimeWindows, t, WatermarkStrategy } from 'millrace'

const click = schema({ page: t.string(), at: t.timestamp() })
const at = (time: string): number => Date.parse(`2026-03-01T${time}Z`)

const clicks = [
  { page: 'home', at: at('12:00:10') },
  { page: 'home', at: at('12:00:50') },
  { page: 'home', at: at('12:01:20') }, // the window 12:00 fires: 2 clicks
  { page: 'home', at: at('12:00:30') }, // late, within the two minutes allowed: fires again, 3 clicks
  { page: 'home', at: at('12:04:00') }, // the window 12:00 is dropped
  { page: 'home', at: at('12:00:40') }, // too late
]
const tooLate = outputTag<(typeof clicks)[number]>('too late')

export default job('clicks', (env) => {
  const perMinute = env
    // The watermark follows after each row, so that this little input shows what a long one would.
    .fromCollection(clicks, { schema: click, batchRows: 1 })
    .assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at'))
    .keyBy('page')
    .window(TumblingEventTimeWindows.of(minutes(1)))
    .allowedLateness(minutes(2))
    .sideOutputLateData(tooLate)
    .aggregate({ clicks: count() })

  perMinute.map(({ windowStart, clicks }) => ({ minute: new Date(windowStart), clicks })).print()
  perMinute
    .getSideOutput(tooLate)
    .map(({ at }) => new Date(at))
    .print('too late')
})

/* prints:
{"minute":"2026-03-01T12:00:00.000Z","clicks":2}
{"minute":"2026-03-01T12:00:00.000Z","clicks":3}
{"minute":"2026-03-01T12:01:00.000Z","clicks":1}
too late> "2026-03-01T12:00:40.000Z"
{"minute":"2026-03-01T12:04:00.000Z","clicks":1}
*/
