/**
 * How long a thread was ready and waited for a processor: what the machine, not the engine, adds to a time by the clock.
 *
 * The kernel counts it (the second figure of a thread's schedstat). Elsewhere it is 0, and times by the clock mean
 * something only where nothing else runs.
 */
import { openSync, readlinkSync, readSync } from 'node:fs'
import { basename } from 'node:path'

const CALLER = '/proc/thread-self'

/** The calling thread's number in the system; null where there is no /proc. */
export function threadNumber(): number | null {
  try {
    return Number(basename(readlinkSync(CALLER)))
  } catch {
    return null
  }
}

export class ProcessorWait {
  private readonly descriptor: number | null
  private readonly bytes = Buffer.alloc(128)

  /** Of a thread of this process. */
  constructor(thread: number | null = threadNumber()) {
    this.descriptor = thread === null ? null : openedOrNull(`/proc/self/task/${thread}/schedstat`)
  }

  /** Milliseconds so far. */
  ms(): number {
    if (this.descriptor === null) return 0
    const length = readSync(this.descriptor, this.bytes, 0, this.bytes.length, 0)
    return Number(this.bytes.toString('latin1', 0, length).split(' ')[1]) / 1e6
  }
}

function openedOrNull(path: string): number | null {
  try {
    return openSync(path, 'r')
  } catch {
    return null
  }
}
