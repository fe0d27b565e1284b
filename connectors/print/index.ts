/** Print connector: rows as lines on standard output. */
export { type LineStream, type PrintSink, type PrintSinkOptions, printSink } from './print-sink.ts'
