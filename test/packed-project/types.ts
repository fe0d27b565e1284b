/**
 * For test/packed-install.ts: compiled and never run. What is right compiles, what is wrong does not.
 */
import { type DataStream, type Sink, type SinkWriter, StreamExecutionEnvironment } from 'millrace'
import { SeededRandom, sinkChecks } from 'millrace/testing'

const rows = StreamExecutionEnvironment.createEnvironment().fromElements({ page: 'a', clicks: 1 })
rows.keyBy('page')
// @ts-expect-error there is no such field
rows.keyBy('pagee')
export const clicks: DataStream<number> = rows.map((row) => row.clicks)
// @ts-expect-error clicks are numbers
export const words: DataStream<string> = rows.map((row) => row.clicks)
export const sinkOf = (writer: SinkWriter): Sink<number> => ({
  kind: 'mine',
  guarantee: 'at-least-once',
  createWriter: () => writer,
})
// @ts-expect-error a writer can close
export const writer: SinkWriter = { open: async () => {}, write: () => 0, prepareCommit: async () => null }
export const checks = sinkChecks<number>({
  rowOf: (id) => id,
  create: () => ({ sink: () => sinkOf(writer), visible: () => [] }),
})
export const random = new SeededRandom(1)
