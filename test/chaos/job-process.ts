/**
 * The chaos job as a process: started from its newest checkpoint, perhaps with a step to die at.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))
const JOB = fileURLToPath(new URL('./chaos-job.ts', import.meta.url))
const PRELOAD = new URL('./arm-failpoint.ts', import.meta.url).href
const OUTPUT_KEPT_CHARS = 20_000
const POLL_MS = 10

export interface Start {
  readonly directory: string
  readonly parallelism: number
  readonly workers: number
  /** `step:nth` to die at, or null. */
  readonly failpoint: string | null
}

export class JobProcess {
  readonly child: ChildProcess
  readonly startedMs = performance.now()
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  /** Milliseconds from the start to the first record processed; null before it. */
  recoveredAfterMs: number | null = null
  /** When it last began to process records: after its start, or a restart of the job in it. */
  flowingSinceMs = Number.NEGATIVE_INFINITY
  private text = ''

  constructor(start: Start) {
    const checkpoints = join(start.directory, 'checkpoints')
    const manifests = join(checkpoints, 'manifests')
    const restores = existsSync(manifests) && readdirSync(manifests).some((name) => name.endsWith('.json'))
    const args = [
      ...[
        '--expose-gc',
        '--import',
        PRELOAD,
        CLI,
        'run',
        JOB,
        '--json',
        '--port',
        '0',
        '--checkpoint-dir',
        checkpoints,
      ],
      ...['--parallelism', String(start.parallelism), '--workers', String(start.workers)],
      ...['--set', `dir=${start.directory}`],
      ...(restores ? ['--restore', 'latest'] : []),
    ]
    this.child = spawn(process.execPath, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      // The child is a program of its own, not a test.
      env: { ...process.env, NODE_TEST_CONTEXT: undefined, CHAOS_FAILPOINT: start.failpoint ?? '' },
    })
    this.child.stdout!.on('data', (chunk: Buffer) => this.hear(chunk.toString()))
    this.child.stderr!.on('data', (chunk: Buffer) => this.hear(chunk.toString()))
    this.ended = once(this.child, 'close').then(([code, signal]) => ({ code, signal }))
  }

  private hear(text: string): void {
    if (text.includes('first-record')) this.flowingSinceMs = performance.now()
    this.text = (this.text + text).slice(-OUTPUT_KEPT_CHARS)
    if (this.recoveredAfterMs === null && this.text.includes('first-record')) {
      this.recoveredAfterMs = performance.now() - this.startedMs
    }
  }

  /** The end of what it printed. */
  get output(): string {
    return this.text
  }

  get isAlive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null
  }

  /** Waits until it has ended, at most `limitMs`; true when it has. */
  async endedWithin(limitMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), limitMs)
    })
    const ended = await Promise.race([this.ended.then(() => true as const), late])
    clearTimeout(timer)
    return ended
  }

  /** Waits for the first record that it processes, at most `limitMs`; false when it has ended before. */
  async recoveredWithin(limitMs: number): Promise<boolean> {
    const untilMs = performance.now() + limitMs
    while (this.recoveredAfterMs === null && this.isAlive && performance.now() < untilMs) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
    return this.recoveredAfterMs !== null
  }

  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }
}
