/**
 * Sliding windows: an answer every few minutes about a longer past, so that each element is in several windows.
 *
 * Reach for them for moving averages and alarms. An aggregate that promises `mergesInAnyOrder` is computed once for
 * each slice and shared by the windows that overlap.
 */
import { type AggregateFunction, job, minutes, SlidingEventTimeWindows, WatermarkStrategy } from 'millrace'

interface Request {
  readonly service: string
  readonly at: string
  readonly isError: boolean
}

const request = (time: string, isError = false): Request => ({ service: 'api', at: `2026-03-01T${time}Z`, isError })
const requests = [
  request('10:01:00'),
  request('10:03:00', true),
  request('10:07:00'),
  request('10:08:00', true),
  request('10:09:00', true),
]

/** The share of requests that failed. */
const errorRate: AggregateFunction<Request, { all: number; errors: number }, number> = {
  createAccumulator: () => ({ all: 0, errors: 0 }),
  add: ({ isError }, { all, errors }) => ({ all: all + 1, errors: errors + (isError ? 1 : 0) }),
  getResult: ({ all, errors }) => errors / all,
  merge: (a, b) => ({ all: a.all + b.all, errors: a.errors + b.errors }),
  mergesInAnyOrder: true,
}

export default job('error rate', (env) => {
  env
    .fromCollection(requests)
    .assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at'))
    .keyBy((request) => request.service)
    .window(SlidingEventTimeWindows.of(minutes(10), minutes(5)))
    .aggregate(errorRate, ({ key, window }, [rate], collect) => {
      collect({ service: key, until: new Date(window.end), errorRate: rate })
    })
    .print()
})

/* prints:
{"service":"api","until":"2026-03-01T10:05:00.000Z","errorRate":0.5}
{"service":"api","until":"2026-03-01T10:10:00.000Z","errorRate":0.6}
{"service":"api","until":"2026-03-01T10:15:00.000Z","errorRate":0.6666666666666666}
*/
