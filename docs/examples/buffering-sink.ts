/**
 * A sink function that writes in groups: what waits for its group is operator state, so a checkpoint holds it and a restart
 * or a rescale hands it out again. `finish` writes the last group, which is not full.
 *
 * Reach for it when a system takes many rows at once and writing some of them twice after a failure does no harm. For
 * exactly-once see custom-sink.ts.
 */
import {
  type CheckpointedFunction,
  type FunctionInitializationContext,
  type ListState,
  ListStateDescriptor,
  milliseconds,
  RichSinkFunction,
  type SinkContext,
  StreamExecutionEnvironment,
  WatermarkStrategy,
} from 'millrace'

class BufferingSink extends RichSinkFunction<string> implements CheckpointedFunction {
  private readonly threshold: number
  private lines!: string[]
  private checkpointed!: ListState<string>

  constructor(threshold: number) {
    super()
    this.threshold = threshold
  }

  initializeState({ operatorStateStore }: FunctionInitializationContext): void {
    this.checkpointed = operatorStateStore.getListState(new ListStateDescriptor<string>('buffered lines'))
    this.lines = [...this.checkpointed.get()]
  }

  async invoke(line: string, context: SinkContext): Promise<void> {
    this.lines.push(`${line} at ${context.timestamp}`)
    if (this.lines.length >= this.threshold) await this.write()
  }

  snapshotState(): void {
    this.checkpointed.update(this.lines)
  }

  override async finish(): Promise<void> {
    if (this.lines.length > 0) await this.write()
  }

  // Takes the group out before it waits: what `invoke` has under way ends before a checkpoint does.
  private async write(): Promise<void> {
    const group = this.lines
    this.lines = []
    await new Promise(setImmediate) // As a request would.
    console.log(`wrote ${group.length}: ${group.join(', ')}`)
  }
}

const env = StreamExecutionEnvironment.getExecutionEnvironment().setParallelism(1)
env.enableCheckpointing(milliseconds(10))
env
  .fromElements('a', 'b', 'c', 'd', 'e')
  .assignTimestampsAndWatermarks(
    WatermarkStrategy.forMonotonousTimestamps<string>().withTimestampAssigner((line) => line.charCodeAt(0)),
  )
  .addSink(new BufferingSink(2))
await env.execute('buffering sink')

/* prints:
wrote 2: a at 97, b at 98
wrote 2: c at 99, d at 100
wrote 1: e at 101
*/
