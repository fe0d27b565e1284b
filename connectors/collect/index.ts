/** Collect connector: results as an array on the coordinator's thread, for tests and services. */
export { collectSink } from './collect-sink.ts'
