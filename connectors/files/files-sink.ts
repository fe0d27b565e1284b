/**
 * Exactly-once sink of files: JSON lines, CSV, text or Parquet, compressed or not, in one folder or in buckets.
 *
 * Each writer writes files in `<path>/.pending` and cuts them at every barrier (files-writer.ts). A committable names the
 * files with their sizes and checksums. The committer (files-committer.ts) renames the files of an epoch to
 * `<bucket>/<prefix>-<epoch>-<subtask>.jsonl` (or .csv, .txt, .parquet) and then replaces the marker file `.millrace-marker`, which
 * holds the epoch. A reader that must not see half of an epoch reads only files with an epoch up to the marker's.
 */
import type { Sink } from '../../engine/contract/sink.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { type Duration, toMs } from '../../engine/core/time.ts'
import type { BucketAssigner } from './buckets.ts'
import type { Compression } from './byte-stream.ts'
import type { FileFormat } from './file-splits.ts'
import { FilesCommitter } from './files-committer.ts'
import { FilesWriter, type WriterOptions } from './files-writer.ts'
import type { EncoderOptions } from './part-encoder.ts'

export interface FilesSinkOptions<T> {
  /** Directory of the finished files; made when absent. One sink a directory. */
  readonly path: string
  /** JSON lines by default. CSV and Parquet need a schema. Text is one line a row: see `encoder`. */
  readonly format?: FileFormat
  readonly csv?: EncoderOptions['csv']
  /**
   * Of text: the line of an element, without its end. Not needed where elements have one column of strings, or are strings,
   * numbers, bigints or booleans. A text that holds a line feed or ends with a carriage return would come back as another
   * one: it is not written, and the job fails with `ROW_NOT_SERIALIZABLE`, as for an element without a text.
   */
  readonly encoder?: (element: T) => string
  /**
   * Of JSON lines, CSV and text; each buffer of about a MiB is compressed by itself, which gzip and zstd read as one
   * stream. Parquet pages are compressed with Snappy already.
   */
  readonly compression?: Extract<Compression, 'none' | 'gzip' | 'zstd'>
  /** A part that has reached this many bytes is finished before the checkpoint; null, the default, is never. */
  readonly rollBytes?: number | null
  /**
   * A part is finished this long after its first row at the latest, before the checkpoint; null, the default, is never. A
   * checkpoint finishes every part, and only then are they to be seen: give it where checkpoints are rarer than files should be.
   */
  readonly rolloverInterval?: Duration | number | null
  /**
   * Which folder below `path` each element goes to: a function of it, or `dateTimeBuckets()`; without one all go to `path`.
   * May be asked several times for one element. The job fails with `BUCKET_INVALID` for what is no path below.
   */
  readonly bucketAssigner?: BucketAssigner<T>
  /**
   * Buckets that a subtask has open at a time, 100 by default. For one more, the part of the one that was written to
   * longest ago is finished: few at a time make few files.
   */
  readonly openBucketsMax?: number
  /** The part of a bucket that nothing was written to for this long is finished before the checkpoint; a minute by default. */
  readonly inactivityInterval?: Duration | number
  /** First part of file names, `part` by default. */
  readonly prefix?: string
  readonly schema?: Schema<T>
}

const OPEN_BUCKETS_MAX = 100
const INACTIVE_MS = 60_000

/** Writes rows to files, visible exactly once. Throws `OPTION_INVALID`. */
export function filesSink<T>(options: FilesSinkOptions<T>): Sink<T> {
  const writing = writerOptions(options)
  return {
    kind: 'files',
    guarantee: 'exactly-once',
    ...(options.schema === undefined ? {} : { schema: options.schema }),
    createWriter: (context) => new FilesWriter(writing, context),
    createCommitter: (context) => new FilesCommitter(options.path, options.prefix ?? 'part', context),
  }
}

function writerOptions<T>(options: FilesSinkOptions<T>): WriterOptions {
  const { path, format = 'json', csv = {}, compression = 'none' } = options
  const { openBucketsMax = OPEN_BUCKETS_MAX, inactivityInterval = INACTIVE_MS } = options
  const rollBytes = options.rollBytes ?? Number.POSITIVE_INFINITY
  if (format === 'parquet' && compression !== 'none') {
    throw new MillraceError('OPTION_INVALID', 'Parquet files are compressed inside; leave compression out.')
  }
  if (options.encoder !== undefined && format !== 'text') {
    throw new MillraceError('OPTION_INVALID', `An encoder makes lines of text; the format is ${format}.`, {
      hint: "Set format to 'text', or leave the encoder out.",
    })
  }
  if (!(rollBytes >= 1)) throw new MillraceError('OPTION_INVALID', 'rollBytes must be at least 1.')
  if (!(Number.isSafeInteger(openBucketsMax) && openBucketsMax >= 1)) {
    throw new MillraceError('OPTION_INVALID', 'openBucketsMax must be a whole number of at least 1.')
  }
  const inactiveMs = intervalMs('inactivityInterval', inactivityInterval)
  const rolloverMs = intervalMs('rolloverInterval', options.rolloverInterval ?? null)
  const bucketAssigner = (options.bucketAssigner ?? null) as BucketAssigner<unknown> | null
  const encoder = (options.encoder ?? null) as ((element: unknown) => string) | null
  return {
    ...{ path, format, csv, encoder, compression, rollBytes, rolloverMs, bucketAssigner, openBucketsMax },
    // The one part of a sink without buckets waits for its checkpoint.
    inactiveMs: bucketAssigner === null ? Number.POSITIVE_INFINITY : inactiveMs,
  }
}

/** Node's timers count no further. */
const TIMER_MS_MAX = 2 ** 31 - 1

/** Infinity for null. */
function intervalMs(name: string, interval: Duration | number | null): number {
  if (interval === null) return Number.POSITIVE_INFINITY
  const ms = toMs(interval)
  if (ms > 0 && ms <= TIMER_MS_MAX) return ms
  throw new MillraceError('OPTION_INVALID', `${name} must be more than 0 ms and at most 24 days.`)
}
