/**
 * Runs the command line and job files as real processes. Test code only.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export const MAIN = fileURLToPath(new URL('./main.ts', import.meta.url))

export function fixture(name: string): string {
  return fileURLToPath(new URL(`./fixtures/${name}.ts`, import.meta.url))
}

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Started {
  readonly child: ChildProcess
  readonly finished: Promise<Finished>
  /** Resolves with the match once stdout or stderr matches; rejects when the process ends before. */
  seen(pattern: RegExp): Promise<RegExpExecArray>
}

/** What a test that fails leaves running ends with this process. */
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Starts `node ...args`, outside of this test's own context. */
export function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): Started {
  const inherited = { ...process.env }
  delete inherited['NODE_TEST_CONTEXT']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...inherited, ...env } })
  running.add(child)
  let stdout = ''
  let stderr = ''
  let isOver = false
  let look = (): void => {}
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    look()
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
    look()
  })
  const finished = new Promise<Finished>((resolve) => {
    child.on('close', (code) => {
      isOver = true
      running.delete(child)
      look()
      resolve({ code, stdout, stderr })
    })
  })
  const seen = (pattern: RegExp): Promise<RegExpExecArray> =>
    new Promise((resolve, reject) => {
      look = () => {
        const match = pattern.exec(stdout) ?? pattern.exec(stderr)
        if (match !== null) resolve(match)
        else if (isOver) reject(new Error(`Ended without ${pattern}:\n${stdout}\n${stderr}`))
      }
      look()
    })
  return { child, finished, seen }
}

/** Runs `node ...args` to its end. */
export function node(...args: readonly string[]): Promise<Finished> {
  return start(args).finished
}

/** Runs `millrace ...args` to its end. */
export function millrace(...args: readonly string[]): Promise<Finished> {
  return node(MAIN, ...args)
}
