/**
 * The conformance kit of sources: `checkSource` reads one in every way in which the engine may, and throws an
 * AssertionError that says which promise of `Source` (engine/contract/source.ts) does not hold.
 *
 * Used by the tests of our connectors and by those of whoever writes one. It knows nothing of the source but its data:
 * what a plain reading gives, split by split, is what every other way must give.
 *
 * Covered: batch sizes; snapshot after every batch and restore from it; a crash that loses what was polled since;
 * rescaling from p to q readers at any instant; paused splits; splits found while it reads; readers without splits;
 * closing half-way; rows that stay in place until the next poll; dead letters given as often as their records are read.
 */
import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import type {
  DeadLetter,
  Source,
  SourcePoll,
  SourceReader,
  SourceReaderContext,
  SplitEnumeratorContext,
  SplitState,
} from '../contract/source.ts'
import { BATCH_ROWS_MAX, type Batch } from '../core/batch.ts'
import { rowReader } from '../core/rows.ts'
import { connectorWorker } from './connector-worker.ts'
import { SeededRandom } from './sim/seeded-random.ts'

export interface SourceCheckOptions<T> {
  /** A new source over the same data at each call. */
  readonly source: () => Source<T> | Promise<Source<T>>
  /** Rows of all splits together, in any order. Left out, what a plain reading gives is taken to be right. */
  readonly rows?: readonly T[]
  /** Records that cannot be decoded, all splits together; none unless told. */
  readonly deadLetters?: number
  /** Random schedules of polls, crashes and rescales; 20 unless told. */
  readonly schedules?: number
  readonly seed?: number
  /**
   * False for a source that cannot be read again (a socket): only plain readings are compared then.
   */
  readonly replayable?: boolean
  /** Longest that a reader may be silent after `pending`, milliseconds; 10,000 unless told. */
  readonly wakeTimeoutMs?: number
}

/** Most snapshots that are restored one by one; of more, evenly spread ones are taken. */
const RESTORES_MAX = 25

/** What was read of one split, in order; rows as text. */
interface SplitRows {
  readonly rows: string[]
  /** Event times that the source gives, NaN where it gives none. */
  readonly times: number[]
  readonly letters: string[]
}

type Reading = Map<string, SplitRows>

/** Checks every promise that applies. Rejects with an AssertionError, or with what the source throws. */
export async function checkSource<T>(options: SourceCheckOptions<T>): Promise<void> {
  const check = new SourceCheck(options)
  await check.splitsAreStable()
  await check.plainReading()
  await check.batchSizes()
  if (options.replayable === false) return
  await check.restores()
  await check.readersWithoutSplits()
  await check.pausedSplits()
  await check.foundSplits()
  await check.closesHalfWay()
  await check.schedules()
}

class SourceCheck<T> {
  private readonly options: SourceCheckOptions<T>
  /** What a plain reading gave. */
  private expected: Reading = new Map()
  private readonly bell: Bell

  constructor(options: SourceCheckOptions<T>) {
    this.options = options
    this.bell = new Bell(options.wakeTimeoutMs ?? 10_000)
  }

  async splitsAreStable(): Promise<void> {
    const first = await this.splits()
    const again = await this.splits()
    assert.deepEqual(again, first, 'the same data gives the same splits each time')
    assert.equal(new Set(first.map(({ id }) => id)).size, first.length, 'no two splits have the same id')
  }

  async plainReading(): Promise<void> {
    this.expected = await this.readAll(await this.splits(), BATCH_ROWS_MAX)
    const all = [...this.expected.values()]
    const { rows, deadLetters = 0 } = this.options
    if (rows !== undefined) {
      assert.deepEqual(all.flatMap((split) => split.rows).sort(), rows.map(text).sort(), 'the source gives its rows')
    }
    assert.equal(all.flatMap((split) => split.letters).length, deadLetters, 'dead letters')
  }

  async batchSizes(): Promise<void> {
    for (const rowsMax of [1, 2, 7]) {
      const reading = await this.readAll(await this.splits(), rowsMax)
      assertSame(reading, this.expected, `read in batches of at most ${rowsMax}`)
    }
  }

  /** From the snapshot after each batch, and before the first, a new reader gives exactly the rest. */
  async restores(): Promise<void> {
    const splits = await this.splits()
    const first = await this.open(splits)
    const cuts = [{ before: copyOf(first.read), positions: first.snapshot() }]
    const rowsMax = Math.max(1, Math.ceil(rowsOf(this.expected) / RESTORES_MAX))
    while (!this.isComplete(first.read)) {
      if (await first.stepOn(rowsMax)) cuts.push({ before: copyOf(first.read), positions: first.snapshot() })
    }
    await first.close()
    for (const { before, positions } of cuts) {
      assert.deepEqual(ids(positions), ids(splits), 'a snapshot names every split that the reader was given')
      const rest = await this.readAll(positions, 5, before)
      assertSame(rest, this.expected, `restored after ${rowsOf(before)} rows, from ${inspect(positions, SHOWN)}`)
    }
  }

  async readersWithoutSplits(): Promise<void> {
    const reader = await this.open([])
    const polled = reader.poll(10)
    const isResting = polled.kind === 'end' || (polled.kind === 'pending' && reader.source.boundedness === 'unbounded')
    assert.ok(isResting, `a reader without splits says ${polled.kind}`)
    assert.deepEqual(reader.snapshot(), [], 'a reader without splits has no positions')
    await reader.close()
  }

  /** Of splits that are paused nothing comes while another has records. */
  async pausedSplits(): Promise<void> {
    const splits = await this.splits()
    const running = splits.filter(({ id }) => (this.expected.get(id)?.rows.length ?? 0) > 0).at(-1)
    if (running === undefined || splits.length < 2) return
    const reader = await this.open(splits)
    if (reader.canPause) {
      reader.pause(new Set(ids(splits).filter((id) => id !== running.id)))
      const wanted = this.expected.get(running.id)!.rows.length
      while ((reader.read.get(running.id)?.rows.length ?? 0) < wanted) {
        await reader.stepOn(7)
        const read: string[] = ids(splits).filter(
          (id) => id !== running.id && (reader.read.get(id)?.rows.length ?? 0) > 0,
        )
        assert.deepEqual(read, [], `splits that are read although they are paused and ${running.id} has records`)
      }
      reader.pause(new Set())
      await this.finish(reader, 7)
      assertSame(reader.read, this.expected, 'after a pause')
    }
    await reader.close()
  }

  /** Splits that are found later are read like the others. */
  async foundSplits(): Promise<void> {
    const source = await this.options.source()
    if (source.discoveryIntervalMs === undefined || source.discoveryIntervalMs === null) return
    const splits = await this.splits()
    const half = splits.length >> 1
    const reader = await this.open(splits.slice(0, half))
    await reader.stepOn(3)
    reader.addSplits(splits.slice(half))
    assert.deepEqual(ids(reader.snapshot()), ids(splits), 'a snapshot names the splits that were added')
    await this.finish(reader, 3)
    assertSame(reader.read, this.expected, 'with splits that were found while it read')
    await reader.close()
  }

  async closesHalfWay(): Promise<void> {
    const fresh = await this.open(await this.splits())
    await fresh.close()
    const reading = await this.open(await this.splits())
    await reading.stepOn(1)
    await reading.close()
  }

  /** Any interleaving of polls by p readers, crashes that lose what came since a checkpoint, and rescales to q readers. */
  async schedules(): Promise<void> {
    const seed = this.options.seed ?? 1
    for (let k = 0; k < (this.options.schedules ?? 20); k++) {
      const random = new SeededRandom(seed + k)
      const reading = await this.schedule(random, await this.splits())
      assertSame(reading, this.expected, `schedule of seed ${seed + k}`)
    }
  }

  private async schedule(random: SeededRandom, start: readonly SplitState[]): Promise<Reading> {
    let checkpoint: { readonly positions: readonly SplitState[]; readonly read: Reading } = {
      positions: start,
      read: new Map(),
    }
    for (let crashes = 0; ; ) {
      const readers = await this.deploy(checkpoint.positions, 1 + below(random, 4), random)
      // A crash now and then, but not for ever.
      const stepsLeft = crashes < 5 ? 1 + below(random, 12) : Number.POSITIVE_INFINITY
      const read = await this.run(readers, checkpoint, stepsLeft, random, (cut) => {
        checkpoint = cut
      })
      await Promise.all(readers.map((reader) => reader.close()))
      if (read !== null) return read
      crashes++
    }
  }

  /** Splits dealt out over some readers, as after a restore with another parallelism. */
  private async deploy(positions: readonly SplitState[], parallelism: number, random: SeededRandom) {
    const parts = Array.from({ length: parallelism }, (): SplitState[] => [])
    for (const split of positions) parts[below(random, parallelism)]!.push(split)
    return Promise.all(parts.map((part, subtask) => this.open(part, new Map(), subtask, parallelism)))
  }

  /** Polls readers in random order; returns what was read in all once that is everything, null after a crash. */
  private async run(
    readers: readonly ReaderUnderTest<T>[],
    from: { readonly read: Reading },
    steps: number,
    random: SeededRandom,
    onCheckpoint: (cut: { positions: readonly SplitState[]; read: Reading }) => void,
  ): Promise<Reading | null> {
    const read = (): Reading => merged([from.read, ...readers.map((reader) => reader.read)])
    for (let step = 0; ; step++) {
      if (this.isComplete(read())) return read()
      if (step >= steps) return null
      const ready = readers.filter((reader) => reader.isReady)
      if (ready.length === 0) await this.bell.rung()
      else if (ready[below(random, ready.length)]!.step(1 + below(random, 9)) === 'pending') await turn()
      if (below(random, 4) === 0) {
        onCheckpoint({ positions: readers.flatMap((one) => one.snapshot()), read: copyOf(read()) })
      }
    }
  }

  private async splits(): Promise<readonly SplitState[]> {
    const context: SplitEnumeratorContext = { worker: connectorWorker() }
    return plain(await (await this.options.source()).splits(context))
  }

  private async open(splits: readonly SplitState[], read: Reading = new Map(), subtask = 0, parallelism = 1) {
    const reader = new ReaderUnderTest(await this.options.source(), copyOf(read), subtask, parallelism, this.bell)
    await reader.open(splits)
    return reader
  }

  private async readAll(splits: readonly SplitState[], rowsMax: number, before: Reading = new Map()): Promise<Reading> {
    const reader = await this.open(splits, before)
    await this.finish(reader, rowsMax)
    await reader.close()
    return reader.read
  }

  /** To the end of bounded input; of unbounded input, until nothing more is to be expected. */
  private async finish(reader: ReaderUnderTest<T>, rowsMax: number): Promise<void> {
    const isBounded = reader.source.boundedness === 'bounded'
    const { rows, deadLetters = 0 } = this.options
    if (!isBounded) assert.ok(rows !== undefined, 'give `rows` for a source without an end')
    const isDone = (): boolean => rowsOf(reader.read) >= rows!.length && lettersOf(reader.read) >= deadLetters
    while (isBounded ? reader.hasMore : !isDone()) await reader.stepOn(rowsMax)
  }

  private isComplete(reading: Reading): boolean {
    return rowsOf(reading) >= rowsOf(this.expected) && lettersOf(reading) >= lettersOf(this.expected)
  }
}

/** One reader with what it gave so far. */
class ReaderUnderTest<T> {
  readonly source: Source<T>
  readonly read: Reading
  /** It has not said that its input ended. */
  hasMore = true
  private readonly reader: SourceReader
  private readonly rowOf: (batch: Batch, row: number) => unknown
  private readonly known = new Set<string>()
  private readonly finished = new Set<string>()
  private readonly bell: Bell
  /** `pending` was its last answer, and no wake came since it was asked. */
  private isPending = false
  private failure: { readonly error: unknown } | null = null

  constructor(source: Source<T>, read: Reading, subtask: number, parallelism: number, bell: Bell) {
    this.source = source
    this.read = read
    this.bell = bell
    const worker = connectorWorker()
    this.rowOf = rowReader(source.schema, worker.interner, worker.uniqueId('check-source'))
    const context: SourceReaderContext = {
      subtask,
      parallelism,
      worker,
      checkpointing: true,
      wake: () => this.wake(),
      fail: (error) => {
        this.failure = { error }
        this.wake()
      },
      deadLetter: (letter) => this.split(letter.partition).letters.push(letterText(letter)),
    }
    this.reader = source.createReader(context)
  }

  async open(splits: readonly SplitState[]): Promise<void> {
    for (const { id } of splits) this.known.add(id)
    await this.reader.open(splits)
  }

  get canPause(): boolean {
    return this.reader.pauseSplits !== undefined
  }

  pause(paused: ReadonlySet<string>): void {
    this.reader.pauseSplits!(paused)
    this.wake()
  }

  addSplits(splits: readonly SplitState[]): void {
    for (const { id } of splits) this.known.add(id)
    assert.ok(this.reader.addSplits !== undefined, 'a source with discoveryIntervalMs has readers with addSplits')
    this.reader.addSplits(splits)
    this.wake()
  }

  snapshot(): readonly SplitState[] {
    return plain(this.reader.snapshot())
  }

  /** Worth polling. */
  get isReady(): boolean {
    return this.hasMore && !this.isPending
  }

  poll(rowsMax: number) {
    if (this.failure !== null) throw this.failure.error
    return this.reader.poll(rowsMax)
  }

  close(): Promise<void> {
    return this.reader.close()
  }

  /** Polls once, when it is worth it. Returns true when rows came. */
  async stepOn(rowsMax: number): Promise<boolean> {
    while (!this.isReady) await this.bell.rung()
    const kind = this.step(rowsMax)
    if (kind === 'pending') await turn()
    return kind === 'batch'
  }

  /** Polls once. */
  step(rowsMax: number): SourcePoll['kind'] {
    assert.ok(this.hasMore, 'nothing is polled after the end')
    this.isPending = true
    const polled = this.poll(rowsMax)
    if (polled.kind !== 'pending') this.isPending = false
    switch (polled.kind) {
      case 'end':
        this.hasMore = false
        break
      case 'finished':
        assert.ok(this.known.has(polled.split), `${polled.split} is not a split of this reader`)
        this.finished.add(polled.split)
        break
      case 'batch':
        this.take(polled.split, polled.batch, rowsMax)
    }
    return polled.kind
  }

  private take(split: string, batch: Batch, rowsMax: number): void {
    assert.ok(this.known.has(split), `${split} is not a split of this reader`)
    assert.ok(!this.finished.has(split), `rows of split ${split} after it was finished`)
    assert.ok(batch.length >= 1, 'a batch has rows')
    assert.ok(batch.length <= rowsMax, `a batch of ${batch.length} rows where ${rowsMax} were asked for`)
    const { rows, times } = this.split(split)
    const shown = Array.from({ length: batch.length }, (_, i) => text(this.rowOf(batch, i)))
    this.reader.snapshot()
    for (const [i, row] of shown.entries()) {
      assert.equal(text(this.rowOf(batch, i)), row, 'rows stay in place until the next poll, also over a snapshot')
    }
    rows.push(...shown)
    times.push(...batch.eventTime.subarray(0, batch.length))
  }

  private split(id: string): SplitRows {
    let split = this.read.get(id)
    if (split === undefined) {
      split = { rows: [], times: [], letters: [] }
      this.read.set(id, split)
    }
    return split
  }

  private wake(): void {
    this.isPending = false
    this.bell.ring()
  }
}

/** What the event loop has for others: between polls the engine gives it its turn too. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** Rung by every wake of every reader. */
class Bell {
  private readonly timeoutMs: number
  private heard: (() => void) | null = null

  constructor(timeoutMs: number) {
    this.timeoutMs = timeoutMs
  }

  ring(): void {
    this.heard?.()
  }

  /** Resolves at the next ring; rejects when none comes for too long. */
  rung(): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new assert.AssertionError({ message: 'after `pending`, wake() never came' }))
      const timer = setTimeout(late, this.timeoutMs)
      this.heard = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

const SHOWN = { depth: null, breakLength: Number.POSITIVE_INFINITY } as const
const WHOLE = { ...SHOWN, sorted: true, maxArrayLength: null, maxStringLength: null } as const

function text(value: unknown): string {
  return inspect(value, WHOLE)
}

function letterText({ offset, reason, bytes }: DeadLetter): string {
  return `${offset} ${reason} ${Buffer.from(bytes).toString('latin1')}`
}

/** Positions as a checkpoint gives them back. */
function plain(splits: readonly SplitState[]): SplitState[] {
  return JSON.parse(JSON.stringify(splits)) as SplitState[]
}

function ids(splits: readonly SplitState[]): string[] {
  return splits.map(({ id }) => id).sort()
}

function below(random: SeededRandom, bound: number): number {
  return Math.floor(random.next() * bound)
}

function rowsOf(reading: Reading): number {
  return [...reading.values()].reduce((sum, { rows }) => sum + rows.length, 0)
}

function lettersOf(reading: Reading): number {
  return [...reading.values()].reduce((sum, { letters }) => sum + letters.length, 0)
}

function copyOf(reading: Reading): Reading {
  return merged([reading])
}

/** Parts in the order in which they were read. */
function merged(readings: readonly Reading[]): Reading {
  const all: Reading = new Map()
  for (const [id, part] of readings.flatMap((reading) => [...reading])) {
    const before = all.get(id) ?? { rows: [], times: [], letters: [] }
    all.set(id, {
      rows: [...before.rows, ...part.rows],
      times: [...before.times, ...part.times],
      letters: [...before.letters, ...part.letters],
    })
  }
  return all
}

/** Every split gave the same rows and dead letters in the same order. */
function assertSame(reading: Reading, expected: Reading, how: string): void {
  const shown = (of: Reading) => Object.fromEntries([...of].filter(([, s]) => s.rows.length + s.letters.length > 0))
  assert.deepEqual(shown(reading), shown(expected), `${how}: every split gives the same rows in the same order`)
}
