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
}

/** How often a reader looks whether the quiet split has become loud. */
const QUIET_LOOK_MS = 20

export function simSource(world: SimSourceWorld, index: number): Source<InputRow> {
  return {
    kind: 'simulated',
    schema: INPUT,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: world.shape.splits[index]! }, (_, i) => ({ id: String(i), position: 0 })),
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
    this.splits = assigned.map((split) => ({ id: split.id, next: split.position as number }))
  }

  poll(): ReturnType<SourceReader['poll']> {
    const { shape, random, pollFailure } = this.world
    if (pollFailure.armed) {
      pollFailure.armed = false
      throw new Error('planned failure of a reader')
    }
    const open = this.splits.filter((split) => split.next < shape.rowsPerSplit)
    if (open.length === 0) return { kind: 'end' }
    if (this.isPaused) return { kind: 'pending' }
    const loud = open.filter((split) => !this.isQuiet(split))
    if (loud.length === 0) {
      this.pause(QUIET_LOOK_MS)
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
