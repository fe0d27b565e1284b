/** Embedded log connector: durable partitioned topics in a directory, as a source, a sink and a producer. */
export {
  Log,
  type LogOptions,
  openLog,
  Producer,
  partitionOf,
  readSealedEnds,
  type Topic,
  type TopicOptions,
} from './log.ts'
export { type LogSinkOptions, logSink } from './log-sink.ts'
export { type LogSourceOptions, logSource } from './log-source.ts'
