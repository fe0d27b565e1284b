/**
 * Firings of very many keys, at every turn of which rows come, some of them late, a barrier is offered, and the subtask
 * may die: decision 13. What comes out after the last cut is what a naive model gives for the log, each result once.
 *
 * `npm test` kills firings of two thousand keys in their midst. The long form (`npm run test:scale`) kills firings of
 * ten turns at each of them, and those of a million keys at one turn, because each kill costs a load and a restore of
 * them all (`FIRE_KILLS=4` kills at four); each of their turns has late rows and a barrier, and none may take a time that
 * grows with the number of keys.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { memoryStoreFactory } from '../../state/memory-store.ts'
import { rocksdbStoreFactory } from '../../state/rocksdb-store.ts'
import { FIRE_CASES, type FireCase, RING_MS, WINDOW_MS } from './fire-cases.ts'
import {
  type Emitted,
  type FireImage,
  FireSubtask,
  type LogEntry,
  type Result,
  type Results,
  type RigPlan,
  type RowRun,
  rowOf,
} from './fire-rig.ts'

const isLong = process.env['SCALE'] === 'long'
/** Keys that a model plays at a time. */
const BLOCK_KEYS = 5_000
/** Of the rows of a window this part comes after the cut. */
const AFTER_CUT = 0.1
/** Every so many keys also have a row in the next window, and in the one before. */
const NEXT_WINDOW_EVERY = 8
const WINDOW_BEFORE_EVERY = 16
/** Every so many keys that the cut has come again after it. */
const AGAIN_EVERY = 32
/** Rows of a window lie before this, so that sessions end within it too. */
const TIMES_MS = 800

/** What the subtask was sent, and what it is sent next. */
class Scenario {
  readonly log: LogEntry[] = []
  readonly one: FireCase
  readonly keys: number
  private ids = 0
  attempts = 0

  constructor(one: FireCase, keys: number) {
    this.one = one
    this.keys = keys
  }

  private runOf(rows: readonly (readonly [key: number, time: number])[], input: number): RowRun {
    return {
      kind: 'rows',
      input,
      keys: Int32Array.from(rows, ([key]) => key),
      times: Float64Array.from(rows, ([, time]) => time + (this.one.offsetMs ?? 0)),
      ids: Int32Array.from(rows, () => this.ids++),
    }
  }

  /** The rows of keys [from, to): in the window that fires one a key and input, and some in those beside it. */
  load(from: number, to: number): LogEntry[] {
    const entries: LogEntry[] = []
    for (let input = 0; input < this.one.inputs; input++) {
      const rows: (readonly [number, number])[] = []
      for (let key = from; key < to; key++) {
        const time = (key % TIMES_MS) + input * 50
        rows.push([key, time])
        if (key % WINDOW_BEFORE_EVERY === 1) rows.push([key, time - WINDOW_MS])
        if (key % NEXT_WINDOW_EVERY === 0) rows.push([key, time + WINDOW_MS])
      }
      entries.push(this.runOf(rows, input))
    }
    return entries
  }

  /** A second row in the window that fires, for some of the keys below `to`. */
  again(to: number, first = 0): LogEntry {
    const keys = Array.from({ length: Math.floor(to / AGAIN_EVERY) }, (_, k) => k * AGAIN_EVERY + first)
    return this.runOf(
      keys.map((key) => [key, key % TIMES_MS]),
      0,
    )
  }

  /** A row within the lateness of the firing window, one of the next window, and one that is late for good. */
  late(turn: number): LogEntry {
    const rows = [
      [(turn * 7_919) % this.keys, turn % WINDOW_MS],
      [(turn * 104_729) % this.keys, WINDOW_MS + (turn % WINDOW_MS)],
      [turn % this.keys, -3 * WINDOW_MS],
    ] as const
    return this.runOf(rows, 0)
  }

  /** More rows come before the firing than in the life before: what is on other ways may be faster this time. */
  overtake(): void {
    const { kind } = this.fire()
    const at = this.log.findIndex((entry) => entry.kind === kind)
    this.log.splice(at, 0, this.again(this.keys * (1 - AFTER_CUT) - AGAIN_EVERY, 1))
  }

  /** What makes all keys fire. */
  fire(): LogEntry {
    if (this.one.firesBy === 'clock') return { kind: 'clock', nowMs: RING_MS + 1 }
    return { kind: 'watermark', value: WINDOW_MS - 1 + (this.one.offsetMs ?? 0) }
  }

  barrier(): Extract<LogEntry, { kind: 'barrier' }> {
    return { kind: 'barrier', attempt: ++this.attempts }
  }

  send(subtask: FireSubtask, entry: LogEntry): void {
    this.log.push(entry)
    subtask.send(entry)
  }

  /** Sends the log again from the entry after the barrier of `attempt`; barriers were of a job that is no more. */
  replay(subtask: FireSubtask, attempt: number): void {
    for (const entry of this.log.slice(this.after(attempt))) {
      // What comes with the firing comes after all rows before it are done, as it did.
      if (entry.kind === 'watermark') subtask.run()
      if (entry.kind !== 'barrier') subtask.send(entry)
    }
  }

  /** Where the log goes on after the cut of `attempt`; 0 for a fresh start. */
  after(attempt: number): number {
    return this.log.findIndex((entry) => entry.kind === 'barrier' && entry.attempt === attempt) + 1
  }
}

/** What the model gives for keys [from, to) after entry `after` of the log. */
function expectedOf(
  { log, one }: Scenario,
  from: number,
  to: number,
  after: number,
): { fired: Result[]; late: number } {
  const model = one.model()
  let fired = 0
  let late = 0
  log.forEach((entry, at) => {
    if (at === after) [fired, late] = [model.fired.length, model.late]
    if (entry.kind === 'watermark') model.watermark(entry.value)
    else if (entry.kind === 'clock') model.clock(entry.nowMs)
    else if (entry.kind === 'rows') {
      for (let i = 0; i < entry.keys.length; i++) {
        const key = entry.keys[i]!
        if (key >= from && key < to) model.row(rowOf(entry, i), entry.times[i]!, entry.input)
      }
    }
  })
  return { fired: model.fired.slice(fired), late: model.late - late }
}

/** Positions of each key's results, in order: `next` of one, from `first` of the key on; -1 ends them. */
function chainsOf(results: Results, keys: number): { first: Int32Array; next: Int32Array } {
  const first = new Int32Array(keys).fill(-1)
  const next = new Int32Array(results.count).fill(-1)
  for (let at = results.count - 1; at >= 0; at--) {
    next[at] = first[results.keys[at]!]!
    first[results.keys[at]!] = at
  }
  return { first, next }
}

/** All that came out since the cut of `attempt` is what had to. */
function verify(scenario: Scenario, subtask: FireSubtask, attempt: number): void {
  const { results } = subtask.emitted
  const { first, next } = chainsOf(results, scenario.keys)
  const after = scenario.after(attempt)
  let count = 0
  let late = 0
  for (let from = 0; from < scenario.keys; from += BLOCK_KEYS) {
    const expected = expectedOf(scenario, from, Math.min(scenario.keys, from + BLOCK_KEYS), after)
    const byKey = Map.groupBy(expected.fired, ({ key }) => key)
    for (const [key, own] of byKey) {
      const actual: Result[] = []
      for (let at = first[Number(key.slice(4))]!; at >= 0; at = next[at]!) {
        actual.push({ key, start: results.starts[at]!, rows: results.rows[at]!, sum: results.sums[at]! })
      }
      if (scenario.one.isUnordered === true) for (const list of [actual, own]) list.sort((a, b) => a.sum - b.sum)
      if (!isSame(actual, own)) assert.deepEqual(actual, own)
    }
    count += expected.fired.length
    late += expected.late
  }
  assert.equal(results.count, count)
  assert.equal(subtask.counters.lateDropped, late)
}

const isSame = (a: readonly Result[], b: readonly Result[]): boolean =>
  a.length === b.length &&
  a.every(({ start, rows, sum }, i) => start === b[i]!.start && rows === b[i]!.rows && sum === b[i]!.sum)

interface FiringOptions {
  /** Turns after which the cut before the firing is durable. */
  readonly settleAfter?: number
  /** Turns after which the subtask dies, or what part of the keys has fired by then; never when left out. */
  readonly killAfter?: number
  readonly killAtShare?: number
}

/**
 * Turns until the firing has ended, or the subtask died, or is to. At each of them late rows and a barrier are
 * offered. Returns the image of the cut before, when that was open.
 */
async function fire(
  scenario: Scenario,
  subtask: FireSubtask,
  { settleAfter = Number.POSITIVE_INFINITY, killAfter = Number.POSITIVE_INFINITY, killAtShare = 2 }: FiringOptions,
): Promise<{ turns: number; turnsMs: number[]; image: FireImage | null }> {
  const { emitted, stepsMs } = subtask
  const stepsBefore = stepsMs.length
  const enough = emitted.results.count + killAtShare * scenario.keys
  const isFiring = firingOf(scenario, emitted)
  const [before, cuts] = [subtask.recordsIn, subtask.cuts.length]
  let image: FireImage | null = null
  let turns = 0
  for (; turns < killAfter && emitted.results.count < enough && isFiring(); turns++) {
    if (turns === settleAfter) image = await subtask.settle()
    else if (turns < settleAfter) await subtask.encodeSome()
    scenario.send(subtask, scenario.late(turns))
    subtask.abort(scenario.attempts)
    scenario.send(subtask, scenario.barrier())
    assert.ok(subtask.step(), 'a turn of a firing makes progress')
    if (!isFiring()) continue
    assert.equal(subtask.recordsIn, before, 'rows wait until the firing has ended')
    assert.equal(subtask.cuts.length, cuts, 'so does the barrier')
  }
  const turnsMs = stepsMs.slice(stepsBefore)
  if (image === null && settleAfter < Number.POSITIVE_INFINITY) image = await subtask.settle()
  return { turns, turnsMs, image }
}

/** Whether the firing that the newest entry began is under way still. */
function firingOf({ one, keys }: Scenario, { results, controls }: Emitted): () => boolean {
  const [firedBefore, controlsBefore] = [results.count, controls.length]
  // A clock makes no watermark; then all keys have one result each.
  return one.firesBy === 'clock' ? () => results.count < firedBefore + keys : () => controls.length === controlsBefore
}

/** The first life of a subtask, up to the firing; its cut before is open. */
function loaded(scenario: Scenario, plan: RigPlan, directory: string): FireSubtask {
  const subtask = new FireSubtask(plan, directory, null)
  const cutAt = Math.floor(scenario.keys * (1 - AFTER_CUT))
  for (const entry of scenario.load(0, cutAt)) scenario.send(subtask, entry)
  scenario.send(subtask, scenario.barrier())
  for (const entry of scenario.load(cutAt, scenario.keys)) scenario.send(subtask, entry)
  scenario.send(subtask, scenario.again(cutAt))
  subtask.run()
  assert.deepEqual(subtask.cuts, [1])
  scenario.send(subtask, scenario.fire())
  return subtask
}

/** The rest once the firing is over: what came meanwhile, the newest barrier among it, and the end. */
async function finish(scenario: Scenario, subtask: FireSubtask): Promise<{ attempt: number; image: FireImage }> {
  subtask.run()
  const attempt = scenario.attempts
  assert.deepEqual(subtask.cuts.slice(-1), [attempt], 'the newest barrier was cut, once the firing had ended')
  const image = await subtask.settle()
  scenario.send(subtask, { kind: 'watermark', value: Number.POSITIVE_INFINITY })
  subtask.run()
  return { attempt, image }
}

/** Where a firing's state is, and how it gets there. */
type Place = Pick<RigPlan, 'memoryBytes' | 'stores' | 'captureEntries'>

interface Life {
  /** Turns of the firing. */
  readonly turns: number
  /** How long each took, ms. */
  readonly turnsMs: readonly number[]
}

type Kill = Pick<FiringOptions, 'killAfter' | 'killAtShare'>

/**
 * A subtask that dies in its firing, after the cut in front of it has become durable in the midst of it; the one that
 * is restored from there; and a third one from the cut that was asked for during the firing. What each gives is
 * verified. Without `kill` the first goes on. Returns the turns of the firing that came to its end.
 */
async function live(one: FireCase, keys: number, kill: Kill | null, place: Place): Promise<Life> {
  const directory = mkdtempSync(join(tmpdir(), 'millrace-fire-'))
  const plan = { ...one, ...place }
  try {
    const scenario = new Scenario(one, keys)
    let subtask = loaded(scenario, plan, join(directory, 'first'))
    let from = 0
    const killAfter = kill?.killAfter
    // Of three deaths two come as soon as the cut is durable.
    const settleAfter = killAfter === undefined ? SETTLE_AFTER : killAfter % 3 === 0 ? killAfter / 3 : killAfter
    let life = await fire(scenario, subtask, { settleAfter, ...kill })
    if (kill !== null) {
      await subtask.kill()
      subtask = new FireSubtask(plan, join(directory, 'second'), life.image)
      from = 1
      scenario.overtake()
      scenario.replay(subtask, 1)
      life = await fire(scenario, subtask, {})
    }
    const { attempt, image } = await finish(scenario, subtask)
    verify(scenario, subtask, from)
    await subtask.kill()
    const third = new FireSubtask(plan, join(directory, 'third'), image)
    scenario.replay(third, attempt)
    third.run()
    verify(scenario, third, attempt)
    await third.kill()
    return life
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Turns before the cut in front of a firing is durable, where nothing else is said. */
const SETTLE_AFTER = 3
const MEMORY_BYTES = 1 << 30
const STORE_BYTES = 32 << 20
/** Of firings that are killed at each of them. */
const FIRING_TURNS = 10

/** Killed at every turn; at every other with so little memory that most entries are in the store alone. */
async function killAtEachTurn(one: FireCase): Promise<void> {
  const keys = FIRING_TURNS * one.turnKeys
  const stores = rocksdbStoreFactory(STORE_BYTES)
  const { turns } = await live(one, keys, null, { stores, memoryBytes: MEMORY_BYTES })
  assert.ok(one.isCleanup === true || turns >= FIRING_TURNS, `the firing took ${turns} turns`)
  for (let killAfter = 1; killAfter <= turns; killAfter++) {
    await live(one, keys, { killAfter }, { stores, memoryBytes: killAfter % 2 === 0 ? MEMORY_BYTES : keys * 40 })
  }
}

describe('a firing of thousands of keys with late rows and a barrier at each turn', () => {
  for (const [nth, one] of FIRE_CASES.filter(({ isVariant }) => isVariant !== true).entries()) {
    test(`${one.name}: killed in its midst`, async () => {
      const memoryBytes = nth % 2 === 0 || one.isCleanup === true ? MEMORY_BYTES : 50_000
      await live(one, 2_100, { killAfter: 7 }, { stores: memoryStoreFactory(), memoryBytes, captureEntries: 20 })
    })
  }
})

describe('a firing of thousands of keys, killed at each turn', { skip: !isLong && 'with SCALE=long' }, () => {
  for (const one of FIRE_CASES) test(one.name, () => killAtEachTurn(one))
})

/** Of a million keys each a nanosecond is a millisecond; collections of garbage take some too. */
const TURN_MS_MAX = 60

function summary(turnsMs: readonly number[]): string {
  const sorted = [...turnsMs].sort((a, b) => a - b)
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]!.toFixed(1)
  const total = sorted.reduce((sum, ms) => sum + ms, 0)
  return `${sorted.length} turns, ${total.toFixed(0)} ms; median ${at(0.5)}, p99 ${at(0.99)}, longest ${at(1)} ms`
}

describe('a firing of a million keys', { skip: !isLong && 'with SCALE=long' }, () => {
  const kills = Number(process.env['FIRE_KILLS'] ?? 1)
  for (const one of FIRE_CASES) {
    test(one.name, async (context) => {
      const place = { stores: rocksdbStoreFactory(STORE_BYTES), memoryBytes: MEMORY_BYTES }
      for (let kill = 1; kill <= kills; kill++) {
        const { turnsMs } = await live(one, 1_000_000, { killAtShare: kill / (kills + 1) }, place)
        context.diagnostic(summary(turnsMs))
        assert.ok(Math.max(...turnsMs) < TURN_MS_MAX, summary(turnsMs))
      }
    })
  }
})
