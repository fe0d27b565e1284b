/**
 * Finds the files of a files source and cuts them into splits. Called on the coordinator's thread.
 *
 * A file of JSON lines or text is cut into ranges of about `splitBytes` that begin right after a newline, so that
 * each record lies in one range. A single split are: a file that is one JSON array; CSV, whose quoted cells may
 * hold newlines; and compressed files, which cannot be entered in the middle.
 */
import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { SplitState } from '../../engine/contract/source.ts'
import { type CsvDialect, csvHeader } from '../../engine/core/csv/csv-decoder.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { type Compression, compressionOf, openBytes } from './byte-stream.ts'
import { splitParquet } from './parquet-reader.ts'

/** Position of a split. `offset` is where to read on; records of [offset, end) are still to come. */
export interface FilePosition {
  readonly path: string
  readonly form: 'lines' | 'array' | 'csv' | 'text' | 'parquet'
  /** In bytes of the content; in rows for Parquet. */
  readonly offset: number
  /** Null while the end of a compressed file is not known. */
  readonly end: number | null
  readonly compression?: Compression
  /** Names of a CSV file's columns, as its header has them. */
  readonly header?: readonly string[]
}

export interface SplitOptions {
  readonly format: FileFormat
  readonly splitBytes: number
  /** Null: as the file's name says. */
  readonly compression: Compression | null
  readonly csv: CsvDialect & { readonly header?: boolean }
}

export type FileFormat = 'json' | 'csv' | 'text' | 'parquet'

const PROBE_BYTES = 64 * 1_024

/**
 * The files that a path names: itself, the visible files in a directory and in the visible ones below it, or the matches
 * of `*`. Sorted. Throws `FILE_NOT_FOUND` when there are none, unless there may be none yet.
 */
export async function findFiles(path: string, mayBeEmpty = false): Promise<string[]> {
  if (path.includes('*')) {
    const parents = dirname(path).includes('*') ? await findDirectories(dirname(path)) : [dirname(path)]
    const matches = matcher(basename(path))
    const found: string[] = []
    for (const parent of parents) {
      for (const entry of await readdir(parent, { withFileTypes: true })) {
        if (entry.isFile() && matches(entry.name)) found.push(join(parent, entry.name))
      }
    }
    if (found.length === 0 && !mayBeEmpty) throw notFound(path, null)
    return found.sort()
  }
  const info = await stat(path).catch((error: unknown) => {
    if (mayBeEmpty) return null
    throw notFound(path, error)
  })
  if (info === null) return []
  if (!info.isDirectory()) return [path]
  return (await filesBelow(path)).sort()
}

/** As Flink's file sources, which pass over what begins with "." or "_". */
async function filesBelow(directory: string): Promise<string[]> {
  const found: string[] = []
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    if (/^[._]/.test(entry.name)) continue
    const path = join(directory, entry.name)
    if (entry.isFile()) found.push(path)
    else if (entry.isDirectory()) found.push(...(await filesBelow(path)))
  }
  return found
}

async function findDirectories(path: string): Promise<string[]> {
  if (!path.includes('*')) return [path]
  const matches = matcher(basename(path))
  const found: string[] = []
  for (const parent of await findDirectories(dirname(path))) {
    const entries = await readdir(parent, { withFileTypes: true }).catch(() => [])
    for (const entry of entries) if (entry.isDirectory() && matches(entry.name)) found.push(join(parent, entry.name))
  }
  return found
}

/** `*` stands for any characters but a leading dot. */
function matcher(pattern: string): (name: string) => boolean {
  const parts = pattern.split('*').map((part) => part.replaceAll(/[\\^$.|?+()[\]{}]/g, '\\$&'))
  const expression = new RegExp(`^${parts.join('.*')}$`, 's')
  return (name) => expression.test(name) && (!name.startsWith('.') || pattern.startsWith('.'))
}

function notFound(path: string, cause: unknown): MillraceError {
  return new MillraceError('FILE_NOT_FOUND', `There is no readable file ${path}.`, {
    hint: 'Check the path of filesSource; relative paths start at the working directory.',
    cause,
  })
}

/** The splits of one file; none for an empty file. Throws `CSV_HEADER_INVALID`. */
export async function splitFile(path: string, options: SplitOptions): Promise<SplitState[]> {
  if (options.format === 'parquet') return splitParquet(path)
  const compression = options.compression ?? compressionOf(path)
  const { format } = options
  if ((format === 'json' || format === 'text') && compression === 'none') {
    return splitLines(path, format, options.splitBytes)
  }
  const probe = await headOf(path, compression)
  if (probe.length === 0) return []
  const end = compression === 'none' ? (await stat(path)).size : null
  if (format === 'text') return [split({ path, form: 'text', offset: markBytes(probe), end, compression })]
  if (format === 'json') {
    return [split({ path, form: isArray(probe) ? 'array' : 'lines', offset: 0, end, compression })]
  }
  if (options.csv.header === false) return [split({ path, form: 'csv', offset: 0, end, compression })]
  const newline = probe.indexOf(0x0a)
  const line = newline < 0 ? probe : probe.subarray(0, newline)
  if (newline < 0 && probe.length === PROBE_BYTES) {
    throw new MillraceError('CSV_HEADER_INVALID', `The first line of ${path} is longer than ${PROBE_BYTES} bytes.`, {
      hint: 'Set csv.header to false when the file has no header.',
    })
  }
  const header = csvHeader(line.toString('utf8').replace(/\r$/, ''), options.csv)
  const offset = newline < 0 ? probe.length : newline + 1
  return end !== null && offset >= end ? [] : [split({ path, form: 'csv', offset, end, compression, header })]
}

/** The first bytes of a file's content. */
async function headOf(path: string, compression: Compression): Promise<Buffer> {
  const stream = await openBytes(path, compression, 0)
  try {
    const probe = Buffer.alloc(PROBE_BYTES)
    let length = 0
    while (length < PROBE_BYTES) {
      const count = await stream.read(probe, length, PROBE_BYTES - length)
      if (count === 0) break
      length += count
    }
    return probe.subarray(0, length)
  } finally {
    await stream.close()
  }
}

async function splitLines(path: string, format: 'json' | 'text', splitBytes: number): Promise<SplitState[]> {
  const handle = await open(path, 'r')
  try {
    const size = (await handle.stat()).size
    const probe = Buffer.alloc(Math.min(size, PROBE_BYTES))
    await handle.read(probe, 0, probe.length, 0)
    if (format === 'json' && isArray(probe)) return [split({ path, form: 'array', offset: 0, end: size })]
    const form = format === 'json' ? 'lines' : 'text'
    const splits: SplitState[] = []
    // The decoder of JSON takes a mark itself.
    let from = form === 'text' ? markBytes(probe) : 0
    while (from < size) {
      let to = from + splitBytes
      if (to >= size) to = size
      else {
        // The byte before `to` counts: a range may end right behind a newline.
        to--
        for (;;) {
          const { bytesRead } = await handle.read(probe, 0, probe.length, to)
          const newline = probe.subarray(0, bytesRead).indexOf(0x0a)
          to += newline >= 0 ? newline + 1 : bytesRead
          if (newline >= 0 || bytesRead === 0) break
        }
      }
      splits.push(split({ path, form, offset: from, end: to }))
      from = to
    }
    return splits
  } finally {
    await handle.close()
  }
}

function split(position: FilePosition): SplitState {
  return { id: `${position.path}@${position.offset}`, position: { ...position } }
}

/** Of the byte order mark at the beginning of the content. */
export function markBytes(probe: Uint8Array): number {
  return probe[0] === 0xef && probe[1] === 0xbb && probe[2] === 0xbf ? 3 : 0
}

function isArray(probe: Uint8Array): boolean {
  let i = markBytes(probe)
  while (i < probe.length && (probe[i] === 0x20 || (probe[i]! >= 0x09 && probe[i]! <= 0x0d))) i++
  return probe[i] === 0x5b
}
