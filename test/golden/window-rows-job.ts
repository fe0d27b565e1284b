/**
 * The job of the golden checkpoints of windows that keep their rows: all rows of a key, an evictor, and two inputs; in
 * windows of every operator that may hold them. Its shape is fixed, as golden-job.ts has it.
 */
import {
  CountEvictor,
  CountTrigger,
  EventTimeSessionWindows,
  hours,
  minutes,
  type RunningJob,
  SlidingEventTimeWindows,
  StreamExecutionEnvironment,
  TumblingEventTimeWindows,
  WatermarkStrategy,
} from '../../engine/api/index.ts'
import { type GoldenRun, type Row, rows } from './golden-job.ts'

const ids = (elements: Iterable<Row>): string => Array.from(elements, ({ n }) => n).join()

/** Starts the job; `lines` grows as results come. */
export async function startWindowRows(run: GoldenRun): Promise<{ readonly job: RunningJob; readonly lines: string[] }> {
  const env = StreamExecutionEnvironment.createEnvironment()
  env.setParallelism(run.parallelism ?? 1).setStateBackend(run.stateBackend)
  env.getCheckpointConfig().setCheckpointStorage(run.directory)
  const lines: string[] = []
  const print = (line: string): void => void lines.push(line)
  const stream = env
    .fromSource(
      rows(run.limit, run.hold, 2),
      WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner((row) => row.at),
    )
    .uid('rows')
  stream.map((row) => `row ${row.n}`).addSink(print)
  const keyed = stream.keyBy('name')
  const shown = (kind: string) =>
    function show(
      { key, window }: { key: string; window: { start: number } },
      elements: Iterable<Row>,
      collect: (line: string) => void,
    ): void {
      collect(`${kind} ${key} ${window.start} ${ids(elements)}`)
    }
  keyed
    .window(TumblingEventTimeWindows.of(hours(2)))
    .process(shown('aligned'))
    .uid('aligned')
    .addSink(print)
  keyed
    .window(SlidingEventTimeWindows.of(hours(2), hours(1)))
    .process(shown('sliding'))
    .uid('sliding')
    .addSink(print)
  keyed
    .window(EventTimeSessionWindows.withGap(minutes(3)))
    .process(shown('session'))
    .uid('session')
    .addSink(print)
  keyed
    .window(TumblingEventTimeWindows.of(hours(2)))
    .evictor(CountEvictor.of(100))
    .process(shown('evicted'))
    .uid('evicted')
    .addSink(print)
  const even = stream.filter((row) => row.n % 4 < 2).uid('even')
  const odd = stream.filter((row) => row.n % 4 >= 2).uid('odd')
  const both = (left: Iterable<Row>, right: Iterable<Row>, collect: (line: string) => void): void =>
    collect(`both ${ids(left)} and ${ids(right)}`)
  const paired = () => even.coGroup(odd).where('name').equalTo('name')
  paired()
    .window(TumblingEventTimeWindows.of(hours(2)))
    .apply(both)
    .uid('paired')
    .addSink(print)
  paired()
    .window(EventTimeSessionWindows.withGap(minutes(3)))
    .apply(both)
    .uid('session-paired')
    .addSink(print)
  paired()
    .window(TumblingEventTimeWindows.of(hours(2)))
    .trigger(CountTrigger.of(90))
    .evictor(CountEvictor.of(100))
    .apply(both)
    .uid('evicted-paired')
    .addSink(print)
  const args = run.restore === undefined ? [] : ['--restore', run.restore]
  return { job: await env.executeAsync('golden windows', { args }), lines }
}
