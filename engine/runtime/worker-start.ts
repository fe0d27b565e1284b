/**
 * Starts the thread of a worker. Called by the launcher.
 *
 * The thread imports the job's module through worker-entry.ts. In a bundle there is no such file, and the job's module
 * has the engine in it: then the thread's first module is a line of its own that has the job attach itself.
 */
import { Worker } from 'node:worker_threads'
import { IS_BUNDLED, packageModule } from '../core/own-module.ts'
import type { WorkerBootstrap } from './worker-attach.ts'

/**
 * A job that `job(...)` made attaches itself; one whose module calls `execute` at its top level has done so by then. The
 * exports of a CommonJS module are the default export.
 */
function bundleEntry(moduleUrl: string): URL {
  const source = `const { default: exported } = await import(${JSON.stringify(moduleUrl)})
const job = exported?.default ?? exported
if (typeof job?.attach === 'function') await job.attach()`
  return new URL(`data:text/javascript,${encodeURIComponent(source)}`)
}

export function startWorkerThread(bootstrap: WorkerBootstrap): Worker {
  const entry = IS_BUNDLED ? bundleEntry(bootstrap.moduleUrl) : packageModule('engine/runtime/worker-entry')
  return new Worker(entry, {
    workerData: { millrace: bootstrap },
    name: `millrace worker ${bootstrap.workerIndex}`,
  })
}
