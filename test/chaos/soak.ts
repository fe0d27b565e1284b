/**
 * `npm run soak -- --minutes 60`: the chaos job for a long time, with a fault about every 30 s: an exception in
 * an operator, a worker thread that ends, a process that is stopped for seconds, cores taken away, a SIGKILL.
 *
 * Ends with one line `lost 0 duplicated 0 faults N rss slope X MiB/h mean Y MiB` and exit code 0; or 1 when a
 * record is lost, doubled or wrong, or when memory grows by more than a tenth of its mean in an hour, and that
 * is beyond doubt (two standard errors). `--every` is in seconds, `--rate` in events a second.
 *
 * Memory is that of one process, because only one that lives long shows a leak: kills happen in the first
 * quarter, and the process that lives then meets all the other faults, most of which restart the job inside
 * it. It is read just before each fault, when the last restart is longest ago, from when the process is warm,
 * and after the coordinator's garbage is collected, which else comes and goes over many minutes. A short run
 * can tell only large growth; the standard error is printed before the last line.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { JobProcess } from './job-process.ts'
import { type RssSample, type RssSlope, rssSlope } from './rss-slope.ts'
import { ChaosRun, report } from './run.ts'
import { STEPS } from './steps.ts'

const POLL_MS = 250
/** The part of the time in which processes are killed. */
const KILLS_SHARE = 0.25
/** Compiled code, caches and pools fill up in the first minutes of a process. */
const WARM_UP_MS = 120_000
/** After a restart of the job in its process, from its first record on. */
const SETTLE_MS = 1_000
const COLLECTION_MS = 300
const PAUSE_MS = 5_000
const BURN_MS = 10_000
/** How long a process may take to do what the fault file says, or to reach its step. */
const FAULT_MS_MAX = 60_000
/** Growth in an hour that is noise, as a share of the mean. */
const GROWTH_SHARE_MAX = 0.1

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '60' },
    every: { type: 'string', default: '30' },
    rate: { type: 'string', default: '1000' },
  },
})

const log = (line: string): void => {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${line}\n`)
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

type Fault = 'throw' | 'exit' | 'pause' | 'burn' | 'kill'

/** Without kills; those that restart the job inside its process are the common ones. */
const FAULTS: readonly Fault[] = ['throw', 'throw', 'throw', 'exit', 'exit', 'exit', 'pause', 'pause', 'burn']
const KILLS: readonly Fault[] = ['kill', 'kill', 'kill']

class Soak {
  private readonly run: ChaosRun
  private job: JobProcess
  readonly samples: RssSample[] = []
  faults = 0
  /** When the job was last made to restart. */
  private struckMs = Number.NEGATIVE_INFINITY

  constructor(run: ChaosRun) {
    this.run = run
    this.job = run.start(null)
  }

  /** Notes the memory of the process, once it is warm and unless the job is still recovering. */
  private async sample(): Promise<void> {
    const nowMs = performance.now()
    const { startedMs, flowingSinceMs, child } = this.job
    if (nowMs - startedMs < WARM_UP_MS) return
    if (flowingSinceMs < this.struckMs || nowMs - flowingSinceMs < SETTLE_MS) return
    if (!child.kill('SIGUSR2')) return
    await sleep(COLLECTION_MS)
    this.refuseEnd()
    const kib = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]
    if (kib === undefined) return
    this.samples.push({ timeMs: performance.now(), mib: Number(kib) / 1_024 })
  }

  refuseEnd(): void {
    if (this.job.isAlive) return
    throw new Error(`The job ended by itself. It printed:\n${this.job.output}`)
  }

  /** One fault, with a process that goes on or, if it `mayKill`, perhaps another one. */
  async strike(mayKill: boolean): Promise<void> {
    const faults = mayKill ? [...FAULTS, ...KILLS] : FAULTS
    const fault = faults[this.run.pick(faults.length)]!
    this.faults++
    await this.sample()
    log(
      `fault ${this.faults}: ${fault}, ${this.run.feed.fed} events fed, ${this.samples.at(-1)?.mib.toFixed(0) ?? '-'} MiB`,
    )
    switch (fault) {
      case 'throw':
      case 'exit':
        this.struckMs = performance.now()
        writeFileSync(join(this.run.directory, 'fault'), fault)
        return
      case 'pause':
        this.job.child.kill('SIGSTOP')
        await sleep(PAUSE_MS)
        this.job.child.kill('SIGCONT')
        return
      case 'burn':
        this.run.burn()
        await sleep(BURN_MS)
        this.run.stopBurning()
        return
      case 'kill':
        await this.kill()
    }
  }

  /** Kills the process, and the next one at a step of its recovery or first checkpoints. */
  private async kill(): Promise<void> {
    await this.job.kill()
    this.samples.length = 0
    const doomed = this.run.start(`${STEPS[this.run.pick(STEPS.length)]}:1`)
    if (!(await doomed.endedWithin(FAULT_MS_MAX))) await doomed.kill()
    this.job = this.run.start(null)
  }

  async stop(): Promise<void> {
    await this.job.kill()
  }
}

function growsBeyondDoubt({ mibPerHour, errorMibPerHour, meanMib }: RssSlope): boolean {
  return mibPerHour - 2 * errorMibPerHour > meanMib * GROWTH_SHARE_MAX
}

function memoryText(samples: readonly RssSample[], slope: RssSlope | null): string {
  if (slope === null) return 'too short for a slope of memory'
  const { mibPerHour, errorMibPerHour } = slope
  return `memory read ${samples.length} times, slope ${mibPerHour.toFixed(1)} ± ${errorMibPerHour.toFixed(1)} MiB/h`
}

async function main(): Promise<boolean> {
  const beganMs = performance.now()
  const untilMs = beganMs + Number(values.minutes) * 60_000
  const killsUntilMs = beganMs + (untilMs - beganMs) * KILLS_SHARE
  const everyMs = Number(values.every) * 1_000
  if (!(everyMs > 0) || !(untilMs > beganMs)) throw new Error('--minutes and --every take numbers above 0.')
  const run = await ChaosRun.begin({ rate: Number(values.rate), random: Math.random, log })
  const soak = new Soak(run)
  try {
    let strikeMs = performance.now() + everyMs
    while (performance.now() < untilMs) {
      await Promise.race([sleep(POLL_MS), run.feed.failed])
      soak.refuseEnd()
      if (performance.now() < strikeMs) continue
      await soak.strike(performance.now() < killsUntilMs)
      strikeMs = performance.now() + everyMs * (0.5 + Math.random())
    }
    await soak.stop()
    const { verdict, fed } = await run.end()
    const isExact = report(verdict, run.directory, log)
    const memory = rssSlope(soak.samples)
    const isFlat = memory === null || !growsBeyondDoubt(memory)
    log(`${fed} events fed, ${memoryText(soak.samples, memory)}`)
    process.stdout.write(
      `lost ${verdict.lost} duplicated ${verdict.duplicated} faults ${soak.faults} ` +
        `rss slope ${memory?.mibPerHour.toFixed(1) ?? '-'} MiB/h mean ${memory?.meanMib.toFixed(0) ?? '-'} MiB\n`,
    )
    if (isExact) run.remove()
    return isExact && isFlat
  } catch (error) {
    await soak.stop()
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
