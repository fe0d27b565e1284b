/** The main job as a process of its own, in a directory of its own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const START = fileURLToPath(new URL('../cli/start.ts', import.meta.url))

/** The state directory below the working directory. */
export const STATE = join('.millrace', 'pattern-detection')

export interface MainJobRun {
  readonly child: ChildProcess
  /** Everything printed so far. */
  readonly output: () => string
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

export function startMainJob(directory: string, ...args: string[]): MainJobRun {
  const child = spawn(process.execPath, [START, '--port', '0', ...args], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    // The child is a program of its own, not a test.
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  let text = ''
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
  }
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal }))
  return { child, output: () => text, ended }
}

export async function withDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-main-'))
  try {
    await body(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

export const hasEnded = ({ child }: MainJobRun): boolean => child.exitCode !== null || child.signalCode !== null

/** Far longer than the busiest machine takes. */
const WAIT_MS_MAX = 300_000

/** Waits for a condition of a run; rejects when the run ends first. */
export async function until(condition: () => boolean, run: MainJobRun, what: string): Promise<void> {
  const deadline = performance.now() + WAIT_MS_MAX
  while (!condition()) {
    if (hasEnded(run)) throw new Error(`ended before ${what}:\n${run.output()}`)
    if (performance.now() > deadline) throw new Error(`no ${what} within ${WAIT_MS_MAX} ms:\n${run.output()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
