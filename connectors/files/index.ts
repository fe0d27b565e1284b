/** Files connector: JSON files as a bounded source, and an exactly-once sink of JSON lines files. */
export { type FilesSinkOptions, filesSink, MARKER_FILE } from './files-sink.ts'
export { type FilesSourceOptions, filesSource } from './files-source.ts'
