/**
 * `npm run soak -- --minutes 60`: the chaos job for a long time, with a fault about every 30 s: an exception in
 * an operator, a worker thread that ends, a process that is stopped for seconds, cores taken away, a SIGKILL.
 *
 * Ends with one line `lost 0 duplicated 0 faults N rss slope X MiB/h mean Y MiB` and exit code 0; or 1 when a
 * record is lost, doubled or wrong, or when memory grows by more than a tenth of its mean in an hour.
 * Memory is sampled once a process is warm. `--every` is in seconds, `--rate` in events a second.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { JobProcess } from './job-process.ts'
import { type RssSample, rssSlopeMibPerHour } from './rss-slope.ts'
import { ChaosRun, report } from './run.ts'
import { STEPS } from './steps.ts'

const SAMPLE_MS = 1_000
/** Compiled code, caches and pools fill up in the first minutes of a process. */
const WARM_UP_MS = 120_000
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

/** In-process faults are the common ones: only a process that lives long shows a leak. */
const FAULTS: readonly Fault[] = ['throw', 'throw', 'throw', 'exit', 'exit', 'exit', 'pause', 'pause', 'burn', 'kill']

class Soak {
  private readonly run: ChaosRun
  private job: JobProcess
  private processes = 1
  readonly samples: RssSample[] = []
  faults = 0

  constructor(run: ChaosRun) {
    this.run = run
    this.job = run.start(null)
  }

  sample(): void {
    const ageMs = performance.now() - this.job.startedMs
    if (ageMs < WARM_UP_MS || !this.job.isAlive) return
    const kib = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${this.job.child.pid}/status`, 'utf8'))?.[1]
    if (kib === undefined) return
    this.samples.push({ process: this.processes, timeMs: performance.now(), mib: Number(kib) / 1_024 })
  }

  refuseEnd(): void {
    if (this.job.isAlive) return
    throw new Error(`The job ended by itself. It printed:\n${this.job.output}`)
  }

  async strike(): Promise<void> {
    const fault = FAULTS[this.run.pick(FAULTS.length)]!
    this.faults++
    log(`fault ${this.faults}: ${fault}, ${this.run.feed.fed} events fed`)
    switch (fault) {
      case 'throw':
      case 'exit':
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
    const doomed = this.run.start(`${STEPS[this.run.pick(STEPS.length)]}:1`)
    if (!(await doomed.endedWithin(FAULT_MS_MAX))) await doomed.kill()
    this.job = this.run.start(null)
    this.processes++
  }

  async stop(): Promise<void> {
    await this.job.kill()
  }
}

async function main(): Promise<boolean> {
  const untilMs = performance.now() + Number(values.minutes) * 60_000
  const everyMs = Number(values.every) * 1_000
  if (!(everyMs > 0) || !(untilMs > 0)) throw new Error('--minutes and --every take numbers above 0.')
  const run = await ChaosRun.begin({ rate: Number(values.rate), random: Math.random, log })
  const soak = new Soak(run)
  try {
    let strikeMs = performance.now() + everyMs
    while (performance.now() < untilMs) {
      await Promise.race([sleep(SAMPLE_MS), run.feed.failed])
      soak.refuseEnd()
      soak.sample()
      if (performance.now() < strikeMs) continue
      await soak.strike()
      strikeMs = performance.now() + everyMs * (0.5 + Math.random())
    }
    await soak.stop()
    const { verdict, fed } = await run.end()
    const isExact = report(verdict, run.directory, log)
    const slope = rssSlopeMibPerHour(soak.samples)
    const mean = soak.samples.reduce((sum, { mib }) => sum + mib, 0) / soak.samples.length
    const isFlat = soak.samples.length === 0 || slope <= mean * GROWTH_SHARE_MAX
    log(`${fed} events fed, memory sampled ${soak.samples.length} times`)
    process.stdout.write(
      `lost ${verdict.lost} duplicated ${verdict.duplicated} faults ${soak.faults} ` +
        `rss slope ${slope.toFixed(1)} MiB/h mean ${mean.toFixed(0)} MiB\n`,
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
