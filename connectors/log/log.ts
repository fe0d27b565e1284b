/**
 * The embedded log: durable, partitioned topics in a directory. For producers, and under the log sink.
 *
 * Layout: `<directory>/<topic>/topic.json` and one directory a partition. A topic that a log sink writes
 * has a `sink.json` as well and takes no other producers, because the sink may cut off what is behind its
 * last commit.
 *
 * Only one process may write: `lock`, given by the caller, is taken before anything is opened.
 */
import { mkdir, open, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { MillraceError } from '../../engine/core/errors.ts'
import { murmur3 } from '../../engine/core/keys.ts'
import { syncDirectory } from '../owner-directory.ts'
import { LogPartition } from './log-partition.ts'

export interface TopicOptions {
  readonly partitions: number
  /** Whole segments not written to for this long are deleted; null keeps them. */
  readonly retentionMs?: number | null
  /** Oldest segments are deleted while a partition is larger. */
  readonly retentionBytes?: number | null
  /** A segment is closed when it would become larger. */
  readonly segmentBytes?: number
}

export interface Topic {
  readonly name: string
  readonly partitions: number
  readonly retentionMs: number | null
  readonly retentionBytes: number | null
  readonly segmentBytes: number
}

export interface LogOptions {
  /** Takes the lock of a directory; the result releases it. Throws when another process holds it. */
  readonly lock?: (directory: string) => Promise<() => Promise<void>>
}

export const SINK_FILE = 'sink.json'
const TOPIC_FILE = 'topic.json'
const SEALED_FILE = 'sealed.json'
const SEGMENT_BYTES = 256 * 1_024 * 1_024

/** Appends records to the partitions of a topic. */
export class Producer {
  readonly topic: Topic
  private readonly directory: string
  private readonly partitions: readonly LogPartition[]

  /** `directory` is the topic's. */
  constructor(topic: Topic, directory: string, partitions: readonly LogPartition[]) {
    this.topic = topic
    this.directory = directory
    this.partitions = partitions
  }

  /**
   * Appends a record to a partition (a number) or to the partition of a key; the record keeps the key.
   * Returns where it went. It is durable, and seen by readers, after at most 5 ms or `flush`.
   */
  append(
    target: number | Uint8Array | string,
    value: Uint8Array,
    timestamp: number = Date.now(),
  ): { partition: number; offset: number } {
    const key =
      typeof target === 'number' ? new Uint8Array(0) : typeof target === 'string' ? Buffer.from(target) : target
    const partition = typeof target === 'number' ? target : partitionOf(key, this.partitions.length)
    const log = this.partitions[partition]
    if (log === undefined) {
      throw new MillraceError('LOG_PARTITION_UNKNOWN', `Topic ${this.topic.name} has no partition ${partition}.`, {
        hint: `It has ${this.partitions.length}, counted from 0.`,
      })
    }
    return { partition, offset: log.append(key, value, timestamp) }
  }

  /** Offset of the next record of each partition: how many records were appended to it so far. */
  endOffsets(): number[] {
    return this.partitions.map((partition) => partition.nextOffset)
  }

  /**
   * Says for good that the topic is complete: sources with `untilSealed` end where it ends now. Appending
   * to it afterwards is refused by a later `producer`.
   */
  async seal(): Promise<void> {
    await this.flush()
    await replaceFile(this.directory, SEALED_FILE, JSON.stringify({ ends: this.endOffsets() }))
  }

  /** Bytes that wait for the disk; a caller above a few MiB should await `flush`. */
  get pendingBytes(): number {
    return this.partitions.reduce((sum, partition) => sum + partition.pendingBytes, 0)
  }

  async flush(): Promise<void> {
    await Promise.all(this.partitions.map((partition) => partition.flush()))
  }

  async close(): Promise<void> {
    await Promise.all(this.partitions.map((partition) => partition.close()))
  }
}

export class Log {
  readonly directory: string
  private readonly release: () => Promise<void>
  private readonly producers = new Set<Producer>()

  constructor(directory: string, release: () => Promise<void>) {
    this.directory = directory
    this.release = release
  }

  /** Creates a topic, or opens it when it exists with as many partitions. */
  async createTopic(name: string, options: TopicOptions): Promise<Topic> {
    checkName(name)
    if (!Number.isInteger(options.partitions) || options.partitions < 1) {
      throw new MillraceError('OPTION_INVALID', 'A topic needs a whole number of partitions, at least 1.')
    }
    const existing = await readTopic(this.directory, name)
    if (existing !== null) {
      if (existing.partitions === options.partitions) return existing
      throw new MillraceError('LOG_TOPIC_EXISTS', `Topic ${name} exists with ${existing.partitions} partitions.`, {
        hint: 'The number of partitions cannot change; use another topic name.',
      })
    }
    const topic: Topic = {
      name,
      partitions: options.partitions,
      retentionMs: options.retentionMs ?? null,
      retentionBytes: options.retentionBytes ?? null,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
    }
    const directory = join(this.directory, name)
    await mkdir(directory, { recursive: true })
    for (let p = 0; p < topic.partitions; p++) {
      const partition = openPartition(this.directory, topic, p, true)
      await partition.open()
      await partition.close()
    }
    await replaceFile(directory, TOPIC_FILE, JSON.stringify(topic))
    await syncDirectory(this.directory)
    return topic
  }

  /** A producer of a topic; one a topic at a time. */
  async producer(name: string): Promise<Producer> {
    const topic = await requireTopic(this.directory, name)
    if ([...this.producers].some((producer) => producer.topic.name === name)) {
      throw new MillraceError('LOG_TOPIC_IN_USE', `Topic ${name} has a producer already.`, {
        hint: 'Share that producer.',
      })
    }
    if ((await readOptional(join(this.directory, name, SINK_FILE))) !== null) {
      throw new MillraceError('LOG_TOPIC_OF_SINK', `Topic ${name} is written by a log sink.`, {
        hint: 'Produce to another topic.',
      })
    }
    if ((await readSealedEnds(this.directory, name)) !== null) {
      throw new MillraceError('LOG_TOPIC_SEALED', `Topic ${name} is sealed: nothing may follow.`, {
        hint: 'Produce to another topic.',
      })
    }
    const partitions = Array.from({ length: topic.partitions }, (_, p) => openPartition(this.directory, topic, p, true))
    await openAll(partitions)
    const producer = new Producer(topic, join(this.directory, name), partitions)
    this.producers.add(producer)
    return producer
  }

  async close(): Promise<void> {
    try {
      await Promise.all([...this.producers].map((producer) => producer.close()))
    } finally {
      this.producers.clear()
      await this.release()
    }
  }
}

/** Opens the log in a directory for writing, which is made when absent. */
export async function openLog(directory: string, options: LogOptions = {}): Promise<Log> {
  await mkdir(directory, { recursive: true })
  const release = options.lock === undefined ? async () => {} : await options.lock(directory)
  return new Log(directory, release)
}

/** Opens all partitions, or none: what was opened is closed when another fails. */
export async function openAll(partitions: readonly LogPartition[]): Promise<void> {
  const opened = await Promise.allSettled(partitions.map((partition) => partition.open()))
  const failed = opened.find((result) => result.status === 'rejected')
  if (failed === undefined) return
  await Promise.allSettled(partitions.map((partition) => partition.close()))
  throw failed.reason
}

export function partitionOf(key: Uint8Array, partitions: number): number {
  return (murmur3(key, 0, key.length) >>> 0) % partitions
}

export function openPartition(
  directory: string,
  topic: Topic,
  partition: number,
  publishOnFlush: boolean,
  checkOwner?: () => Promise<void>,
): LogPartition {
  return new LogPartition(partitionDirectory(directory, topic.name, partition), {
    segmentBytes: topic.segmentBytes,
    retentionMs: topic.retentionMs,
    retentionBytes: topic.retentionBytes,
    publishOnFlush,
    ...(checkOwner === undefined ? {} : { checkOwner }),
  })
}

export function partitionDirectory(directory: string, topic: string, partition: number): string {
  return join(directory, topic, String(partition))
}

export async function readTopic(directory: string, name: string): Promise<Topic | null> {
  const text = await readOptional(join(directory, name, TOPIC_FILE))
  return text === null ? null : (JSON.parse(text) as Topic)
}

/** Where each partition of a sealed topic ends; null while the topic is not sealed. */
export async function readSealedEnds(directory: string, name: string): Promise<readonly number[] | null> {
  const text = await readOptional(join(directory, name, SEALED_FILE))
  return text === null ? null : (JSON.parse(text) as { readonly ends: readonly number[] }).ends
}

/** Throws `LOG_TOPIC_UNKNOWN`. */
export async function requireTopic(directory: string, name: string): Promise<Topic> {
  checkName(name)
  const topic = await readTopic(directory, name)
  if (topic !== null) return topic
  throw new MillraceError('LOG_TOPIC_UNKNOWN', `There is no topic ${name} in ${directory}.`, {
    hint: 'Create it with createTopic.',
  })
}

/** Replaces a file so that it is seen whole or not at all, and survives a power loss. */
export async function replaceFile(directory: string, name: string, text: string): Promise<void> {
  const temp = join(directory, `${name}.tmp`)
  const handle = await open(temp, 'w')
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(temp, join(directory, name))
  await syncDirectory(directory)
}

export async function readOptional(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

function checkName(name: string): void {
  if (!/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$/.test(name)) {
    throw new MillraceError('LOG_TOPIC_INVALID', `${JSON.stringify(name)} cannot be a topic's name.`, {
      hint: 'Use letters, digits, dots, dashes and underscores.',
    })
  }
}
