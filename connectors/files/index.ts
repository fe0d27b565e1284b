/** Files connector: JSON, CSV, text and Parquet files as a bounded source, and as an exactly-once sink. */
export type { CsvDialect } from '../../engine/core/csv/csv-decoder.ts'
export type { TextLine } from '../../engine/core/text/line-decoder.ts'
export { type BucketAssigner, type BucketTime, type DateTimeBuckets, dateTimeBuckets } from './buckets.ts'
export { Compression } from './byte-stream.ts'
export type { FileFormat } from './file-splits.ts'
export { MARKER_FILE } from './files-committer.ts'
export { type FilesSinkOptions, filesSink } from './files-sink.ts'
export { type FilesSourceOptions, filesSource, type TextFilesSourceOptions } from './files-source.ts'
