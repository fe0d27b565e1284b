/**
 * Contexts for the tests of connectors: real files, real timers unless a test moves time itself, small enough to read.
 * Test code only.
 *
 * Dead letters, failures and wake-ups are kept where a test can look at them. The outbox is a real file
 * of u32-framed records with a CRC-32 over the whole file, as the contract says.
 */
import { type FileHandle, mkdir, mkdtemp, open, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import {
  type OutboxSegment,
  type OutboxWriter,
  outputLost,
  type SinkCommitterContext,
  type SinkWriterContext,
} from '../engine/contract/sink.ts'
import type { DeadLetter, Source, SourceReader, SourceReaderContext, SplitState } from '../engine/contract/source.ts'
import type { WorkerContext } from '../engine/contract/worker-context.ts'
import { AccumulatorRegistry } from '../engine/core/accumulators.ts'
import type { Batch } from '../engine/core/batch.ts'
import type { Clock, Timers } from '../engine/core/io.ts'
import { rowReader } from '../engine/core/rows.ts'
import type { Schema } from '../engine/core/schema.ts'
import { MetricRegistry } from '../engine/core/user-metrics.ts'
import { connectorIo, connectorWorker } from '../engine/testing/connector-worker.ts'

/** Runs `body` with a fresh directory and removes it afterwards. */
export async function withDirectory<T>(body: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-connector-'))
  try {
    return await body(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** Time that a test moves. */
export class HandTime implements Clock, Timers {
  private nowAtMs = 1_000
  private readonly due = new Map<() => void, number>()

  nowMs(): number {
    return this.nowAtMs
  }

  monotonicMs(): number {
    return this.nowAtMs
  }

  schedule(delayMs: number, task: () => void): () => void {
    this.due.set(task, this.nowAtMs + delayMs)
    return () => void this.due.delete(task)
  }

  pass(ms: number): void {
    for (const until = this.nowAtMs + ms; this.nowAtMs < until; ) {
      this.nowAtMs++
      for (const [task, atMs] of this.due) if (atMs <= this.nowAtMs && this.due.delete(task)) task()
    }
  }
}

/** The worker of a test; with `time` its clock and timers are that. */
export function testWorkerAt(time: HandTime | null): WorkerContext {
  const worker = connectorWorker()
  if (time === null) return worker
  return { ...worker, io: { ...worker.io, clock: time, timers: time }, nowMs: () => time.nowMs() }
}

/** A reader that is silent for so long will never wake anybody: only a test that hangs waits for it. */
const WAKE_MS_MAX = 60_000

export class TestReaderContext implements SourceReaderContext {
  readonly subtask = 0
  readonly parallelism = 1
  readonly worker: WorkerContext
  readonly checkpointing = true
  readonly letters: DeadLetter[] = []
  failure: unknown = null
  private readonly time: HandTime | null
  private signal: (() => void) | null = null
  private woken = false

  constructor(time: HandTime | null = null) {
    this.time = time
    this.worker = testWorkerAt(time)
  }

  wake(): void {
    this.woken = true
    this.signal?.()
  }

  fail(error: unknown): void {
    this.failure = error
    this.wake()
  }

  deadLetter(letter: DeadLetter): void {
    this.letters.push(letter)
  }

  /** Resolves at the next `wake` (or one since the last call), to which time of the test's own passes; throws what was given to `fail`. */
  async woke(): Promise<void> {
    for (let ms = 0; this.time !== null && !this.woken && this.failure === null && ms < WAKE_MS_MAX; ms++)
      this.time.pass(1)
    if (!this.woken && this.failure === null) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('The reader never called wake().')), WAKE_MS_MAX)
        this.signal = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    this.signal = null
    this.woken = false
    if (this.failure !== null) throw this.failure
  }
}

export interface ReadResult {
  readonly rows: unknown[]
  readonly eventTimes: number[]
  readonly letters: DeadLetter[]
  readonly ended: boolean
  readonly positions: readonly SplitState[]
}

/** Opens a reader on `splits` (all of the source's by default) and reads until the end or `rowsWanted` rows. */
export async function readRows<T>(
  source: Source<T>,
  options: {
    splits?: readonly SplitState[]
    rowsWanted?: number
    rowsMax?: number
    onBatch?: (batch: Batch, reader: SourceReader) => void
    /** Passes while the reader has nothing. */
    time?: HandTime
  } = {},
): Promise<ReadResult> {
  const context = new TestReaderContext(options.time)
  const splits = options.splits ?? (await source.splits({ worker: context.worker }))
  const reader = source.createReader(context)
  const read = rowReader(source.schema, context.worker.interner, context.worker.uniqueId('test-rows'))
  const wanted = options.rowsWanted ?? Number.POSITIVE_INFINITY
  const rows: unknown[] = []
  const eventTimes: number[] = []
  let ended = false
  try {
    await reader.open(splits)
    while (rows.length < wanted && !ended) {
      const polled = reader.poll(Math.min(options.rowsMax ?? 2_048, wanted - rows.length))
      if (polled.kind === 'pending') await context.woke()
      else if (polled.kind === 'end') ended = true
      else if (polled.kind === 'finished') continue
      else {
        for (let i = 0; i < polled.batch.length; i++) rows.push(read(polled.batch, i))
        eventTimes.push(...polled.batch.eventTime)
        options.onBatch?.(polled.batch, reader)
      }
    }
  } finally {
    await reader.close()
  }
  const positions = JSON.parse(JSON.stringify(reader.snapshot())) as SplitState[]
  return { rows, eventTimes, letters: context.letters, ended, positions }
}

class FileOutbox implements OutboxWriter {
  private readonly directory: string
  private readonly prefix: string
  private segments = 0
  private frames: Buffer[] = []
  private records = 0
  bufferedBytes = 0

  constructor(directory: string, prefix: string) {
    this.directory = directory
    this.prefix = prefix
  }

  append(record: Uint8Array): void {
    const frame = Buffer.alloc(4 + record.length)
    frame.writeUInt32BE(record.length, 0)
    frame.set(record, 4)
    this.frames.push(frame)
    this.records++
    this.bufferedBytes += frame.length
  }

  async flush(): Promise<void> {
    // Small enough to stay in memory until the seal.
  }

  async seal(): Promise<OutboxSegment | null> {
    if (this.records === 0) return null
    const content = Buffer.concat(this.frames)
    const records = this.records
    const file = `${this.prefix}-${this.segments++}.outbox`
    this.frames = []
    this.records = 0
    this.bufferedBytes = 0
    let handle: FileHandle | null = null
    try {
      handle = await open(join(this.directory, file), 'wx')
      await handle.writeFile(content)
      await handle.sync()
    } finally {
      await handle?.close()
    }
    return { file, records, bytes: content.length, crc32: crc32(content) }
  }

  async close(): Promise<void> {
    this.frames = []
  }
}

export interface TestWriterContext extends SinkWriterContext {
  failure(): unknown
  /** Resolves at the next `wake`. */
  woke(): Promise<void>
}

/** `checkpointDirectory` holds the outboxes; give the same one to `testCommitterContext`. */
export async function testWriterContext(
  checkpointDirectory: string,
  schema: Schema,
  options: { subtask?: number; attempt?: number; sinkId?: string } = {},
): Promise<TestWriterContext> {
  const subtask = options.subtask ?? 0
  const attempt = options.attempt ?? 1
  const scratchDirectory = join(checkpointDirectory, `scratch-${subtask}-${attempt}`)
  await mkdir(scratchDirectory, { recursive: true })
  let failed: unknown = null
  let waiters: (() => void)[] = []
  let outboxes = 0
  return {
    sinkId: options.sinkId ?? 'sink',
    subtask,
    parallelism: 1,
    attempt,
    name: 'sink',
    restarts: attempt - 1,
    metrics: new MetricRegistry(() => 0),
    accumulators: new AccumulatorRegistry(),
    worker: connectorWorker(),
    schema,
    restored: [],
    currentWatermark: () => Number.NEGATIVE_INFINITY,
    scratchDirectory,
    createOutbox: () =>
      new FileOutbox(checkpointDirectory, `${options.sinkId ?? 'sink'}-${subtask}-${attempt}-${outboxes++}`),
    wake: () => {
      for (const waiter of waiters) waiter()
      waiters = []
    },
    fail: (error) => {
      failed = error
    },
    post: () => {},
    failure: () => failed,
    woke: () => new Promise((resolve) => waiters.push(resolve)),
  }
}

export function testCommitterContext(checkpointDirectory: string, sinkId = 'sink'): SinkCommitterContext {
  return {
    sinkId,
    jobName: 'test',
    io: connectorIo(),
    readOutbox: async function* (segment) {
      const content = await readFile(join(checkpointDirectory, segment.file))
      if (content.length !== segment.bytes || crc32(content) !== segment.crc32) {
        throw outputLost(segment.file, 'does not match its checksum')
      }
      for (let at = 0; at < content.length; ) {
        const length = content.readUInt32BE(at)
        yield content.subarray(at + 4, at + 4 + length)
        at += 4 + length
      }
    },
  }
}
