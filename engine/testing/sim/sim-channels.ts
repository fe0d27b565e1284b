/**
 * Channels of a simulated run, in queues or in rings, under a check of I8: no record crosses its barrier.
 *
 * Called by sim-process.ts, one a run. Rings are the real ones over shared memory; only the wake-up goes
 * through the scheduler instead of `Atomics.waitAsync`, whose answers come in no fixed order (the order of
 * its steps has a checker of its own in ring-channel.test.ts).
 */
import type { ChannelReader, ChannelWriter } from '../../runtime/channel.ts'
import { type ChannelHub, LocalChannelPool } from '../../runtime/channel-hub.ts'
import { workerOf } from '../../runtime/planner.ts'
import { RingReader, RingWriter } from '../../runtime/ring-channel.ts'
import { createRingMemory, RingMemory, type RingMemoryBuffers } from '../../runtime/ring-memory.ts'
import { BatchEncoder } from '../../runtime/wire.ts'

/** What a planted fault puts around the two ends of each channel. */
export interface ChannelPlant {
  writer?(writer: ChannelWriter): ChannelWriter
  reader?(reader: ChannelReader): ChannelReader
}

class WakingMemory extends RingMemory {
  private readonly wakes: readonly (() => void)[]

  constructor(buffers: RingMemoryBuffers, wakes: readonly (() => void)[]) {
    super(buffers)
    this.wakes = wakes
  }

  override wake(worker: number): void {
    this.wakes[worker]?.()
  }
}

/** How many rows had been written before each barrier that is under way. */
interface Log {
  written: number
  read: number
  readonly barriers: { readonly attempt: number; readonly written: number }[]
}

export interface SimChannelsOptions {
  readonly workers: number
  readonly capacity: number
  /** Number of channels between workers, to make rings for; null for queues. */
  readonly rings: number | null
  readonly plant: ChannelPlant
  readonly onCrossed: (message: string) => void
}

export class SimChannels {
  private readonly options: SimChannelsOptions
  private readonly pool: LocalChannelPool
  private readonly wakes: (() => void)[] = []
  private readonly memory: RingMemory | null
  private readonly encoder = new BatchEncoder()
  private readonly logs = new Map<number, Log>()

  constructor(options: SimChannelsOptions) {
    this.options = options
    this.pool = new LocalChannelPool(options.workers, options.capacity)
    const { rings, workers } = options
    this.memory = rings === null ? null : new WakingMemory(createRingMemory(rings, workers), this.wakes)
  }

  hub(worker: number, wake: () => void): ChannelHub {
    this.wakes[worker] = wake
    const { workers, plant } = this.options
    const local = this.pool.hub(worker, wake)
    const { memory, encoder } = this
    const around = {
      writer: plant.writer ?? ((writer: ChannelWriter) => writer),
      reader: plant.reader ?? ((reader: ChannelReader) => reader),
    }
    return {
      ...local,
      writer: (index, channel) => {
        const plain =
          memory === null || channel.ring < 0
            ? local.writer(index, channel)
            : new RingWriter(memory, channel.ring, workerOf(channel.toSubtask, workers), encoder)
        return this.loggedWriter(this.logOf(index), around.writer(plain))
      },
      reader: (index, channel, schema) => {
        const plain =
          memory === null || channel.ring < 0
            ? local.reader(index, channel, schema)
            : new RingReader(memory, channel.ring, workerOf(channel.fromSubtask, workers), schema)
        return around.reader(this.checkedReader(this.logOf(index), plain))
      },
    }
  }

  private logOf(index: number): Log {
    let log = this.logs.get(index)
    if (log === undefined) {
      log = { written: 0, read: 0, barriers: [] }
      this.logs.set(index, log)
    }
    return log
  }

  private loggedWriter(log: Log, writer: ChannelWriter): ChannelWriter {
    return {
      writeBatch(batch, rows, count) {
        const accepted = writer.writeBatch(batch, rows, count)
        if (accepted) log.written += count
        return accepted
      },
      writeControl(message) {
        const accepted = writer.writeControl(message)
        if (accepted && message.kind === 'barrier') {
          log.barriers.push({ attempt: message.attempt, written: log.written })
        }
        return accepted
      },
      settle: () => writer.settle(),
      get rowsAllowed() {
        return writer.rowsAllowed
      },
    }
  }

  private checkedReader(log: Log, reader: ChannelReader): ChannelReader {
    const { onCrossed } = this.options
    return {
      peek: () => reader.peek(),
      allow: (rows) => reader.allow(rows),
      pop() {
        const message = reader.peek()
        if (message?.kind === 'batch') log.read += message.batch.length
        if (message?.kind === 'barrier') {
          const due = log.barriers.shift()
          if (due?.attempt !== message.attempt || due.written !== log.read) {
            onCrossed(`barrier ${message.attempt} came after ${log.read} rows, not after ${due?.written}`)
          }
        }
        reader.pop()
      },
    }
  }
}
