/**
 * The worker thread's side of a deployment: joins a WorkerRuntime to the port of its parent.
 */
import { isMainThread, parentPort, workerData } from 'node:worker_threads'
import type { JobGraph } from '../contract/job-graph.ts'
import { RingHub } from './channel-hub.ts'
import { nodeIo } from './node-io.ts'
import type { FromWorker, ToWorker } from './protocol.ts'
import { keyedStoreFactory } from './store-factories.ts'
import { sentFailure } from './worker-failure.ts'
import { WorkerRuntime } from './worker-runtime.ts'

/** What a worker thread of Millrace was started with. */
export interface WorkerBootstrap {
  readonly moduleUrl: string
  readonly workerIndex: number
  readonly jobName: string
  readonly config: Readonly<Record<string, string>>
}

/** Null on every other thread. */
export function workerBootstrap(): WorkerBootstrap | null {
  if (isMainThread) return null
  const data = workerData as { millrace?: WorkerBootstrap } | null
  return data?.millrace ?? null
}

/** What was thrown may be anything. */
function sendable(message: FromWorker): FromWorker {
  if (message.type !== 'failed' && message.type !== 'closeFailed') return message
  return { ...message, failure: sentFailure(message.failure) }
}

/** Runs this worker's subtasks until the coordinator closes it; never resolves. */
export function attachWorker(graph: JobGraph): Promise<never> {
  const bootstrap = workerBootstrap()
  const port = parentPort
  if (bootstrap === null || port === null) throw new Error('attachWorker is called in worker threads only')
  const runtime = new WorkerRuntime({
    io: nodeIo,
    graph,
    storeFactory: keyedStoreFactory,
    createHub: (deployment, wake) => new RingHub(deployment.rings, deployment.workerIndex, deployment.workers, wake),
    send: (message) => port.postMessage(sendable(message)),
    defer: setImmediate,
  })
  port.on('message', (message: ToWorker) => runtime.receive(message))
  return new Promise(() => {})
}
