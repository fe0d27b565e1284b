/**
 * What a chaos run and a soak share: a directory with its feed, starts of the job with random shapes,
 * burners that take the processor away, and the end, at which the job drains and is judged.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Feed, startFeed } from './feed.ts'
import { JobProcess } from './job-process.ts'
import { judge, type Verdict } from './verdict.ts'

/** The last run has to process what is left within this. */
const DRAIN_MS_MAX = 300_000

export interface ChaosOptions {
  /** Events a second. */
  readonly rate: number
  /** Makes the choices; a run is not repeatable, because the machine takes part in it. */
  readonly random: () => number
  readonly log: (line: string) => void
}

export class ChaosRun {
  readonly directory: string
  readonly feed: Feed
  private readonly options: ChaosOptions
  private burners: ChildProcess[] = []

  private constructor(directory: string, feed: Feed, options: ChaosOptions) {
    this.directory = directory
    this.feed = feed
    this.options = options
  }

  static async begin(options: ChaosOptions): Promise<ChaosRun> {
    const directory = mkdtempSync(join(tmpdir(), 'millrace-chaos-'))
    return new ChaosRun(directory, await startFeed(directory, options.rate), options)
  }

  /** A whole number from 0 to `below` - 1. */
  pick(below: number): number {
    return Math.floor(this.options.random() * below)
  }

  /** Starts the job at a random parallelism. */
  start(failpoint: string | null): JobProcess {
    const { directory } = this
    return new JobProcess({ directory, parallelism: 1 + this.pick(3), workers: 1 + this.pick(2), failpoint })
  }

  /** Keeps every core busy until `stopBurning`. */
  burn(): void {
    for (let core = 0; core < availableParallelism(); core++) {
      this.burners.push(spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }))
    }
  }

  stopBurning(): void {
    for (const burner of this.burners) burner.kill('SIGKILL')
    this.burners = []
  }

  /** Ends the feed, lets the job run to its end, and compares. The directory stays unless all is well. */
  async end(): Promise<{ readonly verdict: Verdict; readonly fed: number }> {
    const fed = await this.feed.seal()
    const last = this.start(null)
    if (!(await last.endedWithin(DRAIN_MS_MAX))) {
      await last.kill()
      throw new Error(`The job did not end within ${DRAIN_MS_MAX} ms after its input. It printed:\n${last.output}`)
    }
    const { code, signal } = await last.ended
    if (code !== 0) throw new Error(`The last run ended with ${code ?? signal}. It printed:\n${last.output}`)
    return { verdict: await judge(this.directory, fed), fed }
  }

  remove(): void {
    this.stopBurning()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** Prints what is wrong, if anything; true when nothing is. */
export function report(verdict: Verdict, directory: string, log: (line: string) => void): boolean {
  const { lost, duplicated, wrong } = verdict
  if (lost + duplicated + wrong === 0) return true
  for (const example of verdict.examples) log(example)
  if (wrong > 0) log(`wrong ${wrong}`)
  log(`everything is kept in ${directory}`)
  return false
}

/** The value below which a share of the ascending `sorted` lies; NaN when there are none. */
export function percentile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) return Number.NaN
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)]!
}
