/**
 * The source of simulated jobs: serves the rows of sim-input.ts in random portions with random pauses.
 *
 * Called by sim-job.ts. A split's position is the number of rows read from it.
 */
import type { Source, SourceReader, SourceReaderContext, SplitState } from '../../contract/source.ts'
import { batchOfRows } from '../../core/rows.ts'
import type { SeededRandom } from './seeded-random.ts'
import { INPUT, type InputRow, inputRow, type SimShape, TRICKLE_MS } from './sim-input.ts'

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

class SimReader implements SourceReader {
  private splits: { readonly id: string; next: number }[] = []
  private isPaused = false
  private cancelPause: () => void = () => {}
  private readonly world: SimSourceWorld
  private readonly index: number
  private readonly context: SourceReaderContext

  constructor(world: SimSourceWorld, index: number, context: SourceReaderContext) {
    this.world = world
    this.index = index
    this.context = context
  }

  async open(assigned: readonly SplitState[]): Promise<void> {
    this.addSplits(assigned)
  }

  addSplits(found: readonly SplitState[]): void {
    for (const { id, position } of found) {
      this.splits.push({ id, next: position as number })
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
    if (open.length === 0 && !this.isPaused && this.isAtEnd) return { kind: 'end' }
    if (this.isPaused) return { kind: 'pending' }
    if (open.length === 0) {
      this.pause(LOOK_MS)
      return { kind: 'pending' }
    }
    const loud = open.filter((split) => !this.isQuiet(split))
    if (loud.length === 0) {
      this.pause(LOOK_MS)
      return { kind: 'pending' }
    }
    if (shape.hasQuietSplit) this.pause(TRICKLE_MS)
    else if (random.chance(0.5)) this.pause(random.next() * shape.pauseMsMax)
    const split = random.pick(loud)
    const from = split.next
    const rowsMax = shape.hasQuietSplit ? 1 : random.between(1, shape.batchRows)
    split.next = Math.min(shape.rowsPerSplit, from + rowsMax)
    const offsets = Float64Array.from({ length: split.next - from }, (_, k) => from + k)
    const rows = Array.from(offsets, (i) => inputRow(shape, this.index, Number(split.id), i))
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
