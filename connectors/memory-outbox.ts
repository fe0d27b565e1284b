/**
 * Writer and committer contexts over an outbox in memory, for tests of sinks: the conformance kit
 * (sink-conformance.ts), the connectors' own tests and their crashing child process. The engine has the real outbox.
 *
 * Invariant: a sealed segment stays for as long as this object, whatever becomes of the writer that made it, as a
 * file would; what was appended and not sealed is gone with its writer.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import {
  type OutboxSegment,
  type OutboxWriter,
  outputLost,
  type SinkCommitterContext,
  type SinkWriterContext,
} from '../engine/contract/sink.ts'
import { AccumulatorRegistry } from '../engine/core/accumulators.ts'
import type { Io } from '../engine/core/io.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import type { Schema } from '../engine/core/schema.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { MetricRegistry } from '../engine/core/user-metrics.ts'

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

/** What of a writer's context differs from subtask 0 of 1 in the first attempt. */
export interface WriterPlace {
  readonly sinkId?: string
  readonly subtask?: number
  readonly parallelism?: number
  readonly attempt?: number
  readonly scratchDirectory?: string
  readonly restored?: readonly JsonValue[]
  readonly currentWatermark?: () => number
  readonly wake?: () => void
  readonly fail?: (error: unknown) => void
  readonly post?: (message: unknown) => void
}

export class MemoryOutboxes {
  readonly segments = new Map<string, Uint8Array[]>()
  /** Segments that are as if they were gone, until they are taken out again. */
  readonly lost = new Set<string>()
  wakes = 0
  failures: unknown[] = []
  private readonly recordsMax: number
  private nextFile = 0
  private nextId = 0

  /** After `recordsMax` records an outbox looks full until it is flushed. */
  constructor(recordsMax = Number.POSITIVE_INFINITY) {
    this.recordsMax = recordsMax
  }

  /** A sealed segment of records that no writer made. */
  add(records: readonly string[]): OutboxSegment {
    return this.store(records.map((record) => Buffer.from(record)))
  }

  /** `onStep` is called before each record and at each failpoint; an error of it is the committer's end. */
  committerContext(sinkId: string, onStep?: (step: string) => void | Promise<void>): SinkCommitterContext {
    const { segments, lost } = this
    return {
      sinkId,
      jobName: 'job',
      io: onStep === undefined ? io : { ...io, failpoint: (step) => void onStep(step) },
      async *readOutbox(segment) {
        const records = segments.get(segment.file)
        if (records === undefined || lost.has(segment.file)) throw outputLost(segment.file, 'is gone')
        for (const record of records) {
          if (onStep !== undefined) await onStep('record')
          yield record
        }
      },
    }
  }

  writerContext(schema: Schema, place: WriterPlace = {}): SinkWriterContext {
    return {
      sinkId: place.sinkId ?? 'unused',
      subtask: place.subtask ?? 0,
      parallelism: place.parallelism ?? 1,
      attempt: place.attempt ?? 1,
      name: 'sink',
      restarts: (place.attempt ?? 1) - 1,
      metrics: new MetricRegistry(() => Date.now()),
      accumulators: new AccumulatorRegistry(),
      worker: {
        job: { id: 'test', name: 'test', parameters: {} },
        workerIndex: 0,
        io,
        interner: new StringInterner(),
        nowMs: () => Date.now(),
        uniqueId: (prefix) => `${prefix}-${this.nextId++}`,
      },
      schema,
      restored: place.restored ?? [],
      currentWatermark: place.currentWatermark ?? (() => Number.NEGATIVE_INFINITY),
      createOutbox: () => this.outbox(),
      scratchDirectory: place.scratchDirectory ?? '',
      wake: () => {
        this.wakes++
        place.wake?.()
      },
      fail: (error) => {
        this.failures.push(error)
        place.fail?.(error)
      },
      post: place.post ?? (() => {}),
    }
  }

  private outbox(): OutboxWriter {
    const { recordsMax } = this
    let records: Uint8Array[] = []
    let bytes = 0
    let sinceFlush = 0
    return {
      get bufferedBytes() {
        return sinceFlush >= recordsMax ? Number.MAX_SAFE_INTEGER : bytes
      },
      append: (record: Uint8Array) => {
        records.push(new Uint8Array(record))
        bytes += record.length
        sinceFlush++
      },
      flush: async () => {
        await sleep(1)
        bytes = 0
        sinceFlush = 0
      },
      seal: async () => {
        const sealed = records
        records = []
        bytes = 0
        sinceFlush = 0
        return sealed.length === 0 ? null : this.store(sealed)
      },
      close: async () => {},
    }
  }

  private store(records: Uint8Array[]): OutboxSegment {
    const file = `segment-${this.nextFile++}`
    this.segments.set(file, records)
    let bytes = 0
    let checksum = 0
    for (const record of records) {
      bytes += record.length
      checksum = crc32(record, checksum)
    }
    return { file, records: records.length, bytes, crc32: checksum }
  }
}
