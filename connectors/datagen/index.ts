/** Generated sources: rows of a function, and JSON bytes of a pool for measuring. */
export { type DataGenOptions, dataGenSource, type JsonBytesOptions, jsonBytesSource } from './datagen-source.ts'
