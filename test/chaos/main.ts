/**
 * `npm run chaos -- --kills N [--seconds S]`: a real job with RocksDB state, a file sink and an embedded Postgres
 * is killed with SIGKILL N times, at random steps of the checkpoint protocol and at random instants, part
 * of the time with every core taken by something else, and started again each time, at another parallelism.
 *
 * Ends with one line `lost 0 duplicated 0 kills N recoveries N p50 MS p99 MS`, where the last two are the time from the
 * start of a process to the first record it processed, and exit code 0; or names records and exits with 1. It also exits with
 * 1 when no process came as far as a record: such a run says nothing. Most kills are timed from the first record on, so that
 * a busy machine, on which starts take long, has as many of them in the midst of work.
 * `--seconds` ends the killing after that time, however many kills were made. `--rate` is in events a second.
 */
import { parseArgs } from 'node:util'
import type { JobProcess } from './job-process.ts'
import { ChaosRun, percentile, report } from './run.ts'
import { STEPS } from './steps.ts'

/** A process that has not reached its step within this, from its first record on, is killed where it is. */
const STEP_MS_MAX = 8_000
/** From the first record on. */
const INSTANT_MS_MAX = 3_000
/** Kills during a start come within this, or within the time that the slowest start so far took. */
const START_MS_MAX = 1_200
/** A process that processes nothing for so long is stuck. */
const FIRST_RECORD_MS_MAX = 180_000

interface Tally {
  kills: number
  /** Kills by the step that they were to happen at. */
  readonly atStep: Map<string, number>
  /** Milliseconds each. */
  readonly recoveries: number[]
}

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '100' },
    seconds: { type: 'string' },
    rate: { type: 'string', default: '1000' },
    verbose: { type: 'boolean', default: false },
  },
})

function numberOf(name: string, text: string): number {
  const number = Number(text)
  if (Number.isFinite(number) && number > 0) return number
  process.stderr.write(`--${name} takes a number above 0, not ${text}.\n`)
  process.exit(2)
}

const log = (line: string): void => {
  process.stderr.write(`${line}\n`)
}

/** Starts the job once and kills it; resolves when it is gone. */
async function killOnce(run: ChaosRun, tally: Tally): Promise<void> {
  const contended = run.pick(4) === 0
  if (contended) run.burn()
  // Three fifths at a step, a fifth in the midst of work (the first, so that there is one), a fifth during start and recovery.
  const mode = tally.kills === 0 ? 3 : run.pick(5)
  const atStep = mode < 3
  const failpoint = atStep ? `${STEPS[run.pick(STEPS.length)]}:${1 + run.pick(3)}` : null
  const job = run.start(failpoint)
  let limitMs: number
  if (mode === 4) limitMs = run.pick(Math.max(START_MS_MAX, ...tally.recoveries))
  else {
    const came = await job.recoveredWithin(FIRST_RECORD_MS_MAX)
    if (!came && job.isAlive) throw new Error(`The job processes nothing. It printed:\n${job.output}`)
    limitMs = atStep ? STEP_MS_MAX : run.pick(INSTANT_MS_MAX)
  }
  const died = await job.endedWithin(limitMs)
  if (died) await refuseOtherEnds(job)
  else await job.kill()
  run.stopBurning()
  tally.kills++
  if (died && failpoint !== null) tally.atStep.set(failpoint, (tally.atStep.get(failpoint) ?? 0) + 1)
  if (job.recoveredAfterMs !== null) tally.recoveries.push(job.recoveredAfterMs)
  if (values.verbose) {
    log(`kill ${tally.kills} ${failpoint ?? 'instant'} ${died ? 'there' : `after ${limitMs} ms`} fed ${run.feed.fed}`)
  }
}

/** A process may end by our signal only. */
async function refuseOtherEnds(job: JobProcess): Promise<void> {
  const { code, signal } = await job.ended
  if (signal !== 'SIGKILL')
    throw new Error(`The job ended by itself with ${code ?? signal}. It printed:\n${job.output}`)
}

async function main(): Promise<boolean> {
  const kills = numberOf('kills', values.kills)
  const untilMs =
    values.seconds === undefined
      ? Number.POSITIVE_INFINITY
      : performance.now() + numberOf('seconds', values.seconds) * 1_000
  const run = await ChaosRun.begin({ rate: numberOf('rate', values.rate), random: Math.random, log })
  const tally: Tally = { kills: 0, atStep: new Map(), recoveries: [] }
  try {
    let reportedMs = performance.now()
    while (tally.kills < kills && performance.now() < untilMs) {
      await Promise.race([killOnce(run, tally), run.feed.failed])
      if (performance.now() - reportedMs < 30_000) continue
      reportedMs = performance.now()
      log(`... ${tally.kills} kills, ${run.feed.fed} events fed`)
    }
    const { verdict, fed } = await run.end()
    const steps = new Set([...tally.atStep.keys()].map((step) => step.slice(0, step.lastIndexOf(':'))))
    const atSteps = [...tally.atStep.values()].reduce((sum, times) => sum + times, 0)
    log(`${fed} events; ${atSteps} kills at ${steps.size} of ${STEPS.length} steps, the others at random instants`)
    const isWell = report(verdict, run.directory, log)
    const sorted = tally.recoveries.sort((a, b) => a - b)
    const [p50, p99] = [0.5, 0.99].map((share) => Math.round(percentile(sorted, share)))
    const { lost, duplicated } = verdict
    process.stdout.write(
      `lost ${lost} duplicated ${duplicated} kills ${tally.kills} recoveries ${sorted.length} p50 ${p50} p99 ${p99}\n`,
    )
    if (sorted.length === 0) log('no process came as far as its first record: nothing was tested')
    if (isWell) run.remove()
    return isWell && sorted.length > 0
  } catch (error) {
    run.stopBurning()
    log(`everything is kept in ${run.directory}`)
    throw error
  }
}

try {
  process.exitCode = (await main()) ? 0 : 1
} catch (error) {
  log(error instanceof Error ? (error.stack ?? error.message) : String(error))
  process.exit(1)
}
