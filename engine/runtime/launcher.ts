/**
 * Starts a job in this process: on worker threads, or on the calling thread when `workers` is 0.
 *
 * Called by the API's `execute` and the command line. A local checkpoint directory is locked for the life of
 * the job; without one a temporary directory serves restarts within the process and is removed at the
 * end, save for dead letters. For a remote one (s3://...) the lock and the working files lie in a directory of
 * the system's temporary folder that belongs to that URL: it is removed at the end, and whatever a crash leaves
 * in it is cleared by the next start.
 */
import { createHash, randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { acquireFileLock, type FileLock } from '../../state/file-lock.ts'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import { layout } from '../checkpoint/layout.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import { isObjectUrl } from '../contract/object-store.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { LocalChannelPool } from './channel-hub.ts'
import { JobMaster, type MasterEnvironment, type WorkerHandle } from './job-master.ts'
import type { JobOptions, RunningJob } from './launcher-types.ts'
import { nodeIo } from './node-io.ts'
import type { FromWorker } from './protocol.ts'
import { createRingMemory } from './ring-memory.ts'
import { keyedStoreFactory } from './store-factories.ts'
import { receivedFailure, type WorkerFailure } from './worker-failure.ts'
import { WorkerRuntime } from './worker-runtime.ts'
import { startWorkerThread } from './worker-start.ts'

export type { WorkerBootstrap } from './worker-attach.ts'
export { attachWorker, workerBootstrap } from './worker-attach.ts'

/** A worker that does not answer is ended after this long. */
const CLOSE_GRACE_MS = 3_000

/**
 * Starts a job; resolves once it is deployed. Rejects with a `MillraceError` when it cannot start:
 * `LOCK_HELD`, `MODULE_REQUIRED`, and what recovery.ts and commits.ts name. `io` is for tests of faults; worker
 * threads always use the real one.
 */
export async function launchJob(graph: JobGraph, options: JobOptions, io: Io = nodeIo): Promise<RunningJob> {
  if (options.workers > 0 && options.moduleUrl === null) {
    throw new MillraceError('MODULE_REQUIRED', 'Worker threads need a module to import.', {
      hint: 'Pass { module: import.meta.url } to execute, or run without worker threads.',
    })
  }
  const factory = await keyedStoreFactory(options.stateBackend)
  const { directory, home, isTemporary } = placeOf(options.checkpointDirectory)
  await makePlace(home, io)
  let lock: FileLock | null = null
  const release = (): void => {
    if (home !== directory && lock !== null) rmSync(layout.live(home), { recursive: true, force: true })
    lock?.release()
    if (isTemporary) removeTemporary(directory, options.onEvent)
  }
  try {
    lock = acquireFileLock(layout.lock(home))
    const placement = options.workers > 0 ? threads(options) : callingThread(graph, io)
    const master = new JobMaster(graph, options, directory, {
      io,
      stateBackend: factory.description,
      jobId: randomUUID().replaceAll('-', '').slice(0, 16),
      liveDirectory: layout.live(home),
      ...placement,
    })
    master.done.then(release, release)
    await master.start()
    return master
  } catch (error) {
    release()
    throw error
  }
}

/** Throws `CHECKPOINT_DIRECTORY_UNUSABLE`. */
async function makePlace(home: string, io: Io): Promise<void> {
  try {
    await mkdir(home, { recursive: true })
    await io.disk.syncDirectory(dirname(home))
  } catch (cause) {
    throw new MillraceError(
      'CHECKPOINT_DIRECTORY_UNUSABLE',
      `Cannot make the directory ${home}: ${messageOf(cause)}.`,
      {
        domain: 'external',
        cause,
        hint: 'Give a directory that can be made and written to, or mend its permissions.',
      },
    )
  }
}

interface JobPlace {
  /** Of the checkpoints: local, or an URL. */
  readonly directory: string
  /** Local, with the lock and what only the running attempt needs. */
  readonly home: string
  readonly isTemporary: boolean
}

function placeOf(asked: string | null): JobPlace {
  if (asked === null) {
    const directory = mkdtempSync(join(tmpdir(), 'millrace-'))
    return { directory, home: directory, isTemporary: true }
  }
  if (!isObjectUrl(asked)) return { directory: resolve(asked), home: resolve(asked), isTemporary: false }
  const directory = asked.replace(/\/+$/, '')
  const id = createHash('sha256').update(directory).digest('hex').slice(0, 16)
  return { directory, home: join(tmpdir(), `millrace-${process.getuid?.() ?? 0}-remote-${id}`), isTemporary: false }
}

/** Removes what only restarts needed. Dead letters are the user's records: they stay, and it is said where. */
function removeTemporary(directory: string, onEvent: JobOptions['onEvent']): void {
  const letters = layout.deadLetters(directory)
  if (!existsSync(letters) || readdirSync(letters).length === 0) {
    rmSync(directory, { recursive: true, force: true })
    return
  }
  for (const name of readdirSync(directory)) {
    if (join(directory, name) !== letters) rmSync(join(directory, name), { recursive: true, force: true })
  }
  onEvent({
    type: 'exception',
    where: 'dead letters',
    message: `Records that could not be used are in ${letters}.`,
    stack: null,
  })
}

type Placement = Pick<MasterEnvironment, 'spawn' | 'createRings' | 'releaseMemory'>

/** Ends a worker politely, then by force. */
function closing(
  send: () => void,
  closed: Promise<void>,
  force: () => Promise<unknown> = async () => {},
): Promise<void> {
  send()
  let timer: NodeJS.Timeout | undefined
  const grace = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, CLOSE_GRACE_MS)
  })
  return Promise.race([closed, grace])
    .then(force)
    .then(() => clearTimeout(timer))
}

function threads(options: JobOptions): Placement {
  return {
    createRings: (channels, workers) => (channels === 0 ? null : createRingMemory(channels, workers)),
    spawn: (index, onMessage, onExit) => spawnThread(options, index, onMessage, onExit),
    releaseMemory: () => tryLoadRocksdbAddon()?.trimHeap?.(),
  }
}

/** As on the calling thread. */
function received(message: FromWorker): FromWorker {
  if (message.type !== 'failed' && message.type !== 'closeFailed') return message
  return { ...message, failure: receivedFailure(message.failure) }
}

function spawnThread(
  options: JobOptions,
  index: number,
  onMessage: (message: FromWorker) => void,
  onExit: (failure: WorkerFailure) => void,
): WorkerHandle {
  const worker = startWorkerThread({
    moduleUrl: options.moduleUrl!,
    workerIndex: index,
    jobName: options.name,
    config: options.config,
  })
  let ending = false
  // Before the first message it loads the job's module: what fails there does so each time.
  let hasLoaded = false
  const failure = (message: string, stack: string | null): WorkerFailure => ({
    where: `worker ${index}`,
    code: hasLoaded ? 'WORKER_LOST' : null,
    message,
    stack,
    restartable: hasLoaded,
  })
  const closed = new Promise<void>((resolve) => {
    worker.on('message', (message: FromWorker) => {
      hasLoaded = true
      if (message.type === 'closed') resolve()
      else onMessage(received(message))
    })
    worker.on('exit', (code) => {
      resolve()
      if (!ending) onExit(failure(`The worker thread ended by itself with code ${code}.`, null))
    })
  })
  worker.on('error', (error: unknown) => {
    const message = error instanceof Error ? error.message : String(error)
    if (!ending) onExit(failure(message, error instanceof Error ? (error.stack ?? null) : null))
  })
  return {
    send: (message) => worker.postMessage(message),
    terminate() {
      ending = true
      return closing(
        () => worker.postMessage({ type: 'close' }),
        closed,
        () => worker.terminate(),
      )
    },
  }
}

/** All subtasks on the calling thread: for tests, services and prompts. */
function callingThread(graph: JobGraph, io: Io): Placement {
  let pool = new LocalChannelPool(1)
  return {
    createRings(_channels, workers) {
      pool = new LocalChannelPool(workers)
      return null
    },
    spawn(_index, onMessage) {
      const { promise: closed, resolve: onClosed } = Promise.withResolvers<void>()
      const runtime = new WorkerRuntime({
        io,
        graph,
        storeFactory: keyedStoreFactory,
        createHub: (deployment, wake) => pool.hub(deployment.workerIndex, wake),
        send(message) {
          // In the order in which they were sent.
          if (message.type === 'closed') setImmediate(onClosed)
          else setImmediate(onMessage, message)
        },
        defer: setImmediate,
      })
      return {
        send: (message) => setImmediate(() => runtime.receive(message)),
        terminate() {
          // A function that never answers cannot be stopped here, but must not keep the job from ending.
          return closing(() => runtime.receive({ type: 'close' }), closed)
        },
      }
    },
  }
}
