/**
 * Source of a topic of the embedded log: one split a partition, position {offset, end}.
 *
 * An unbounded source follows the topic as it grows; a bounded one ends where the topic ended when the
 * job first started. The batch's event times are the records' timestamps. A dead letter's offset is the
 * record's.
 */
import type { Source, SourcePoll, SourceReader, SourceReaderContext, SplitState } from '../../engine/contract/source.ts'
import { createJsonDecoder } from '../../engine/core/json/json-decoder.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { partitionDirectory, readSealedEnds, requireTopic } from './log.ts'
import { listSegments, readEnd } from './log-format.ts'
import { PartitionReader } from './partition-reader.ts'

export interface LogSourceOptions<T> {
  readonly directory: string
  readonly topic: string
  readonly schema: Schema<T>
  readonly format?: 'json'
  /** Where a job without a checkpoint starts; `earliest` by default. */
  readonly startFrom?: 'earliest' | 'latest'
  readonly bounded?: boolean
  /** Ends where the topic was sealed, once it is; until then it is followed as it grows. */
  readonly untilSealed?: boolean
  /** Longer records are dead-lettered. */
  readonly recordBytesMax?: number
}

/** How often a source that ends at the seal looks for it. */
const SEAL_CHECK_MS = 50

interface LogPosition {
  readonly offset: number
  readonly end: number | null
}

/** Reads a topic. Throws `LOG_TOPIC_UNKNOWN` when the job starts. */
export function logSource<T>(options: LogSourceOptions<T>): Source<T> {
  return {
    kind: 'log',
    schema: options.schema,
    boundedness: options.bounded === true || options.untilSealed === true ? 'bounded' : 'unbounded',
    async splits() {
      const topic = await requireTopic(options.directory, options.topic)
      return Promise.all(
        Array.from({ length: topic.partitions }, async (_, p): Promise<SplitState> => {
          const directory = partitionDirectory(options.directory, topic.name, p)
          const end = (await readEnd(directory)) ?? 0
          const offset = options.startFrom === 'latest' ? end : Math.min(end, (await listSegments(directory))[0] ?? 0)
          return { id: `${topic.name}-${p}`, position: { offset, end: options.bounded === true ? end : null } }
        }),
      )
    },
    createReader: (context) => new LogReader(options, context),
  }
}

class LogReader<T> implements SourceReader {
  private readonly options: LogSourceOptions<T>
  private readonly context: SourceReaderContext
  private readonly splits: { readonly id: string; readonly end: number | null; readonly reader: PartitionReader }[] = []
  /** Partitions take turns. */
  private turn = 0
  private paused: ReadonlySet<string> = new Set()
  /** Ends of the sealed topic's partitions; null while it is not known to be sealed. */
  private sealedEnds: readonly number[] | null = null
  private isClosed = false
  private cancelSealCheck: (() => void) | null = null

  constructor(options: LogSourceOptions<T>, context: SourceReaderContext) {
    this.options = options
    this.context = context
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    const { options, context } = this
    for (const { id, position } of splits) {
      const { offset, end } = position as unknown as LogPosition
      const partition = partitionOfSplit(id)
      const reader = new PartitionReader(
        partitionDirectory(options.directory, options.topic, partition),
        offset,
        end,
        createJsonDecoder(options.schema, {
          id: context.worker.uniqueId('log'),
          ...(options.recordBytesMax === undefined ? {} : { recordBytesMax: options.recordBytesMax }),
        }),
        context.worker.io.timers,
        (reason, at, bytes) => context.deadLetter({ source: 'log', partition: id, offset: at, reason, bytes }),
        () => context.wake(),
      )
      this.splits.push({ id, end, reader })
    }
    if (options.untilSealed === true) await this.checkSeal()
  }

  /** Looks for the seal now and then, until it is there. */
  private async checkSeal(): Promise<void> {
    this.cancelSealCheck = null
    try {
      this.sealedEnds = await readSealedEnds(this.options.directory, this.options.topic)
    } catch (error) {
      this.context.fail(error)
      return
    }
    if (this.sealedEnds !== null) this.context.wake()
    else if (!this.isClosed) {
      this.cancelSealCheck = this.context.worker.io.timers.schedule(SEAL_CHECK_MS, () => void this.checkSeal())
    }
  }

  private get reachedSeal(): boolean {
    const ends = this.sealedEnds
    return ends !== null && this.splits.every(({ id, reader }) => reader.offset >= ends[partitionOfSplit(id)]!)
  }

  poll(rowsMax: number): SourcePoll {
    const others = this.take(rowsMax, (id) => !this.paused.has(id))
    if (typeof others !== 'number') return others
    const unpaused = this.splits.length - this.paused.size
    if (others < unpaused && !this.reachedSeal) return { kind: 'pending' }
    const rest = this.take(rowsMax, (id) => this.paused.has(id))
    if (typeof rest !== 'number') return rest
    const ended = (others + rest === this.splits.length && this.options.bounded === true) || this.reachedSeal
    return ended ? { kind: 'end' } : { kind: 'pending' }
  }

  /** The next batch of the splits that `serves` names, in turn; without one, how many of them are at their ends. */
  private take(rowsMax: number, serves: (id: string) => boolean): SourcePoll | number {
    let done = 0
    for (let i = 0; i < this.splits.length; i++) {
      this.turn = (this.turn + 1) % this.splits.length
      const { id, reader } = this.splits[this.turn]!
      if (!serves(id)) continue
      const taken = reader.take(rowsMax)
      if (taken === 'done') done++
      else if (taken !== 'starved') return { kind: 'batch', split: id, batch: taken.batch, offsets: taken.offsets }
    }
    return done
  }

  pauseSplits(paused: ReadonlySet<string>): void {
    this.paused = paused
  }

  snapshot(): readonly SplitState[] {
    return this.splits.map(({ id, end, reader }) => ({ id, position: { offset: reader.offset, end } }))
  }

  async close(): Promise<void> {
    this.isClosed = true
    this.cancelSealCheck?.()
    await Promise.all(this.splits.map(({ reader }) => reader.close()))
  }
}

function partitionOfSplit(id: string): number {
  return Number(id.slice(id.lastIndexOf('-') + 1))
}
