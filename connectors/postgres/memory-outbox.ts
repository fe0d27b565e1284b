/**
 * Writer and committer contexts over an outbox in memory, with a log of what writers reported. Test code
 * only: the connector's tests and their crashing child process use it; the engine has the real outbox.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { OutboxSegment, SinkCommitterContext, SinkWriterContext } from '../../engine/contract/sink.ts'
import type { Io } from '../../engine/core/io.ts'
import type { Schema } from '../../engine/core/schema.ts'
import { StringInterner } from '../../engine/core/strings.ts'

const io = {
  clock: { nowMs: () => Date.now(), monotonicMs: () => performance.now() },
  random: { next: () => Math.random() },
  timers: {
    schedule: (delayMs: number, task: () => void) => {
      const timer = setTimeout(task, delayMs)
      return () => clearTimeout(timer)
    },
  },
} as unknown as Io

export class MemoryOutboxes {
  readonly segments = new Map<string, Uint8Array[]>()
  wakes = 0
  failures: unknown[] = []
  private nextFile = 0
  private nextId = 0

  /** A sealed segment of records that no writer made. */
  add(records: readonly string[]): OutboxSegment {
    return this.store(records.map((record) => Buffer.from(record)))
  }

  committerContext(sinkId: string): SinkCommitterContext {
    const segments = this.segments
    return {
      sinkId,
      jobName: 'job',
      io,
      async *readOutbox(segment) {
        yield* segments.get(segment.file)!
      },
    }
  }

  writerContext(schema: Schema): SinkWriterContext {
    return {
      sinkId: 'unused',
      subtask: 0,
      parallelism: 1,
      attempt: 1,
      worker: {
        workerIndex: 0,
        io,
        interner: new StringInterner(),
        nowMs: () => Date.now(),
        uniqueId: (prefix) => `${prefix}-${this.nextId++}`,
      },
      schema,
      createOutbox: () => this.outbox(),
      scratchDirectory: '',
      wake: () => {
        this.wakes++
      },
      fail: (error) => {
        this.failures.push(error)
      },
      post: () => {},
    }
  }

  private outbox() {
    let records: Uint8Array[] = []
    const outbox = {
      bufferedBytes: 0,
      append: (record: Uint8Array) => {
        records.push(new Uint8Array(record))
        outbox.bufferedBytes += record.length
      },
      flush: async () => {
        await sleep(1)
        outbox.bufferedBytes = 0
      },
      seal: async () => {
        const sealed = records
        records = []
        outbox.bufferedBytes = 0
        return sealed.length === 0 ? null : this.store(sealed)
      },
      close: async () => {},
    }
    return outbox
  }

  private store(records: Uint8Array[]): OutboxSegment {
    const file = `segment-${this.nextFile++}`
    this.segments.set(file, records)
    return { file, records: records.length, bytes: records.reduce((sum, r) => sum + r.length, 0), crc32: 0 }
  }
}
