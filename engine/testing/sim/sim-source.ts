/**
 * The source of simulated jobs: serves the rows of sim-input.ts in random portions with random pauses.
 *
 * Called by sim-job.ts. A split's position is the number of rows read from it.
 */
import type { Source, SourceReader, SourceReaderContext, SplitState } from '../../contract/source.ts'
import { batchOfRows } from '../../core/rows.ts'
import type { SeededRandom } from './seeded-random.ts'
import { INPUT, type InputRow, inputRow, isBadRow, type SimShape, TRICKLE_MS } from './sim-input.ts'

export interface SimSourceWorld {
  readonly shape: SimShape
  readonly random: SeededRandom
  /** Set to make the next poll of any reader throw. */
  readonly pollFailure: { armed: boolean }
  /** May the quiet split begin? */
  readonly quietIsOver: () => boolean
  /** May input end, once it is read? */
  readonly mayEnd: () => boolean
  /** Splits of the first source that readers of this process were given so far. */
  readonly given: Set<string>
  readonly drift: SimDrift
}

/**
 * How far each reader of a run has come in event time: with watermark alignment none may be asked for more while it is
 * further ahead of the slowest than that allows. Idle splits hold nobody back, and found ones come late; so only where
 * there are neither.
 */
export class SimDrift {
  private readonly maxDriftMs: number | null
  private readonly fail: (message: string) => void
  private readonly readers = new Map<string, { readonly parallelism: number; readonly reachedMs: () => number }>()

  constructor({ driftMs, idleAfterMs, discovery, isBatch }: SimShape, fail: (message: string) => void) {
    this.maxDriftMs = idleAfterMs === null && discovery === null && !isBatch ? driftMs : null
    this.fail = fail
  }

  /** A subtask of a source has a new reader; `reachedMs` is +Infinity once that holds nobody back. */
  opened(source: number, { subtask, parallelism }: SourceReaderContext, reachedMs: () => number): void {
    for (const [name, other] of this.readers) {
      if (name.startsWith(`${source} `) && other.parallelism !== parallelism) this.readers.delete(name)
    }
    this.readers.set(`${source} ${subtask}`, { parallelism, reachedMs })
  }

  /** `who`, which has come as far as `reachedMs`, was asked for more. */
  asked(who: string, reachedMs: number): void {
    if (this.maxDriftMs === null) return
    let slowestMs = Number.POSITIVE_INFINITY
    for (const reader of this.readers.values()) slowestMs = Math.min(slowestMs, reader.reachedMs())
    const driftMs = reachedMs - slowestMs
    if (driftMs > this.maxDriftMs) this.fail(`${who} is read on ${driftMs} ms ahead of the slowest`)
  }
}

/** How often a reader looks whether the quiet split has become loud, or input may end. */
const LOOK_MS = 20

export function simSource(world: SimSourceWorld, index: number): Source<InputRow> {
  return {
    kind: 'simulated',
    schema: INPUT,
    boundedness: 'bounded',
    discoveryIntervalMs: index === 0 ? (world.shape.discovery?.everyMs ?? null) : null,
    async splits({ worker }) {
      const appearAtMs = index === 0 ? (world.shape.discovery?.appearAtMs ?? []) : []
      const all = Array.from({ length: world.shape.splits[index]! }, (_, i) => ({ id: String(i), position: 0 }))
      if (appearAtMs.length === 0) return all
      const nowMs = worker.io.clock.monotonicMs()
      return all.filter((_, i) => appearAtMs[i]! <= nowMs)
    },
    createReader: (context) => new SimReader(world, index, context),
  }
}

interface SimSplit {
  readonly id: string
  next: number
  /** Latest event time read so far. */
  reachedMs: number
}

class SimReader implements SourceReader {
  private splits: SimSplit[] = []
  private hasEnded = false
  private isPaused = false
  /** Too far ahead of others. */
  private ahead: ReadonlySet<string> = new Set()
  /** Not every reader has it. */
  readonly pauseSplits?: (splits: ReadonlySet<string>) => void
  private cancelPause: () => void = () => {}
  private readonly world: SimSourceWorld
  private readonly index: number
  private readonly context: SourceReaderContext

  constructor(world: SimSourceWorld, index: number, context: SourceReaderContext) {
    this.world = world
    this.index = index
    this.context = context
    if (!world.shape.pausesSplits) return
    this.pauseSplits = (splits) => {
      this.ahead = new Set(splits)
      context.wake()
    }
  }

  async open(assigned: readonly SplitState[]): Promise<void> {
    this.addSplits(assigned)
    this.world.drift.opened(this.index, this.context, () => this.reachedMs)
  }

  private get reachedMs(): number {
    if (this.hasEnded) return Number.POSITIVE_INFINITY
    return this.splits.reduce((least, { reachedMs }) => Math.min(least, reachedMs), Number.POSITIVE_INFINITY)
  }

  private readOn(split: SimSplit, to: number): InputRow[] {
    const offsets = Array.from({ length: to - split.next }, (_, k) => split.next + k)
    const rows = offsets.map((i) => inputRow(this.world.shape, this.index, Number(split.id), i))
    split.next = to
    for (const row of rows) if (!isBadRow(row)) split.reachedMs = Math.max(split.reachedMs, row.time)
    return rows
  }

  addSplits(found: readonly SplitState[]): void {
    for (const { id, position } of found) {
      const split: SimSplit = { id, next: 0, reachedMs: Number.NEGATIVE_INFINITY }
      this.readOn(split, position as number)
      this.splits.push(split)
      if (this.index === 0) this.world.given.add(id)
    }
    this.context.wake()
  }

  /** All is read, and nothing more can come. */
  private get isAtEnd(): boolean {
    const { shape, given, mayEnd } = this.world
    if (this.index === 0 && given.size < shape.splits[0]!) return false
    return mayEnd()
  }

  poll(): ReturnType<SourceReader['poll']> {
    const { shape, random, pollFailure } = this.world
    if (pollFailure.armed) {
      pollFailure.armed = false
      throw new Error('planned failure of a reader')
    }
    const open = this.splits.filter((split) => split.next < shape.rowsPerSplit)
    if (open.length === 0 && !this.isPaused && this.isAtEnd) {
      this.hasEnded = true
      return { kind: 'end' }
    }
    if (this.isPaused) return { kind: 'pending' }
    if (open.length === 0) {
      this.pause(LOOK_MS)
      return { kind: 'pending' }
    }
    const loud = open.filter((split) => !this.isQuiet(split) && !this.ahead.has(split.id))
    if (loud.length === 0) {
      this.pause(LOOK_MS)
      return { kind: 'pending' }
    }
    if (shape.hasQuietSplit) this.pause(TRICKLE_MS)
    else if (random.chance(0.5)) this.pause(random.next() * shape.pauseMsMax)
    const split = random.pick(loud)
    const from = split.next
    this.world.drift.asked(`subtask ${this.context.subtask} of source ${this.index}`, this.reachedMs)
    if (shape.pausesSplits) this.world.drift.asked(`split ${split.id} of source ${this.index}`, split.reachedMs)
    const rowsMax = shape.hasQuietSplit ? 1 : random.between(1, shape.batchRows)
    const rows = this.readOn(split, Math.min(shape.rowsPerSplit, from + rowsMax))
    const offsets = Float64Array.from(rows, (_, k) => from + k)
    return { kind: 'batch', split: split.id, batch: batchOfRows(INPUT, rows), offsets }
  }

  private isQuiet(split: { readonly id: string; readonly next: number }): boolean {
    const { shape, quietIsOver } = this.world
    if (!shape.hasQuietSplit || this.index !== 0 || split.next > 0) return false
    return Number(split.id) === shape.splits[0]! - 1 && !quietIsOver()
  }

  private pause(ms: number): void {
    this.isPaused = true
    this.cancelPause = this.context.worker.io.timers.schedule(ms, () => {
      this.isPaused = false
      this.context.wake()
    })
  }

  snapshot(): SplitState[] {
    return this.splits.map(({ id, next }) => ({ id, position: next }))
  }

  async close(): Promise<void> {
    this.cancelPause()
  }
}
