/**
 * `millrace bench recovery [--state-mb N] [--parallelism P] [--runs N] [--storage URL] [--json]`: how long a job takes
 * from its start to its first new record, with that much state on the local disk or in an object store.
 *
 * A first process fills the state and ends with a checkpoint; each run then starts a new process with
 * `--restore latest`. The time counts from the spawning of the process, so Node's own start is in it; the share of
 * that is measured with a job without state. Every record read checks that its key's state is the saved one.
 *
 * With an object store each run is of a machine that has nothing: the process has an empty temporary folder of its own.
 * Right before it the same objects are fetched by plain requests (raw-download.ts); what the recovery takes beyond that
 * is held to the limit of five seconds, which is meant for a gigabyte. Exit code 1 when it is not kept.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { flagLines } from '../cli/help.ts'
import { integerFlag, parseFlags } from '../engine/api/run-flags.ts'
import { listCheckpoints } from '../engine/checkpoint/verify.ts'
import { isObjectUrl } from '../engine/contract/object-store.ts'
import { siblingModule } from '../engine/core/own-module.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { median } from './paired.ts'
import { measureTransferMs } from './raw-download.ts'

/** Bytes of a key and its value in the store, about. */
const BYTES_PER_KEY = 110
const MB = 1_000_000
const ROWS_PER_RUN = 2_000
/** For a recovery of a gigabyte without its transfer. */
const REST_LIMIT_MS = 5_000

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
  /** Downloading the checkpoint's files alone, for each run; 0 where they lie on the local disk. */
  readonly transferMs: readonly number[]
  /** A run's `firstRecordMs` without its `transferMs`. */
  readonly restMs: readonly number[]
  readonly restMsMedian: number
  /** `restMsMedian` is within five seconds. */
  readonly passed: boolean
  /** What the state adds, transfer included: the difference of the medians. */
  readonly stateMsMedian: number
}

interface JobRun {
  readonly keys: number
  readonly fresh: number
  readonly parallelism: number
  readonly directory: string
  /** The process's temporary files, and with a remote directory its stores; removed when it ends. */
  readonly home: string
  readonly restore: boolean
}

/** Runs the job in a process of its own; resolves to the time until the first new record, null without one. */
async function runJob({ keys, fresh, parallelism, directory, home, restore }: JobRun): Promise<number | null> {
  await mkdir(home)
  const settings = { keys, fresh, splits: parallelism }
  const args = [
    ...[MAIN, 'run', JOB, '--workers', String(parallelism), '--parallelism', String(parallelism), '--port', '0'],
    ...['--checkpoint-dir', directory, '--state-backend', 'rocksdb'],
    ...(restore ? ['--restore', 'latest'] : ['--checkpoint-interval', '5000']),
    ...Object.entries(settings).flatMap(([name, value]) => ['--set', `${name}=${value}`]),
  ]
  const spawnedMs = Date.now()
  const env = { ...process.env, TMPDIR: home }
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
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
  const [code] = await once(child, 'close')
  await rm(home, { recursive: true, force: true })
  if (code !== 0) throw new Error(`The job ended with ${code}:\n${errors}`)
  return first
}

/** A job under measurement. */
interface Subject {
  readonly keys: number
  readonly parallelism: number
  readonly directory: string
  readonly home: string
}

async function filled(keys: number, parallelism: number, folder: string, scratch: string): Promise<Subject> {
  const subject = { keys, parallelism, directory: `${folder}/of-${keys}`, home: join(scratch, 'home') }
  await runJob({ ...subject, fresh: 0, restore: false })
  return subject
}

/** One recovery, which goes on with the next few rows and leaves a checkpoint for the run after it. */
async function recovered(subject: Subject, run: number): Promise<number> {
  const ms = await runJob({ ...subject, fresh: ROWS_PER_RUN * (run + 1), restore: true })
  if (ms === null) throw new Error('The job read no record after its restore.')
  return ms
}

export async function measureRecovery(
  options: RecoveryOptions,
  print: (line: string) => void,
): Promise<RecoveryResult> {
  const { stateMb, parallelism, runs, storage } = options
  const keys = Math.max(1, Math.round((stateMb * MB) / BYTES_PER_KEY))
  const scratch = await mkdtemp(join(tmpdir(), 'millrace-recovery-'))
  const folder = storage ?? scratch
  const [firstRecordMs, emptyMs, transferMs, restMs] = [[], [], [], []] as [number[], number[], number[], number[]]
  try {
    const large = await filled(keys, parallelism, folder, scratch)
    const empty = await filled(10, parallelism, folder, scratch)
    const stateBytes = (await listCheckpoints(nodeIo.disk, large.directory)).at(-1)?.stateBytes ?? 0
    print(`${keys} keys, ${(stateBytes / MB).toFixed(0)} MB of state in ${parallelism} stores`)
    for (let run = 0; run < runs; run++) {
      emptyMs.push(await recovered(empty, run))
      transferMs.push(isObjectUrl(folder) ? await measureTransferMs(large.directory, scratch) : 0)
      firstRecordMs.push(await recovered(large, run))
      restMs.push(firstRecordMs[run]! - transferMs[run]!)
      print(
        `first record after ${firstRecordMs[run]} ms: transfer ${transferMs[run]} ms, rest ${restMs[run]} ms; ` +
          `with an empty state ${emptyMs[run]} ms`,
      )
    }
    const stateMsMedian = median(firstRecordMs) - median(emptyMs)
    const restMsMedian = median(restMs)
    const passed = restMsMedian < REST_LIMIT_MS
    const times = { firstRecordMs, emptyMs, transferMs, restMs, restMsMedian, passed, stateMsMedian }
    return { stateBytes, keys, parallelism, ...times }
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

function textOf({ firstRecordMs, transferMs, restMsMedian, stateMsMedian, passed }: RecoveryResult): string {
  return (
    `medians: ${median(firstRecordMs)} ms to the first record; transfer ${median(transferMs)} ms; rest ${restMsMedian} ms, ` +
    `limit ${REST_LIMIT_MS} ms: ${passed ? 'pass' : 'FAIL'}; the state's share, transfer included, ${stateMsMedian} ms\n`
  )
}

const FLAGS = {
  'state-mb': { type: 'string', value: 'N', help: 'megabytes of keyed state (default 1000)' },
  parallelism: { type: 'string', value: 'N', help: 'worker threads, each with its store (default 2)' },
  runs: { type: 'string', value: 'N', help: 'recoveries (default 5)' },
  storage: { type: 'string', value: 'URL', help: 'an empty place for the checkpoints, as s3://bucket/prefix' },
  json: { type: 'boolean', help: 'the result as JSON' },
  help: { type: 'boolean', help: 'show this text' },
} as const

const HELP = `millrace bench recovery [flags]: from the start of a process to its first new record, with much state

${flagLines(FLAGS).join('\n')}

From an object store the transfer of the same objects is measured apart. Exit code 1 when the rest takes 5 s or more.
`

export async function runRecovery(args: readonly string[]): Promise<number> {
  const flags = parseFlags(args, FLAGS)
  if (flags.has('help')) {
    process.stdout.write(HELP)
    return 0
  }
  const asJson = flags.has('json')
  const options = {
    stateMb: integerFlag(flags, 'state-mb', 1, 1_000_000) ?? 1_000,
    parallelism: integerFlag(flags, 'parallelism', 1, 64) ?? 2,
    runs: integerFlag(flags, 'runs', 1, 100) ?? 5,
    ...(flags.text('storage') === null ? {} : { storage: flags.text('storage')! }),
  }
  const print = (line: string): void => void process.stderr.write(`${line}\n`)
  const result = await measureRecovery(options, print)
  process.stdout.write(asJson ? `${JSON.stringify(result)}\n` : textOf(result))
  return result.passed ? 0 : 1
}
