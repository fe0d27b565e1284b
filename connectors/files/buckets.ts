/**
 * Into which folder of the files sink an element goes: Flink's bucket assigners. Used by files-writer.ts.
 *
 * A bucket's id is a path below the sink's: folders with `/` between them, or nothing for the sink's own. Invariant: no id
 * leads out of the sink's folder or hides what it holds, because each is checked before it is used.
 */
import type { SinkContext } from '../../engine/contract/sink.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { ZoneOffsets } from '../../engine/core/zone-offsets.ts'

/** Says the bucket of an element, for example `day=2026-11-26/country=DE`; an empty text is the sink's own folder. */
export type BucketAssigner<T> =
  | ((value: T, context: SinkContext) => string)
  | { getBucketId(value: T, context: SinkContext): string }

/** Which time counts: the machine's clock when the element is written, or its own. */
export type BucketTime = 'processing-time' | 'event-time'

const FOLDER_BYTES_MAX = 255

/**
 * A bucket a stretch of time, as `format` writes it: `yyyy-MM-dd--HH`, an hour, by default. `format` is one of Java's
 * DateTimeFormatter with the letters y, u, M, d, H, m, s, S; text between single quotes stands for itself, and `/` makes
 * folders: `'day='yyyy-MM-dd/'hour='HH`. `timeZone` is a name of the IANA list, the system's by default. As in Flink the
 * machine's clock counts, unless `time` says `event-time`. Throws `OPTION_INVALID`.
 */
export function dateTimeBuckets(
  format = 'yyyy-MM-dd--HH',
  timeZone: string = Intl.DateTimeFormat().resolvedOptions().timeZone,
  time: BucketTime = 'processing-time',
): DateTimeBuckets {
  return new DateTimeBuckets(format, timeZone, time)
}

/** What `dateTimeBuckets` makes. It does not look at elements, so the writer makes no rows for it. */
export class DateTimeBuckets {
  private readonly write: (localMs: number) => string
  private readonly unitMs: number
  private readonly zone: ZoneOffsets
  private readonly time: BucketTime
  /** The last text, and the time that it is for, in units. */
  private lastUnit = Number.NaN
  private lastText = ''

  constructor(format: string, timeZone: string, time: BucketTime) {
    const compiled = compileFormat(format)
    this.write = compiled.write
    this.unitMs = compiled.unitMs
    this.time = time
    try {
      this.zone = new ZoneOffsets(timeZone)
    } catch (cause) {
      throw new MillraceError('OPTION_INVALID', `There is no time zone ${JSON.stringify(timeZone)}.`, {
        hint: "Give a name of the IANA list, as 'Europe/Berlin'.",
        cause,
      })
    }
    checkBucketId(this.ofTime(0), 'OPTION_INVALID')
  }

  getBucketId(_value: unknown, { timestamp, currentProcessingTime }: SinkContext): string {
    return this.idAt(timestamp, currentProcessingTime)
  }

  /** As `getBucketId`. */
  idAt(timestamp: number, processingTime: number): string {
    if (this.time === 'processing-time') return this.ofTime(processingTime)
    if (Number.isFinite(timestamp)) return this.ofTime(timestamp)
    throw new MillraceError('BUCKET_INVALID', 'An element has no event time to choose its bucket by.', {
      hint: 'Assign timestamps before the sink, or let dateTimeBuckets go by processing-time.',
    })
  }

  private ofTime(timeMs: number): string {
    const unit = Math.floor(timeMs / this.unitMs)
    if (unit === this.lastUnit) return this.lastText
    const text = this.write(timeMs + this.zone.offsetAt(timeMs))
    this.lastUnit = unit
    this.lastText = text
    return text
  }
}

/** Zones are changed at multiples of this, so within one the text of whole hours stays. */
const QUARTER_MS = 15 * 60 * 1_000

const FIELDS: Readonly<Record<string, (date: Date) => number>> = {
  y: (date) => date.getUTCFullYear(),
  u: (date) => date.getUTCFullYear(),
  M: (date) => date.getUTCMonth() + 1,
  d: (date) => date.getUTCDate(),
  H: (date) => date.getUTCHours(),
  m: (date) => date.getUTCMinutes(),
  s: (date) => date.getUTCSeconds(),
  S: (date) => date.getUTCMilliseconds(),
}

/** A writer of local times, and how long its text stays the same at least. */
function compileFormat(format: string): { write(localMs: number): string; unitMs: number } {
  const pieces = Array.from(
    format.matchAll(/'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+|'/g),
    ([text, quoted, letter]) => {
      if (quoted !== undefined) return { text: quoted === '' ? "'" : quoted.replaceAll("''", "'"), letter: null }
      if (letter === undefined && text !== "'") return { text, letter: null }
      if (letter !== undefined && letter in FIELDS) return { text, letter }
      throw new MillraceError('OPTION_INVALID', `${JSON.stringify(text)} in the format ${format} is not understood.`, {
        hint: "Use y, u, M, d, H, m, s and S, and write text between single quotes: 'day='yyyy-MM-dd.",
      })
    },
  )
  const letters = new Set(pieces.map(({ letter }) => letter))
  const unitMs = letters.has('S') ? 1 : letters.has('s') ? 1_000 : letters.has('m') ? 60_000 : QUARTER_MS
  return {
    unitMs,
    write(localMs) {
      const date = new Date(localMs)
      return pieces
        .map(({ text, letter }) => (letter === null ? text : digits(letter, FIELDS[letter]!(date), text.length)))
        .join('')
    },
  }
}

/** Java's forms: two letters of a year are its last two digits, a fraction is cut, all else is padded. */
function digits(letter: string, value: number, width: number): string {
  if (letter === 'S') return String(value).padStart(3, '0').padEnd(width, '0').slice(0, width)
  const shown = width === 2 && (letter === 'y' || letter === 'u') ? value % 100 : value
  return String(shown).padStart(width, '0')
}

/** Throws `BUCKET_INVALID` for what is no path below the sink's that readers would find. */
export function checkBucketId(id: unknown, code = 'BUCKET_INVALID'): asserts id is string {
  const problem = bucketProblem(id)
  if (problem === null) return
  throw new MillraceError(code, `${JSON.stringify(id) ?? String(id)} cannot be a bucket: ${problem}.`, {
    hint: 'Give folder names with "/" between them, such as day=2026-11-26/country=DE, or "" for the sink\'s own folder.',
  })
}

function bucketProblem(id: unknown): string | null {
  if (typeof id !== 'string') return 'it is no text'
  if (id === '') return null
  if (id.startsWith('/')) return 'it is an absolute path'
  // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
  if (/[\\\u0000-\u001f\u007f]/.test(id)) return 'it has a backslash or a control character'
  for (const folder of id.split('/')) {
    if (folder === '') return 'a folder in it has no name'
    if (folder === '..' || folder === '.') return 'it leads to another folder'
    if (/^[._]/.test(folder)) return 'names that begin with "." or "_" are hidden from readers'
    if (Buffer.byteLength(folder) > FOLDER_BYTES_MAX) return `a name in it is longer than ${FOLDER_BYTES_MAX} bytes`
  }
  return null
}
