/** What the tests of batch execution share. */
import { RuntimeExecutionMode, StreamExecutionEnvironment } from './index.ts'

/** An environment in batch mode with its state in memory. */
export const environment = (parallelism = 2): StreamExecutionEnvironment =>
  StreamExecutionEnvironment.createEnvironment()
    .setParallelism(parallelism)
    .setStateBackend('memory')
    .setRuntimeMode(RuntimeExecutionMode.BATCH)
