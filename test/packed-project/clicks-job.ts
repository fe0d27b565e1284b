/**
 * For test/packed-install.ts, which copies it into a project of its own: a TypeScript job as a user writes
 * one. Clicks by page in windows of ten seconds of event time, into files, exactly once.
 */
import { count, job, schema, seconds, sum, TumblingEventTimeWindows, t, WatermarkStrategy } from 'millrace'
import { dataGenSource } from 'millrace/connectors/datagen'
import { filesSink } from 'millrace/connectors/files'

const click = schema({ page: t.string(), at: t.timestamp(), millis: t.float64() })

export default job('clicks', (env) => {
  const clicks = Number(env.config['clicks'] ?? 1_000)
  env.enableCheckpointing(500)
  env
    .fromSource(
      dataGenSource({
        schema: click,
        count: clicks,
        ratePerSecond: 4_000,
        splits: 2,
        generator: (index) => ({ page: `page-${index % 10}`, at: index * 10, millis: index % 7 }),
      }),
      WatermarkStrategy.forBoundedOutOfOrderness<{ at: number }>(seconds(1)).withTimestampAssigner('at'),
    )
    .keyBy('page')
    .window(TumblingEventTimeWindows.of(seconds(10)))
    .aggregate({ clicks: count(), millis: sum('millis') })
    .sinkTo(filesSink({ path: env.config['out'] ?? 'out' }))
})
