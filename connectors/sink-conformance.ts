/**
 * What every sink promises (engine/contract/sink.ts), as checks that any sink's author applies:
 *
 *     for (const { name, run } of sinkChecks({ create: () => myTarget(), rowOf: (id) => ({ id }) })) test(name, run)
 *
 * Batches of 1 to 2,048 rows, cuts, markers, repeated commits, empty and several pending epochs, cancelled barriers,
 * a crash between any two steps and inside commits, rescaling, writers and committers of an attempt that was
 * replaced; last, random schedules of all these. After each step the rows outside are compared with what they must
 * be: sink-run.ts says how. `millrace/testing` exports it, so it ships, and needs no test runner and no package.
 *
 * `CONFORMANCE_RUNS` is the number of random schedules (3), `CONFORMANCE_SEED` the first one's seed. A schedule that
 * fails is cut down to the steps that it needs, and printed with its seed.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { SeededRandom } from '../engine/testing/sim/seeded-random.ts'
import { isExactlyOnce, SinkRun, type SinkSubject, type SinkTarget } from './sink-run.ts'

export type { SinkSubject, SinkTarget }

/** One check; `run` rejects when the sink does not keep its promise. */
export interface SinkCheck {
  readonly name: string
  run(): Promise<void>
}

export interface SinkChecksOptions {
  /** Random schedules; by default the environment's CONFORMANCE_RUNS, or 3. */
  readonly runs?: number
  /** Seed of the first schedule; the next ones count up. By default the environment's CONFORMANCE_SEED, or 1. */
  readonly seed?: number
}

type Step =
  | { readonly kind: 'write'; readonly subtask: number; readonly rows: number }
  | { readonly kind: 'seal'; readonly rowsDuring: number }
  | { readonly kind: 'cancel' | 'complete' | 'commit' | 'commitAgain' | 'zombieCommits' }
  | { readonly kind: 'crash'; readonly parallelism: number; readonly dieAfter: number | null }
  | { readonly kind: 'commitLost' | 'commitStalled'; readonly parallelism: number }
  | { readonly kind: 'commitKilled'; readonly steps: number; readonly parallelism: number }

const STEPS_MAX = 30
const SHRINKS_MAX = 300
/** No commit of the checks has more records and failpoints. */
const MOMENTS_MAX = 40

/** The checks of a sink, in the order from simple to random. */
export function sinkChecks<T>(subject: SinkSubject<T>, options: SinkChecksOptions = {}): SinkCheck[] {
  const random = { name: 'random schedules', run: () => randomSchedules(subject, options) }
  const inRuns = (checks: readonly (readonly [string, Body])[]): SinkCheck[] =>
    checks.map(([name, body]) => ({ name, run: () => inRun(subject, 2, body) }))
  if (!isExactlyOnce(subject)) return [...inRuns(COMMON), random]
  const stalled = subject.commitHoldsLock === true ? [] : STALLED
  return [...inRuns([...COMMON, ...EXACTLY_ONCE, ...stalled]), random]
}

type Run = SinkRun<unknown>
type Body = (run: Run) => Promise<void>

/** Of every sink. */
const COMMON: readonly (readonly [string, Body])[] = [
  ...[1, 2, 7, 2_048].map((rows): [string, Body] => [
    `batches of ${rows}`,
    async (run) => {
      for (let batch = 0; batch < (rows > 7 ? 2 : 5); batch++) await run.write(batch, rows)
      await epoch(run)
    },
  ]),
  [
    'the cut is made at the call: later rows are the next epoch’s',
    async (run) => {
      await run.write(0, 4)
      await run.seal(3)
      await run.complete()
      await run.commit()
      await epoch(run)
    },
  ],
  [
    'epochs without rows, of one subtask, of none',
    async (run) => {
      await epoch(run)
      await run.write(1, 2)
      await epoch(run)
      await epoch(run)
      await run.commitAgain()
      await run.crash(1)
      await epoch(run)
    },
  ],
  [
    'the output of a cancelled barrier comes with the next',
    async (run) => {
      await run.write(0, 2)
      await run.seal()
      await run.cancel()
      await run.check()
      await run.write(1, 2)
      await epoch(run)
    },
  ],
  [
    'a crash after the write, and after the cut, leaves nothing',
    async (run) => {
      await run.write(0, 3)
      await run.crash(2)
      await run.write(1, 4)
      await run.seal()
      await run.crash(2)
      await run.write(0, 5)
      await epoch(run)
    },
  ],
  [
    'rescaled up and down',
    async (run) => {
      for (const parallelism of [4, 1, 3]) {
        for (let subtask = 0; subtask < 4; subtask++) await run.write(subtask, 2)
        await run.seal()
        await run.complete()
        await run.crash(parallelism)
      }
    },
  ],
]

/** Of sinks with a committer. */
const EXACTLY_ONCE: readonly (readonly [string, Body])[] = [
  [
    'a row is visible with its epoch, and stays when that is committed again',
    async (run) => {
      for (const rows of [3, 5]) {
        await run.write(0, rows)
        await run.check()
        await run.seal()
        await run.check()
        await run.complete()
        await run.commit()
        await run.commitAgain()
      }
    },
  ],
  [
    'several epochs wait and are committed in order',
    async (run) => {
      await severalPending(run)
      while (run.pendingEpochs > 0) await run.commit()
    },
  ],
  [
    'several epochs wait over a crash',
    async (run) => {
      await severalPending(run)
      await run.commit()
      await run.crash(3)
      await run.write(2, 2)
      await epoch(run)
    },
  ],
  [
    'a crash after the manifest, and before the commit is acknowledged',
    async (run) => {
      await run.write(0, 3)
      await run.seal()
      await run.complete()
      await run.crash(2)
      await run.write(1, 3)
      await run.seal()
      await run.complete()
      await run.commit(true)
      await run.crash(2)
      await run.write(0, 2)
      await epoch(run)
    },
  ],
  [
    'an attempt that was replaced cannot commit',
    async (run) => {
      await run.write(0, 3)
      await epoch(run)
      await run.write(1, 3)
      await run.crash(2)
      await run.write(0, 2)
      await run.zombieCommits()
      await epoch(run)
    },
  ],
  [
    'output that is gone stops the commit by its own code, and comes once it is back',
    async (run) => {
      await run.write(0, 3)
      await run.write(1, 2)
      await run.seal()
      await run.complete()
      // A job that has failed so is started again.
      if (await run.commitWithoutOutput()) await run.crash(2)
      else await run.commit()
      await run.check()
    },
  ],
  ['a commit cut off at every step', cutOffEverywhere],
]

const STALLED: readonly (readonly [string, Body])[] = [
  [
    'a commit that hangs, and goes on after another run has taken over, changes nothing',
    async (run) => {
      await run.write(0, 3)
      await run.seal()
      await run.complete()
      await run.crashInStalledCommit(2)
      await run.write(1, 2)
      await epoch(run)
    },
  ],
]

/** A barrier, its manifest and its commit. */
async function epoch(run: Run): Promise<void> {
  await run.seal()
  await run.complete()
  await run.commit()
}

async function severalPending(run: Run): Promise<void> {
  for (const rows of [2, 0, 3, 1]) {
    if (rows > 0) await run.write(rows, rows)
    await run.seal()
    await run.complete()
  }
}

/** Dies after 0, 1, 2 ... records and failpoints of a commit, until a commit is over before; recovers each time. */
async function cutOffEverywhere(run: Run): Promise<void> {
  let wasKilled = true
  for (let steps = 0; wasKilled && steps < MOMENTS_MAX; steps++) {
    await run.write(0, 2)
    await run.write(1, 1)
    await run.seal()
    await run.complete()
    wasKilled = await run.commitKilled(steps)
    await run.crash(2)
  }
}

async function randomSchedules<T>(subject: SinkSubject<T>, options: SinkChecksOptions): Promise<void> {
  const runs = options.runs ?? Number(process.env['CONFORMANCE_RUNS'] ?? 3)
  const first = options.seed ?? Number(process.env['CONFORMANCE_SEED'] ?? 1)
  for (let seed = first; seed < first + runs; seed++) {
    const steps = randomSteps(new SeededRandom(seed), subject)
    const error = await failureOf(subject, steps)
    if (error === null) continue
    const { steps: few, error: cause } = await shrink(subject, steps, error)
    const list = few.map((step) => `  ${inspect(step, { breakLength: Number.POSITIVE_INFINITY })}`).join('\n')
    const message = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`Schedule CONFORMANCE_SEED=${seed} fails: ${message}\nSteps that suffice:\n${list}`, { cause })
  }
}

function randomSteps<T>(random: SeededRandom, subject: SinkSubject<T>): Step[] {
  const parallelism = () => random.between(1, 3)
  const makers: (() => Step)[] = [
    () => ({ kind: 'write', subtask: random.between(0, 2), rows: random.between(1, 9) }),
    () => ({ kind: 'write', subtask: random.between(0, 2), rows: random.between(1, 9) }),
    () => ({ kind: 'seal', rowsDuring: random.between(0, 2) }),
    () => ({ kind: 'seal', rowsDuring: 0 }),
    () => ({ kind: 'complete' }),
    () => ({ kind: 'complete' }),
    () => ({ kind: 'commit' }),
    () => ({ kind: 'commit' }),
    () => ({ kind: 'commitAgain' }),
    () => ({ kind: 'cancel' }),
    () => ({ kind: 'zombieCommits' }),
    () => ({
      kind: 'crash',
      parallelism: parallelism(),
      dieAfter: random.next() < 0.3 ? random.between(0, 12) : null,
    }),
    () => ({ kind: 'commitLost', parallelism: parallelism() }),
    () => ({ kind: 'commitKilled', steps: random.between(0, 12), parallelism: parallelism() }),
  ]
  if (subject.commitHoldsLock !== true) makers.push(() => ({ kind: 'commitStalled', parallelism: parallelism() }))
  const count = random.between(5, STEPS_MAX)
  return Array.from({ length: count }, () => makers[random.between(0, makers.length - 1)]!())
}

async function failureOf<T>(subject: SinkSubject<T>, steps: readonly Step[]): Promise<unknown> {
  try {
    await inRun(subject, 2, async (run) => {
      for (const step of steps) await take(run, step)
      await epoch(run)
      while (run.pendingEpochs > 0) await run.commit()
    })
    return null
  } catch (error) {
    return error ?? new Error('rejected without an error')
  }
}

/** Leaves out one step after the other as long as the rest still fails. */
async function shrink<T>(
  subject: SinkSubject<T>,
  steps: readonly Step[],
  error: unknown,
): Promise<{ steps: readonly Step[]; error: unknown }> {
  let least = { steps, error }
  let tries = 0
  for (let i = 0; i < least.steps.length && tries < SHRINKS_MAX; tries++) {
    const fewer = least.steps.toSpliced(i, 1)
    const failure = await failureOf(subject, fewer)
    if (failure === null) i++
    else least = { steps: fewer, error: failure }
  }
  return least
}

async function take(run: Run, step: Step): Promise<void> {
  switch (step.kind) {
    case 'write':
      return run.write(step.subtask, step.rows)
    case 'seal':
      return run.seal(step.rowsDuring)
    case 'crash':
      return run.crash(step.parallelism, step.dieAfter ?? undefined)
    case 'commitLost':
      await run.commit(true)
      return run.crash(step.parallelism)
    case 'commitStalled':
      return run.crashInStalledCommit(step.parallelism)
    case 'commitKilled':
      await run.commitKilled(step.steps)
      return run.crash(step.parallelism)
    default:
      await run[step.kind]()
  }
}

async function inRun<T>(subject: SinkSubject<T>, parallelism: number, body: Body): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-sink-'))
  try {
    const run = new SinkRun(subject, await subject.create(directory), directory)
    try {
      await run.start(parallelism)
      await body(run)
    } finally {
      await run.close()
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
