/**
 * What simulated jobs read: a random small shape from the seed, and its rows, fixed by the shape alone.
 *
 * Used by sim-source.ts, which serves the rows, and by sim-results.ts, which knows them all. Row `i` of a
 * split is the same in every run, so a record's effect can be followed to every sink.
 */
import { type RowOf, schema, t } from '../../core/schema.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { Branch } from './sim-branch.ts'
import { BRANCHES, type BranchName } from './sim-branches.ts'
import { branchNames, DRAW_NEWEST, type Draw } from './sim-draws.ts'
import { SIM_START_MS } from './sim-scheduler.ts'

/** How windows compute their aggregate: each is another path through the engine. */
export type WindowWork = 'columns' | 'aggregate' | 'reduce' | 'process'
export type WindowKind = 'tumbling' | 'sliding' | 'cumulative'

/** How rows ask an outside system before they go on. */
export interface Requests {
  readonly isOrdered: boolean
  readonly capacity: number
  readonly latencyMsMax: number
}

export interface SimShape {
  readonly draw: Draw
  /** Splits of each source. */
  readonly splits: readonly number[]
  readonly rowsPerSplit: number
  readonly keys: number
  readonly parallelism: number
  readonly workers: number
  readonly keyGroups: number
  /** Batches that a channel holds. */
  readonly channelCapacity: number
  /** Channels between workers are rings over shared memory instead of queues. */
  readonly rings: boolean
  /** Checkpoints lie in an object store; then a second process may take over while the first is paused. */
  readonly isRemote: boolean
  readonly batchRows: number
  /** Longest pause between two batches of a reader. */
  readonly pauseMsMax: number
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly stateMemoryBytes: number
  /** With more output than that waiting, sources do. */
  readonly pendingOutputBytesMax: number
  readonly branches: readonly BranchName[]
  /** Operators are not chained. */
  readonly unchained: boolean
  readonly windowKind: WindowKind
  /** Size; of cumulative windows the greatest. */
  readonly windowMs: number
  /** From one window to the next: the slide or step. */
  readonly windowStepMs: number
  readonly windowWork: WindowWork
  readonly countSize: number
  readonly latenessMs: number
  /** Events are out of order by at most this, as the watermarks assume. */
  readonly disorderMs: number
  /** One record in so many comes later than the watermarks assume; 0 for none. */
  readonly lateEvery: number
  /** One record in so many has an impossible time; 0 for none. */
  readonly badEvery: number
  /** A split without records for this long does not hold time back; null turns that off. */
  readonly idleAfterMs: number | null
  /** The last split of the first source is silent until a window of the others was seen outside. */
  readonly hasQuietSplit: boolean
  /** Subtasks of sources read no further ahead of each other than this; null for any distance. */
  readonly driftMs: number | null
  /** Null: rows do not ask. */
  readonly requests: Requests | null
  /** Share of offers that a sink's writer does not take whole. */
  readonly slowSinkRate: number
  /** Time to live of state, and how long a timer of the clock waits. */
  readonly livesMs: number
  /** Splits of the first source that appear while the job runs; null: all are there from the start. */
  readonly discovery: Discovery | null
  /** Barriers hold no input back. */
  readonly isAtLeastOnce: boolean
  /** Bytes of batches without room that a queue keeps in memory before it writes the rest to a file; null: many. */
  readonly spillBeyondBytes: number | null
  /** Of a cut, how much goes into the store at a time; null for a part of the state's memory. */
  readonly cutPieceBytes: number | null
  /** Damaged state is noticed when it is read, not when it is restored. */
  readonly noticesRotLate: boolean
  /** After this long a request is given up, and some are never answered; null: all are, and none is given up. */
  readonly requestTimeoutMs: number | null
  /** In batch execution: nothing is late, and a failure or a stop begins the job anew. */
  readonly isBatch: boolean
  /** Readers stop reading single splits that are too far ahead. */
  readonly pausesSplits: boolean
}

export interface Discovery {
  /** How often the job looks. */
  readonly everyMs: number
  /** When each split of the first source appears, in simulated milliseconds since the start. */
  readonly appearAtMs: readonly number[]
}

/** For branches that ask in every job. */
export const REQUESTS_DEFAULT: Requests = { isOrdered: false, capacity: 4, latencyMsMax: 25 }

/** Windows of event time are what jobs are mostly made of, and what a quiet split is tried with. */
const OFTEN: readonly BranchName[] = ['windows', 'windows']

function randomBranches(random: SeededRandom, draw: Draw, isAtLeastOnce: boolean): BranchName[] {
  const all = branchNames(draw)
  const names = isAtLeastOnce ? all.filter(repeats) : [...all, ...OFTEN]
  const count = random.pick([1, 1, 2, 2, 3, 4])
  const chosen = new Set<BranchName>()
  while (chosen.size < count) chosen.add(random.pick(names))
  return [...chosen]
}

function repeats(name: BranchName): boolean {
  const branch: Branch = BRANCHES[name]
  return branch.mayRepeat === true
}

function goesByClock(name: BranchName): boolean {
  const branch: Branch = BRANCHES[name]
  return branch.goesByClock === true
}

/** May the clock of the machines be set back? */
export function clockMayGoBack({ branches }: SimShape): boolean {
  return !branches.some(goesByClock)
}

/** May a later version of the job have this branch? */
export function isAddable(shape: SimShape, name: BranchName): boolean {
  if (BRANCHES[name].sources > shape.splits.length) return false
  if (shape.isAtLeastOnce && !repeats(name)) return false
  return !goesByClock(name) || !(shape.isBatch || clockMayGoBack(shape))
}

/** The shape as a job whose rows may repeat after a failure. */
export function withRepeats(shape: SimShape): SimShape {
  const branches = shape.branches.filter(repeats)
  return { ...shape, isAtLeastOnce: true, hasQuietSplit: false, branches: branches.length > 0 ? branches : ['timers'] }
}

function randomDiscovery(random: SeededRandom, splits: number): Discovery {
  const appearAtMs = Array.from({ length: splits }, () => (random.chance(0.3) ? 0 : random.between(1, 250)))
  return { everyMs: random.between(5, 60), appearAtMs }
}

function randomWindows(random: SeededRandom): Pick<SimShape, 'windowKind' | 'windowMs' | 'windowStepMs'> {
  const windowKind = random.pick<WindowKind>(['tumbling', 'tumbling', 'sliding', 'cumulative'])
  if (windowKind === 'tumbling') {
    const windowMs = random.between(20, 200)
    return { windowKind, windowMs, windowStepMs: windowMs }
  }
  const windowStepMs = random.between(15, 70)
  // A sliding window need not be a multiple of its slide.
  const rest = windowKind === 'sliding' && random.chance(0.3) ? random.between(1, windowStepMs - 1) : 0
  return { windowKind, windowMs: windowStepMs * random.between(2, 4) + rest, windowStepMs }
}

/** The windows of a time as `start-end`, by their end. */
export function windowsOf({ windowKind, windowMs, windowStepMs }: SimShape, time: number): string[] {
  const windows: string[] = []
  if (windowKind === 'cumulative') {
    const start = Math.floor(time / windowMs) * windowMs
    for (let end = start + windowStepMs; end <= start + windowMs; end += windowStepMs) {
      if (end > time) windows.push(`${start}-${end}`)
    }
    return windows
  }
  for (let start = Math.floor(time / windowStepMs) * windowStepMs; start + windowMs > time; start -= windowStepMs) {
    windows.unshift(`${start}-${start + windowMs}`)
  }
  return windows
}

const REMOTE_TIMEOUTS = 3

export function randomShape(random: SeededRandom, draw: Draw = DRAW_NEWEST): SimShape {
  const isAtLeastOnce = random.chance(0.08)
  const branches = randomBranches(random, draw, isAtLeastOnce)
  const needsTwo = branches.some((name) => BRANCHES[name].sources === 2)
  const first = random.between(1, 4)
  const shape = {
    draw,
    cutPieceBytes: null,
    pendingOutputBytesMax: 0,
    splits: needsTwo ? [first, random.between(1, 3)] : [first],
    rowsPerSplit: random.between(5, needsTwo ? 30 : 60),
    keys: random.between(1, 9),
    parallelism: random.between(1, 4),
    workers: random.between(1, 3),
    keyGroups: random.pick([4, 7, 16]),
    channelCapacity: random.between(1, 2),
    rings: random.chance(0.15),
    isRemote: random.chance(0.35),
    batchRows: random.between(1, 6),
    pauseMsMax: random.between(1, 12),
    intervalMs: random.between(5, 60),
    timeoutMs: random.between(150, 600),
    stateMemoryBytes: random.pick([1 << 10, 1 << 14, 1 << 20]),
    branches,
    unchained: random.chance(0.3),
    ...randomWindows(random),
    windowWork: random.pick<WindowWork>(['columns', 'aggregate', 'reduce', 'process']),
    countSize: random.between(1, 4),
    latenessMs: random.chance(0.4) ? random.between(1, 150) : 0,
    disorderMs: random.between(0, 30),
    lateEvery: random.chance(0.4) ? random.between(3, 12) : 0,
    badEvery: random.chance(0.4) ? random.between(4, 15) : 0,
    idleAfterMs: random.chance(0.5) ? random.between(20, 150) : null,
    hasQuietSplit: false,
    driftMs: random.chance(0.25) ? random.between(0, 300) : null,
    requests: random.chance(0.25)
      ? { isOrdered: random.chance(0.5), capacity: random.between(1, 8), latencyMsMax: random.between(1, 60) }
      : null,
    slowSinkRate: random.chance(0.4) ? 0.3 : 0,
    livesMs: random.between(10, 120),
    discovery: random.chance(0.15) ? randomDiscovery(random, first) : null,
    isAtLeastOnce,
    spillBeyondBytes: random.pick([null, 0, 0, 400]),
    noticesRotLate: random.chance(0.4),
    requestTimeoutMs: null,
    isBatch: false,
    pausesSplits: false,
  }
  const drawn = {
    ...shape,
    hasQuietSplit: canBeQuiet(shape) && random.chance(0.8),
    // Where every step is a request, a short one would be met by so few attempts that the job might not end.
    timeoutMs: shape.isRemote ? shape.timeoutMs * REMOTE_TIMEOUTS : shape.timeoutMs,
    // Not drawn, so that recorded seeds keep their runs.
    cutPieceBytes: [null, 1, 100][shape.rowsPerSplit % 3]!,
    pendingOutputBytesMax: draw === 1 ? 1 << 30 : [1 << 30, 4_000, 200][shape.livesMs % 3]!,
    // What came later is drawn last, for the same reason.
    requestTimeoutMs: random.chance(0.5) ? random.between(80, 250) : null,
  }
  if (draw < 3) return drawn
  return { ...drawn, isBatch: canBeBatch(drawn) && random.chance(0.1), pausesSplits: random.chance(0.5) }
}

/** What goes by the clock comes to nothing when time only moves at the end of input. */
function canBeBatch(shape: SimShape): boolean {
  const needsTime = shape.hasQuietSplit || shape.driftMs !== null || shape.branches.some(goesByClock)
  return !needsTime && !shape.isAtLeastOnce
}

/** The other splits must get a window to its end by themselves, and still bring rows when the quiet one is idle. */
function canBeQuiet(shape: SimShape): boolean {
  return (
    shape.driftMs === null &&
    shape.discovery === null &&
    shape.branches.includes('windows') &&
    shape.idleAfterMs !== null &&
    shape.splits[0]! > 1 &&
    (shape.rowsPerSplit - 1) * ROW_SPACING_MS > shape.disorderMs + 2 * shape.windowMs &&
    shape.rowsPerSplit * TRICKLE_MS > shape.idleAfterMs + 150
  )
}

/** `time` is the event time in milliseconds since 1970; `group` is the key of a second hop. */
export const INPUT = schema({ key: t.string(), id: t.float64(), time: t.float64(), group: t.string() })
export type InputRow = RowOf<{
  key: ReturnType<typeof t.string>
  id: ReturnType<typeof t.float64>
  time: ReturnType<typeof t.float64>
  group: ReturnType<typeof t.string>
}>

const ROW_SPACING_MS = 11
/** Beside a quiet split rows come one by one, with this between them. */
export const TRICKLE_MS = 12
const IDS_PER_SOURCE = 100_000
const IDS_PER_SPLIT = 1_000

export function inputRow(shape: SimShape, source: number, split: number, i: number): InputRow {
  const key = (split * 31 + i * 7 + ((i * i) % 5)) % shape.keys
  const isBad = shape.badEvery > 0 && (i + split) % shape.badEvery === 0
  const isLate = comesLate(shape, i)
  const disorder = shape.disorderMs === 0 ? 0 : (i * 13) % (shape.disorderMs + 1)
  const lateness = isLate ? shape.disorderMs + 40 + ((i * 29) % 300) : disorder
  const time = isBad ? -1 : SIM_START_MS - 3_600_000 + i * ROW_SPACING_MS - lateness
  const id = source * IDS_PER_SOURCE + split * IDS_PER_SPLIT + i
  return { key: `key-${key}`, id, time, group: `group-${key % 2}` }
}

function comesLate({ lateEvery }: SimShape, i: number): boolean {
  return lateEvery > 0 && i % lateEvery === lateEvery - 1
}

/** Is the row certainly not late, whatever the order in which rows came? */
export function isOnTime(shape: SimShape, row: InputRow): boolean {
  if (shape.isBatch) return true
  return shape.idleAfterMs === null && shape.discovery === null && !comesLate(shape, originOf(row.id).offset)
}

export function isBadRow(row: InputRow): boolean {
  return row.time < 0
}

/** Where the row with this id comes from. */
export function originOf(id: number): { readonly source: number; readonly split: number; readonly offset: number } {
  return {
    source: Math.floor(id / IDS_PER_SOURCE),
    split: Math.floor((id % IDS_PER_SOURCE) / IDS_PER_SPLIT),
    offset: id % IDS_PER_SPLIT,
  }
}

/** Uid of a source. */
export function sourceUid(source: number): string {
  return source === 0 ? 'input' : 'other'
}

/** Could any record be later than the watermark before it? */
export function lateIsPossible(shape: SimShape): boolean {
  return !shape.isBatch && (shape.lateEvery > 0 || shape.idleAfterMs !== null || shape.discovery !== null)
}
