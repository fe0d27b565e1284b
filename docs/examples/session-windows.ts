/**
 * Session windows: a window for each run of activity, ended by silence. An `AggregateFunction` keeps one small
 * accumulator a session, and a window function adds what only the window knows: key, start and end.
 *
 * Reach for sessions when the data itself says where a visit, a trip or a call ends.
 */
import { type AggregateFunction, EventTimeSessionWindows, job, minutes, WatermarkStrategy } from 'millrace'

const clicks = [
  { user: 'ada', page: '/', at: '2026-03-01T08:00:00Z' },
  { user: 'bob', page: '/help', at: '2026-03-01T08:05:00Z' },
  { user: 'ada', page: '/shoes', at: '2026-03-01T08:10:00Z' },
  { user: 'ada', page: '/cart', at: '2026-03-01T08:25:00Z' },
  { user: 'ada', page: '/', at: '2026-03-01T12:00:00Z' },
]
type Click = (typeof clicks)[number]

const pagesOf: AggregateFunction<Click, string[], string> = {
  createAccumulator: () => [],
  add: (click, pages) => [...pages, click.page],
  getResult: (pages) => pages.join(' '),
  merge: (a, b) => [...a, ...b],
}

export default job('visits', (env) => {
  env
    .fromCollection(clicks)
    .assignTimestampsAndWatermarks(WatermarkStrategy.forMonotonousTimestamps().withTimestampAssigner('at'))
    .keyBy((click) => click.user)
    .window(EventTimeSessionWindows.withGap(minutes(30)))
    .aggregate(pagesOf, ({ key, window }, [pages], collect) => {
      // The window ends a gap after the last click.
      collect({ user: key, minutes: (window.end - window.start) / 60_000 - 30, pages })
    })
    .print()
})

/* prints:
{"user":"bob","minutes":0,"pages":"/help"}
{"user":"ada","minutes":25,"pages":"/ /shoes /cart"}
{"user":"ada","minutes":0,"pages":"/"}
*/
