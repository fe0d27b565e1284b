/**
 * Entry of a worker thread: imports the job module and lets it attach.
 *
 * A module that exports `job(...)` is built and attached here; in a module whose top level calls
 * `execute`, that call attaches and never resolves. The registered port keeps the thread alive: a
 * worker that only waits in Atomics.waitAsync would exit with 0.
 */
import { parentPort } from 'node:worker_threads'
import { workerBootstrap } from './worker-attach.ts'
import { failureAt, sentFailure } from './worker-failure.ts'

interface BuildableJob {
  build(config: Readonly<Record<string, string>>): { readonly graph: Parameters<typeof attach>[0] }
}

async function attach(graph: import('../contract/job-graph.ts').JobGraph): Promise<void> {
  const { attachWorker } = await import('./worker-attach.ts')
  await attachWorker(graph)
}

const bootstrap = workerBootstrap()
if (bootstrap === null || parentPort === null) {
  throw new Error('This module is the entry of Millrace worker threads; it is not meant to be run or imported.')
}
try {
  const module = (await import(bootstrap.moduleUrl)) as { default?: Partial<BuildableJob> }
  const definition = module.default
  if (typeof definition?.build === 'function') await attach((definition as BuildableJob).build(bootstrap.config).graph)
} catch (error) {
  parentPort.postMessage({
    type: 'failed',
    worker: bootstrap.workerIndex,
    failure: { ...sentFailure(failureAt(`worker ${bootstrap.workerIndex}`, error, new Set())), restartable: false },
  })
}
