/**
 * The worker that the conformance kits and the tests of connectors hand to what they test: real clock, random and
 * timers. `io.disk` belongs to checkpoints, connectors use Node's file system; so any use of it fails.
 */
import { randomUUID } from 'node:crypto'
import type { WorkerContext } from '../contract/worker-context.ts'
import type { Disk, Io } from '../core/io.ts'
import { StringInterner } from '../core/strings.ts'
import { nodeIo } from '../runtime/node-io.ts'

export function connectorIo(): Io {
  const disk = new Proxy({} as Disk, {
    get: (_, name) => () => Promise.reject(new Error(`A connector must not use io.disk.${String(name)}.`)),
  })
  const { clock, random, timers } = nodeIo
  return { clock, random, timers, disk }
}

export function connectorWorker(): WorkerContext {
  let ids = 0
  const run = randomUUID()
  return {
    job: { id: 'test', name: 'test', parameters: {} },
    workerIndex: 0,
    io: connectorIo(),
    interner: new StringInterner(),
    nowMs: () => Date.now(),
    uniqueId: (prefix) => `${prefix}-${run}-${ids++}`,
  }
}
