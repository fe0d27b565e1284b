/**
 * Sources that make their records: rows from a function, or JSON bytes from a pool.
 *
 * Both are deterministic: record k of split s of S splits has index s + k * S, and equals f(index), so a
 * restored job sees the same records. A split's position is {next: k}.
 *
 * With a rate, records come evenly; time that was lost (a pause, backpressure) is not caught up with a
 * burst. The rate is for the whole source and shared by its splits.
 */
import type { Source, SourcePoll, SourceReader, SourceReaderContext, SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX, type Batch } from '../../engine/core/batch.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { createJsonDecoder, JSON_PADDING_BYTES, type JsonDecoder } from '../../engine/core/json/json-decoder.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import { type Field, OPAQUE_SCHEMA, type Schema } from '../../engine/core/schema.ts'
import { ByteArena } from '../../engine/core/strings.ts'
import { functionFailed } from '../../engine/core/user-error.ts'
import { RateLimit } from './rate-limit.ts'

interface GeneratedOptions {
  /** Records of the whole source; without it the source never ends. */
  readonly count?: number
  /** Records a second of the whole source; 0 (the default) is as fast as possible. */
  readonly ratePerSecond?: number
  /** Splits, 1 by default: the most subtasks that share the work. */
  readonly splits?: number
}

export interface DataGenOptions<T> extends GeneratedOptions {
  /** Row of an index. Left out, rows are made up from the schema. */
  readonly generator?: (index: number) => T
  /** Left out, rows are opaque values. */
  readonly schema?: Schema<T>
}

export interface JsonBytesOptions<T> extends GeneratedOptions {
  /** JSON text of record `index`, 0 <= index < poolRecords. No newlines. */
  readonly record: (index: number) => string | Uint8Array
  readonly schema: Schema<T>
  /** Records made in advance and served in a cycle. */
  readonly poolRecords?: number
}

/** Makes batches of a split's records from `next` on. */
interface Producer {
  /** At most `max` records; returns the batch and how many records it stands for. */
  make(split: number, splits: number, next: number, max: number): { readonly batch: Batch; readonly records: number }
}

const POOL_RECORDS = 65_536

/** A source of rows that `generator` makes from their index. */
export function dataGenSource<T>(options: DataGenOptions<T>): Source<T> {
  if (options.generator === undefined && options.schema === undefined) {
    throw new MillraceError('OPTION_INVALID', 'dataGenSource needs a generator or a schema.')
  }
  const schema = options.schema ?? (OPAQUE_SCHEMA as Schema<T>)
  const generator: (index: number) => unknown = options.generator ?? defaultGenerator(schema.fields)
  return generatedSource('datagen', schema, options, () => new RowProducer(schema, generator))
}

/**
 * A source of JSON bytes that are decoded as if they had been read: for measuring, because the text is
 * made before the first record and not while records flow.
 */
export function jsonBytesSource<T>(options: JsonBytesOptions<T>): Source<T> {
  return generatedSource('json-bytes', options.schema, options, (context) => new BytesProducer(options, context))
}

function generatedSource<T>(
  kind: string,
  schema: Schema<T>,
  options: GeneratedOptions,
  createProducer: (context: SourceReaderContext) => Producer,
): Source<T> {
  const splits = options.splits ?? 1
  if (!Number.isInteger(splits) || splits < 1) {
    throw new MillraceError('OPTION_INVALID', 'splits must be a whole number, at least 1.')
  }
  const count = options.count ?? Number.POSITIVE_INFINITY
  if (count !== Number.POSITIVE_INFINITY && !(Number.isInteger(count) && count >= 0)) {
    throw new MillraceError('OPTION_INVALID', `count must be a whole number, 0 or more, not ${count}.`)
  }
  const ratePerSecond = options.ratePerSecond ?? 0
  if (!(ratePerSecond >= 0)) {
    throw new MillraceError('OPTION_INVALID', `ratePerSecond must be 0 (no limit) or more, not ${ratePerSecond}.`)
  }
  return {
    kind,
    schema,
    boundedness: Number.isFinite(count) ? 'bounded' : 'unbounded',
    async splits() {
      return Array.from({ length: splits }, (_, s) => ({ id: `${s}/${splits}`, position: { next: 0 } }))
    },
    createReader: (context) => new GeneratedReader(createProducer(context), count, ratePerSecond / splits, context),
  }
}

interface GeneratedSplit {
  readonly id: string
  readonly index: number
  readonly splits: number
  /** Records of this split. */
  readonly count: number
  next: number
}

class GeneratedReader implements SourceReader {
  private readonly producer: Producer
  private readonly count: number
  private readonly ratePerSplit: number
  private readonly context: SourceReaderContext
  private splits: GeneratedSplit[] = []
  private limit: RateLimit | null = null
  private paused: ReadonlySet<string> = new Set()
  private turn = 0
  private cancelTimer: (() => void) | null = null

  constructor(producer: Producer, count: number, ratePerSplit: number, context: SourceReaderContext) {
    this.producer = producer
    this.count = count
    this.ratePerSplit = ratePerSplit
    this.context = context
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    this.splits = splits.map(({ id, position }) => {
      const [index, total] = id.split('/').map(Number) as [number, number]
      const count = Math.max(0, Math.ceil((this.count - index) / total))
      return { id, index, splits: total, count, next: (position as { next: number }).next }
    })
    if (this.ratePerSplit > 0 && splits.length > 0) {
      this.limit = new RateLimit(this.ratePerSplit * splits.length, this.context.worker.io.clock.monotonicMs())
    }
  }

  poll(rowsMax: number): SourcePoll {
    const open = this.splits.filter((split) => split.next < split.count)
    if (open.length === 0) return Number.isFinite(this.count) ? { kind: 'end' } : { kind: 'pending' }
    let max = Math.min(rowsMax, BATCH_ROWS_MAX)
    if (this.limit !== null) {
      const allowed = this.limit.available(this.context.worker.io.clock.monotonicMs())
      if (allowed < 1) return this.pauseFor(this.limit.delayMs())
      max = Math.min(max, allowed)
    }
    const unpaused = open.filter((split) => !this.paused.has(split.id))
    const served = unpaused.length === 0 ? open : unpaused
    this.turn = (this.turn + 1) % served.length
    const split = served[this.turn]!
    const { batch, records } = this.producer.make(
      split.index,
      split.splits,
      split.next,
      Math.min(max, split.count - split.next),
    )
    split.next += records
    this.limit?.take(records)
    if (batch.length > 0) return { kind: 'batch', split: split.id, batch }
    // Every record was rejected: come back rather than loop here.
    this.context.wake()
    return { kind: 'pending' }
  }

  snapshot(): readonly SplitState[] {
    return this.splits.map(({ id, next }) => ({ id, position: { next } }))
  }

  pauseSplits(paused: ReadonlySet<string>): void {
    this.paused = paused
  }

  async close(): Promise<void> {
    this.cancelTimer?.()
    this.cancelTimer = null
  }

  private pauseFor(delayMs: number): SourcePoll {
    this.cancelTimer ??= this.context.worker.io.timers.schedule(delayMs, () => {
      this.cancelTimer = null
      this.context.wake()
    })
    return { kind: 'pending' }
  }
}

class RowProducer implements Producer {
  private readonly builder: BatchBuilder
  private readonly generator: (index: number) => unknown

  constructor(schema: Schema, generator: (index: number) => unknown) {
    this.builder = new BatchBuilder(schema)
    this.generator = generator
  }

  make(split: number, splits: number, next: number, max: number): { batch: Batch; records: number } {
    for (let k = 0; k < max; k++) this.builder.append(this.rowOf(split + (next + k) * splits), Number.NaN)
    return { batch: this.builder.build(), records: max }
  }

  private rowOf(index: number): unknown {
    try {
      return this.generator(index)
    } catch (thrown) {
      throw functionFailed(`The generator of row ${index}`, thrown)
    }
  }
}

class BytesProducer implements Producer {
  private readonly context: SourceReaderContext
  private readonly decoder: JsonDecoder
  private readonly pool: Uint8Array
  /** Line i of the pool begins at lineStarts[i]; one entry more for the end. */
  private readonly lineStarts: Int32Array

  constructor(options: JsonBytesOptions<unknown>, context: SourceReaderContext) {
    this.context = context
    this.decoder = createJsonDecoder(options.schema, { id: context.worker.uniqueId('json-bytes') })
    const records = Math.max(
      1,
      Math.min(options.poolRecords ?? POOL_RECORDS, options.count ?? Number.POSITIVE_INFINITY),
    )
    const arena = new ByteArena(records * 128)
    this.lineStarts = new Int32Array(records + 1)
    for (let i = 0; i < records; i++) {
      const record = options.record(i)
      if (typeof record === 'string') arena.writeString(record)
      else arena.writeBytes(record, 0, record.length)
      arena.writeByte(0x0a)
      this.lineStarts[i + 1] = arena.length
    }
    arena.reserve(JSON_PADDING_BYTES)
    arena.bytes.fill(0, arena.length, arena.length + JSON_PADDING_BYTES)
    this.pool = arena.bytes
  }

  make(split: number, splits: number, next: number, max: number): { batch: Batch; records: number } {
    const records = this.lineStarts.length - 1
    // Consecutive records keep the decoder's reads sequential; splits begin at different places.
    const first = (Math.floor((split * records) / splits) + next) % records
    const last = Math.min(records, first + max)
    let rejected = 0
    const batch = this.decoder.decodeLines(
      this.pool,
      this.lineStarts[first]!,
      this.lineStarts[last]!,
      max,
      (reason, start, end) => {
        rejected++
        this.context.deadLetter({
          source: 'json-bytes',
          partition: `${split}/${splits}`,
          offset: start,
          reason,
          bytes: this.pool.slice(start, end),
        })
      },
    )
    return { batch, records: batch.length + rejected }
  }
}

/** Rows that differ by index, of any schema. */
function defaultGenerator(fields: readonly Field[]): (index: number) => Record<string, unknown> {
  return (index) => {
    const row: Record<string, unknown> = {}
    for (const field of fields) row[field.name] = defaultValue(field, index)
    return row
  }
}

function defaultValue(field: Field, index: number): unknown {
  switch (field.kind) {
    case 'string':
      return `${field.name}-${index % 1_000}`
    case 'boolean':
      return index % 2 === 0
    case 'int32':
      return index % 2 ** 31
    case 'int64':
      return BigInt(index)
    case 'timestamp':
      // 2025-01-01, a record a millisecond.
      return 1_735_689_600_000 + index
    case 'float64':
      return index / 8
    case 'opaque':
      return { index }
  }
}
