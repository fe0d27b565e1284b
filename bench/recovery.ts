/**
 * `millrace bench recovery [--state-mb N] [--parallelism P] [--runs N] [--storage URL] [--json]`: how long a job takes
 * from its start to its first new record, with that much state on the local disk or in an object store.
 *
 * A first process fills the state and ends with a checkpoint; each run then starts a new process with
 * `--restore latest`. The time counts from the spawning of the process, so Node's own start is in it; the share of
 * that is measured with a job without state. Every record read checks that its key's state is the saved one.
 */
import { spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { integerFlag, parseFlags } from '../engine/api/run-flags.ts'
import { listCheckpoints } from '../engine/checkpoint/verify.ts'
import { siblingModule } from '../engine/core/own-module.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { median } from './paired.ts'

/** Bytes of a key and its value in the store, about. */
const BYTES_PER_KEY = 110
const MB = 1_000_000
const ROWS_PER_RUN = 2_000

const JOB = fileURLToPath(siblingModule(import.meta.url, './recovery-job'))
const MAIN = fileURLToPath(siblingModule(import.meta.url, '../cli/main'))

export interface RecoveryOptions {
  readonly stateMb: number
  readonly parallelism: number
  readonly runs: number
  /** Where checkpoints go instead of a temporary folder, for example `s3://bucket/prefix`; must be empty, and stays. */
  readonly storage?: string
}

export interface RecoveryResult {
  readonly stateBytes: number
  readonly keys: number
  readonly parallelism: number
  /** From spawning the process to its first new record, for each run. */
  readonly firstRecordMs: readonly number[]
  /** The same of a job whose state is a few keys. */
  readonly emptyMs: readonly number[]
  /** What the state adds: the difference of the medians. */
  readonly stateMsMedian: number
}

interface JobRun {
  readonly keys: number
  readonly fresh: number
  readonly parallelism: number
  readonly directory: string
  readonly restore: boolean
}

/** Runs the job in a process of its own; resolves to the time until the first new record, null without one. */
function runJob({ keys, fresh, parallelism, directory, restore }: JobRun): Promise<number | null> {
  const settings = { keys, fresh, splits: parallelism }
  const args = [
    ...[MAIN, 'run', JOB, '--workers', String(parallelism), '--parallelism', String(parallelism), '--port', '0'],
    ...['--checkpoint-dir', directory, '--state-backend', 'rocksdb'],
    ...(restore ? ['--restore', 'latest'] : ['--checkpoint-interval', '5000']),
    ...Object.entries(settings).flatMap(([name, value]) => ['--set', `${name}=${value}`]),
  ]
  const spawnedMs = Date.now()
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  let first: number | null = null
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
    const seen = /first-record (\d+)/.exec(text)
    if (seen !== null && first === null) first = Number(seen[1]) - spawnedMs
  })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    errors += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('close', (code) => {
      if (code === 0) resolve(first)
      else reject(new Error(`The job ended with ${code}:\n${errors}`))
    })
  })
}

async function filled(keys: number, parallelism: number, folder: string): Promise<string> {
  const directory = `${folder}/of-${keys}`
  await runJob({ keys, fresh: 0, parallelism, directory, restore: false })
  return directory
}

/** One recovery, which goes on with the next few rows and leaves a checkpoint for the run after it. */
async function recovered(keys: number, parallelism: number, directory: string, run: number): Promise<number> {
  const ms = await runJob({ keys, fresh: ROWS_PER_RUN * (run + 1), parallelism, directory, restore: true })
  if (ms === null) throw new Error('The job read no record after its restore.')
  return ms
}

export async function measureRecovery(
  options: RecoveryOptions,
  print: (line: string) => void,
): Promise<RecoveryResult> {
  const { stateMb, parallelism, runs, storage } = options
  const keys = Math.max(1, Math.round((stateMb * MB) / BYTES_PER_KEY))
  const local = await mkdtemp(join(tmpdir(), 'millrace-recovery-'))
  const folder = storage ?? local
  try {
    const large = await filled(keys, parallelism, folder)
    const empty = await filled(10, parallelism, folder)
    const stateBytes = (await listCheckpoints(nodeIo.disk, large)).at(-1)?.stateBytes ?? 0
    print(`${keys} keys, ${(stateBytes / MB).toFixed(0)} MB of state in ${parallelism} stores`)
    const firstRecordMs: number[] = []
    const emptyMs: number[] = []
    for (let run = 0; run < runs; run++) {
      emptyMs.push(await recovered(10, parallelism, empty, run))
      firstRecordMs.push(await recovered(keys, parallelism, large, run))
      print(`first record after ${firstRecordMs[run]} ms; with an empty state ${emptyMs[run]} ms`)
    }
    const stateMsMedian = median(firstRecordMs) - median(emptyMs)
    return { stateBytes, keys, parallelism, firstRecordMs, emptyMs, stateMsMedian }
  } finally {
    await rm(local, { recursive: true, force: true })
  }
}

const FLAGS = {
  'state-mb': { type: 'string', value: 'N', help: 'megabytes of keyed state (default 1000)' },
  parallelism: { type: 'string', value: 'N', help: 'worker threads, each with its store (default 2)' },
  runs: { type: 'string', value: 'N', help: 'recoveries (default 5)' },
  storage: { type: 'string', value: 'URL', help: 'an empty place for the checkpoints, as s3://bucket/prefix' },
  json: { type: 'boolean', help: 'the result as JSON' },
} as const

export async function runRecovery(args: readonly string[]): Promise<number> {
  const flags = parseFlags(args, FLAGS)
  const asJson = flags.has('json')
  const options = {
    stateMb: integerFlag(flags, 'state-mb', 1, 1_000_000) ?? 1_000,
    parallelism: integerFlag(flags, 'parallelism', 1, 64) ?? 2,
    runs: integerFlag(flags, 'runs', 1, 100) ?? 5,
    ...(flags.text('storage') === null ? {} : { storage: flags.text('storage')! }),
  }
  const print = (line: string): void => void process.stderr.write(`${line}\n`)
  const result = await measureRecovery(options, print)
  process.stdout.write(
    asJson
      ? `${JSON.stringify(result)}\n`
      : `median ${median(result.firstRecordMs)} ms to the first record; the state's share ${result.stateMsMedian} ms\n`,
  )
  return 0
}
