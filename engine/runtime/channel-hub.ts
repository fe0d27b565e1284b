/**
 * Where a worker gets its channels from, and how it sleeps until one of them has news.
 *
 * `RingHub` joins worker threads: rings between threads, local queues within one. `LocalHub` serves
 * workers that share one thread: the calling-thread mode and the simulator.
 */
import type { Schema } from '../core/schema.ts'
import { type ChannelReader, type ChannelWriter, LocalChannel } from './channel.ts'
import { type PlannedChannel, workerOf } from './planner.ts'
import { RingReader, RingWriter } from './ring-channel.ts'
import { RingMemory, type RingMemoryBuffers } from './ring-memory.ts'
import { BatchEncoder } from './wire.ts'

export interface ChannelHub {
  /** `index` is the channel's position in `planChannels`. */
  writer(index: number, channel: PlannedChannel): ChannelWriter
  reader(index: number, channel: PlannedChannel, schema: Schema): ChannelReader
  /** The worker runs: peers need not wake it. */
  awake(): void
  /** The worker is about to sleep: from now on peers wake it. Returns what `sleep` has to be given. */
  fallAsleep(): number
  /** Nothing came since `fallAsleep`: wakes the worker when something does. */
  sleep(seen: number): void
  close(): void
}

/** Batches that a queue within a thread holds. */
const LOCAL_CAPACITY = 8

/** Queues within one worker, made by whichever end asks first. */
function localChannels(wake: () => void, encoder: BatchEncoder): (index: number) => LocalChannel {
  const channels = new Map<number, LocalChannel>()
  return (index) => {
    let channel = channels.get(index)
    if (channel === undefined) {
      channel = new LocalChannel(LOCAL_CAPACITY, wake, wake, encoder)
      channels.set(index, channel)
    }
    return channel
  }
}

export class RingHub implements ChannelHub {
  private readonly memory: RingMemory | null
  private readonly worker: number
  private readonly workers: number
  private readonly wake: () => void
  private readonly encoder = new BatchEncoder()
  private readonly local: (index: number) => LocalChannel
  private waiting = false
  private closed = false

  constructor(buffers: RingMemoryBuffers | null, worker: number, workers: number, wake: () => void) {
    this.memory = buffers === null ? null : new RingMemory(buffers)
    this.worker = worker
    this.workers = workers
    this.wake = wake
    this.local = localChannels(wake, this.encoder)
  }

  writer(index: number, channel: PlannedChannel): ChannelWriter {
    if (channel.ring < 0) return this.local(index)
    return new RingWriter(this.memory!, channel.ring, workerOf(channel.toSubtask, this.workers), this.encoder)
  }

  reader(index: number, channel: PlannedChannel, schema: Schema): ChannelReader {
    if (channel.ring < 0) return this.local(index)
    return new RingReader(this.memory!, channel.ring, workerOf(channel.fromSubtask, this.workers), schema)
  }

  awake(): void {
    this.memory?.setSleeping(this.worker, false)
  }

  fallAsleep(): number {
    if (this.memory === null) return 0
    this.memory.setSleeping(this.worker, true)
    return this.memory.sequence(this.worker)
  }

  sleep(seen: number): void {
    // One wait at a time: an older one is still good, because the sequence has not changed since.
    if (this.memory === null || this.waiting) return
    const change = this.memory.waitForChange(this.worker, seen)
    if (change === null) {
      this.wake()
      return
    }
    this.waiting = true
    change.then(() => {
      this.waiting = false
      if (!this.closed) this.wake()
    })
  }

  close(): void {
    this.closed = true
    this.memory?.setSleeping(this.worker, true)
    this.memory?.wake(this.worker)
  }
}

/** Channels between workers of one thread; shared by all of them. */
export class LocalChannelPool {
  private readonly channels = new Map<number, LocalChannel>()
  private readonly wakes: (() => void)[] = []
  private readonly encoder = new BatchEncoder()
  private readonly capacity: number
  private readonly workers: number

  constructor(workers: number, capacity: number = LOCAL_CAPACITY) {
    this.workers = workers
    this.capacity = capacity
  }

  hub(worker: number, wake: () => void): ChannelHub {
    this.wakes[worker] = wake
    const open = (index: number, channel: PlannedChannel): LocalChannel => this.open(index, channel)
    return {
      writer: open,
      reader: open,
      awake() {},
      fallAsleep: () => 0,
      sleep() {},
      close() {},
    }
  }

  private open(index: number, channel: PlannedChannel): LocalChannel {
    let found = this.channels.get(index)
    if (found === undefined) {
      const wakeOf = (subtask: number) => () => this.wakes[workerOf(subtask, this.workers)]?.()
      found = new LocalChannel(this.capacity, wakeOf(channel.toSubtask), wakeOf(channel.fromSubtask), this.encoder)
      this.channels.set(index, found)
    }
    return found
  }
}
