/** Embedded log: durability and repair at every byte, following, retention, and the exactly-once sink. */
import assert from 'node:assert/strict'
import { appendFile, copyFile, cp, mkdir, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { SplitState } from '../../engine/contract/source.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import {
  readRows,
  TestReaderContext,
  testCommitterContext,
  testWriterContext,
  withDirectory,
} from '../testing-context.ts'
import { type Log, logSink, logSource, openLog } from './index.ts'
import { readEnd } from './log-format.ts'

const ROW = schema({ id: t.int32(), text: t.string() })
const rowOf = (id: number, width = id % 5) => ({ id, text: 'é'.repeat(width) })
const idsOf = (rows: readonly unknown[]) => (rows as { id: number }[]).map((row) => row.id)
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

async function produce(
  directory: string,
  ids: readonly number[],
  options: { partitions?: number; segmentBytes?: number } = {},
): Promise<void> {
  const log = await openLog(directory)
  await log.createTopic('events', {
    partitions: options.partitions ?? 1,
    segmentBytes: options.segmentBytes ?? 1_000_000,
  })
  const producer = await log.producer('events')
  for (const id of ids) {
    producer.append(id % producer.topic.partitions, Buffer.from(JSON.stringify(rowOf(id))), 1_000 + id)
    if (id % 7 === 0) await producer.flush()
  }
  await log.close()
}

const bounded = (directory: string) => logSource({ directory, topic: 'events', schema: ROW, bounded: true })

describe('log source', () => {
  test('resumes after every record, over segments and partitions, with bad records among them', () =>
    withDirectory(async (directory) => {
      await produce(directory, range(0, 30), { partitions: 3, segmentBytes: 150 })
      const log = await openLog(directory)
      const producer = await log.producer('events')
      for (const value of ['{"id":1}', 'x']) producer.append(1, Buffer.from(value), 5)
      producer.append(1, Buffer.from(JSON.stringify(rowOf(30))), 1_030)
      await log.close()
      assert.ok((await readdir(join(directory, 'events/0'))).filter((name) => name.endsWith('.log')).length > 3)
      const source = bounded(directory)
      for (let k = 0; k <= 31; k++) {
        const first = await readRows(source, { rowsWanted: k, rowsMax: 2 })
        const rest = await readRows(source, { splits: first.positions, rowsMax: 3 })
        assert.deepEqual(
          idsOf([...first.rows, ...rest.rows]).sort((a, b) => a - b),
          range(0, 31),
        )
        const ids = idsOf([...first.rows, ...rest.rows])
        assert.deepEqual(
          [...first.eventTimes, ...rest.eventTimes],
          ids.map((id) => id + 1_000),
        )
        const letters = [...first.letters, ...rest.letters]
        assert.deepEqual(
          letters.map((l) => [l.partition, l.offset, Buffer.from(l.bytes).toString()]),
          [
            ['events-1', 10, '{"id":1}'],
            ['events-1', 11, 'x'],
          ],
        )
      }
    }))

  test('records longer than the window, and one that is too long', () =>
    withDirectory(async (directory) => {
      const log = await openLog(directory)
      await log.createTopic('events', { partitions: 1 })
      const producer = await log.producer('events')
      const widths = [3, 400_000, 1, 2_000_000, 5_000_000, 2]
      for (const [id, width] of widths.entries()) producer.append('key', Buffer.from(JSON.stringify(rowOf(id, width))))
      await assert.rejects(async () => producer.append('key', Buffer.alloc(17_000_000)), {
        code: 'LOG_RECORD_TOO_LARGE',
      })
      await log.close()
      const read = await readRows(bounded(directory))
      assert.deepEqual(
        read.rows,
        [0, 1, 2, 3, 5].map((id) => rowOf(id, widths[id])),
      )
      assert.equal(read.letters.length, 1)
      assert.equal(read.letters[0]!.bytes.length, 1_048_576)
      assert.equal(read.letters[0]!.offset, 4)
    }))

  test('follows a growing topic from its latest record, and only what is durable', () =>
    withDirectory(async (directory) => {
      await produce(directory, range(0, 10))
      const source = logSource({ directory, topic: 'events', schema: ROW, startFrom: 'latest' })
      const splits = await source.splits({ worker: new TestReaderContext().worker })
      const reading = readRows(source, { splits, rowsWanted: 5, rowsMax: 2 })
      await new Promise((resolve) => setTimeout(resolve, 30))
      await produce(directory, range(10, 15))
      const read = await reading
      assert.deepEqual(idsOf(read.rows), range(10, 15))
      // Whole frames behind the published end stay unseen.
      const segment = join(directory, 'events/0/00000000000000000000.log')
      await appendFile(segment, (await readFile(segment)).subarray(0, 60))
      assert.deepEqual(idsOf((await readRows(bounded(directory))).rows), range(0, 15))
    }))

  test('says when retention removed what it should read', () =>
    withDirectory(async (directory) => {
      const log = await openLog(directory)
      await log.createTopic('events', { partitions: 1, segmentBytes: 200, retentionBytes: 600 })
      const producer = await log.producer('events')
      for (const id of range(0, 60)) {
        producer.append(0, Buffer.from(JSON.stringify(rowOf(id, 1))))
        await producer.flush()
      }
      await log.close()
      const source = bounded(directory)
      const kept = idsOf((await readRows(source)).rows)
      assert.ok(kept.length >= 3 && kept.length < 30, String(kept.length))
      assert.deepEqual(kept, range(60 - kept.length, 60))
      const old: SplitState = { id: 'events-0', position: { offset: 0, end: 60 } }
      await assert.rejects(readRows(source, { splits: [old] }), { code: 'LOG_OFFSET_GONE' })
    }))

  test('time-based retention', () =>
    withDirectory(async (directory) => {
      const log = await openLog(directory)
      await log.createTopic('events', { partitions: 1, segmentBytes: 100, retentionMs: 50 })
      const producer = await log.producer('events')
      for (const id of range(0, 6)) {
        producer.append(0, Buffer.from(JSON.stringify(rowOf(id, 10))))
        await producer.flush()
      }
      await new Promise((resolve) => setTimeout(resolve, 80))
      producer.append(0, Buffer.from(JSON.stringify(rowOf(6, 10))))
      await log.close()
      assert.deepEqual(idsOf((await readRows(bounded(directory))).rows), [6])
    }))
})

describe('log files', () => {
  test('a torn tail is cut off, at every byte, and writing goes on', () =>
    withDirectory(async (directory) => {
      const original = join(directory, 'original')
      await produce(original, range(0, 2))
      const file = 'events/0/00000000000000000000.log'
      const bytes = await readFile(join(original, file))
      const sizes = range(0, 2).map((id) => 26 + Buffer.byteLength(JSON.stringify(rowOf(id))))
      for (let length = 0; length <= bytes.length; length++) {
        const copy = join(directory, 'copy')
        await cp(original, copy, { recursive: true })
        await truncate(join(copy, file), length)
        // What was torn off had not been published.
        let whole = 0
        for (let sum = 0; whole < 2 && sum + sizes[whole]! <= length; whole++) sum += sizes[whole]!
        await rm(join(copy, 'events/0/end'))
        await produce(copy, [4])
        assert.deepEqual(idsOf((await readRows(bounded(copy))).rows), [...range(0, whole), 4])
        await rm(copy, { recursive: true })
      }
    }))

  test('damage below the published end is an error, for writers and readers', () =>
    withDirectory(async (directory) => {
      await produce(directory, range(0, 4))
      const file = join(directory, 'events/0/00000000000000000000.log')
      const bytes = await readFile(file)
      bytes[40]! ^= 1
      await writeFile(file, bytes)
      await assert.rejects(produce(directory, [5]), { code: 'LOG_CORRUPT' })
      assert.deepEqual(await readFile(file), bytes)
      await assert.rejects(readRows(bounded(directory)), { code: 'LOG_CORRUPT' })
      for (const length of [0, 10, bytes.length - 1]) {
        bytes[40]! ^= length === 0 ? 1 : 0
        await writeFile(file, bytes.subarray(0, length))
        await assert.rejects(readRows(bounded(directory)), { code: 'LOG_CORRUPT' })
      }
    }))

  test('a wrong or missing index only costs time', () =>
    withDirectory(async (directory) => {
      const log = await openLog(directory)
      await log.createTopic('events', { partitions: 1 })
      const producer = await log.producer('events')
      for (const id of range(0, 400)) {
        producer.append(0, Buffer.from(JSON.stringify(rowOf(id, 300))))
        if (id % 50 === 0) await producer.flush()
      }
      await log.close()
      const index = join(directory, 'events/0/00000000000000000000.index')
      const good = await readFile(index)
      assert.ok(good.length >= 8)
      const from: SplitState[] = [{ id: 'events-0', position: { offset: 390, end: 400 } }]
      for (const content of [
        good,
        Buffer.alloc(0),
        Buffer.alloc(16, 7),
        good.subarray(0, 5),
        Buffer.from([0, 0, 0, 200, 0, 0, 0, 9]),
      ]) {
        await writeFile(index, content)
        assert.deepEqual(idsOf((await readRows(bounded(directory), { splits: from })).rows), range(390, 400))
      }
    }))

  test('topics: names, partitions, one producer, the lock', () =>
    withDirectory(async (directory) => {
      let held = 0
      const log: Log = await openLog(directory, {
        lock: async () => {
          held++
          return async () => {
            held--
          }
        },
      })
      assert.equal(held, 1)
      await log.createTopic('a', { partitions: 2 })
      await log.createTopic('a', { partitions: 2 })
      await assert.rejects(log.createTopic('a', { partitions: 3 }), { code: 'LOG_TOPIC_EXISTS' })
      await assert.rejects(log.createTopic('../a', { partitions: 1 }), { code: 'LOG_TOPIC_INVALID' })
      await assert.rejects(log.producer('b'), { code: 'LOG_TOPIC_UNKNOWN' })
      const producer = await log.producer('a')
      await assert.rejects(log.producer('a'), { code: 'LOG_TOPIC_IN_USE' })
      assert.throws(() => producer.append(2, Buffer.from('{}')), { code: 'LOG_PARTITION_UNKNOWN' })
      const placed = range(0, 20).map((i) => producer.append(`k${i}`, Buffer.from('{}')).partition)
      assert.deepEqual(
        placed,
        range(0, 20).map((i) => producer.append(`k${i}`, Buffer.from('{}')).partition),
      )
      assert.deepEqual([...new Set(placed)].sort(), [0, 1])
      await log.close()
      assert.equal(held, 0)
    }))
})

describe('log sink', () => {
  async function stage(directory: string, ids: number[]): Promise<JsonValue> {
    const context = await testWriterContext(directory, ROW, { attempt: ids[0]! })
    const writer = logSink({ directory, topic: 'events', key: 'text' }).createWriter(context)
    await writer.open()
    const times = ids.map((id) => id + 1_000)
    writer.write(
      batchOfRows(
        ROW,
        ids.map((id) => rowOf(id)),
        times,
      ),
      0,
    )
    const committable = await writer.prepareCommit()
    await writer.close()
    return JSON.parse(JSON.stringify(committable)) as JsonValue
  }
  const committerOf = (directory: string, sinkId = 'sink') =>
    logSink({ directory, topic: 'events', key: 'text' }).createCommitter!(testCommitterContext(directory, sinkId))
  const visible = async (directory: string) => idsOf((await readRows(bounded(directory))).rows).sort((a, b) => a - b)
  async function setUp(directory: string): Promise<void> {
    const log = await openLog(directory)
    await log.createTopic('events', { partitions: 2, segmentBytes: 300 })
    await log.close()
  }

  test('damage to what it has committed ends the job, and is not cut off', () =>
    withDirectory(async (directory) => {
      await setUp(directory)
      const first = await stage(directory, [1])
      const second = await stage(directory, [2])
      const committer = committerOf(directory)
      await committer.open()
      await committer.commit(1, [first])
      const files = ['0', '1'].map((name) => join(directory, 'events', name, '00000000000000000000.log'))
      const committed = await Promise.all(files.map((file) => readFile(file)))
      const gone = { ...(second as object), file: 'outbox/none.seg', crc32: 1 }
      await assert.rejects(committer.commit(2, [second, gone]))
      // The records of epoch 2 lie behind the damage, now or soon, and have to be cut off before the next try.
      const lost = { code: 'OUTPUT_LOST', message: /events has lost committed records\. Restore the log/ }
      for (const [i, bytes] of committed.entries()) {
        if (bytes.length === 0) continue
        const at = bytes.length >> 1
        bytes[at]! ^= 1
        const file = await open(files[i]!, 'r+')
        await file.write(bytes, at, 1, at)
        await file.close()
      }
      await assert.rejects(committer.commit(2, [second]), lost)
      for (const [i, bytes] of committed.entries()) {
        assert.deepEqual((await readFile(files[i]!)).subarray(0, bytes.length), bytes)
      }
      await committer.close()
      await assert.rejects(committerOf(directory).open(), lost)
      await writeFile(join(directory, 'events', 'sink.json'), '{"sink"')
      await assert.rejects(committerOf(directory).open(), { code: 'OUTPUT_LOST', message: /sink\.json is damaged/ })
    }))

  test('keeps event times, and owns its topic', () =>
    withDirectory(async (directory) => {
      await setUp(directory)
      const first = await stage(directory, range(0, 20))
      const second = await stage(directory, range(20, 30))
      const committer = committerOf(directory)
      await committer.open()
      await committer.commit(1, [first])
      await committer.commit(2, [second])
      await committer.close()
      const read = await readRows(bounded(directory))
      assert.deepEqual(
        idsOf(read.rows).sort((a, b) => a - b),
        range(0, 30),
      )
      assert.deepEqual(
        read.eventTimes,
        idsOf(read.rows).map((id) => id + 1_000),
      )
      const log = await openLog(directory)
      await assert.rejects(log.producer('events'), { code: 'LOG_TOPIC_OF_SINK' })
      await log.close()
      await assert.rejects(committerOf(directory, 'other').open(), { code: 'LOG_TOPIC_OF_SINK' })
    }))

  test('a crash anywhere inside a commit is repaired by committing again', () =>
    withDirectory(async (directory) => {
      await setUp(directory)
      const first = await stage(directory, range(0, 12))
      const second = await stage(directory, range(12, 30))
      const committer = committerOf(directory)
      await committer.open()
      await committer.commit(1, [first])
      await committer.close()
      const before = join(directory, 'before')
      await mkdir(before)
      await cp(join(directory, 'events'), join(before, 'events'), { recursive: true })
      const done = committerOf(directory)
      await done.open()
      await done.commit(2, [second])
      await done.close()
      // Every mixture of old and new: partitions cut at some byte, the state file old, ends not published.
      const after = join(directory, 'after')
      await cp(join(directory, 'events'), join(after, 'events'), { recursive: true })
      for (let cut = 0; cut < 15; cut++) {
        const events = join(directory, 'events')
        await rm(events, { recursive: true })
        await cp(join(after, 'events'), events, { recursive: true })
        await copyFile(join(before, 'events/sink.json'), join(events, 'sink.json'))
        for (const p of ['0', '1']) {
          await copyFile(join(before, 'events', p, 'end'), join(events, p, 'end'))
          await tearNewest(join(before, 'events', p), join(events, p), cut * 43 + Number(p))
        }
        assert.deepEqual(await visible(directory), range(0, 12))
        const repair = committerOf(directory)
        await repair.open()
        assert.equal(await repair.readMarker(), 1)
        assert.deepEqual(await visible(directory), range(0, 12))
        await repair.commit(2, [second])
        await repair.close()
        assert.deepEqual(await visible(directory), range(0, 30))
      }
      // After the state file, before the ends were published.
      for (const p of ['0', '1']) await copyFile(join(before, 'events', p, 'end'), join(directory, 'events', p, 'end'))
      const late = committerOf(directory)
      await late.open()
      assert.equal(await late.readMarker(), 2)
      await late.close()
      assert.deepEqual(await visible(directory), range(0, 30))
    }))

  test('a reader that follows never returns rows that were cut off and written anew', () =>
    withDirectory(async (directory) => {
      await setUp(directory)
      const opened = committerOf(directory)
      await opened.open()
      await opened.commit(1, [await stage(directory, range(0, 4))])
      await opened.close()
      const context = new TestReaderContext()
      const source = logSource({ directory, topic: 'events', schema: ROW })
      const reader = source.createReader(context)
      await reader.open(await source.splits({ worker: context.worker }))
      let count = 0
      const drain = async (until: number) => {
        while (count < until) {
          const polled = reader.poll(1)
          if (polled.kind === 'batch') {
            const ids = (polled.batch.columns[0] as { values: Int32Array }).values
            seen.push(...ids)
            count += polled.batch.length
          } else await context.woke()
        }
      }
      const seen: number[] = []
      // Uncommitted rows lie behind the published end while the reader fills its windows.
      for (const p of [0, 1]) {
        const end = (await readEnd(join(directory, 'events', String(p))))!
        await writeUncommitted(join(directory, 'events', String(p)), end)
      }
      await drain(4)
      const repair = committerOf(directory)
      await repair.open()
      await repair.commit(2, [await stage(directory, range(4, 10))])
      await repair.close()
      await drain(10)
      await reader.close()
      assert.deepEqual(
        seen.sort((a, b) => a - b),
        range(0, 10),
      )
    }))
})

/** Cuts the newest segment to a length between what `before` had of it and all; drops its index. */
async function tearNewest(before: string, now: string, seed: number): Promise<void> {
  const logs = (await readdir(now)).filter((name) => name.endsWith('.log')).sort()
  const newest = logs.at(-1)!
  const size = (await readFile(join(now, newest))).length
  const kept = await readFile(join(before, newest)).then(
    (bytes) => bytes.length,
    () => 0,
  )
  await truncate(join(now, newest), kept + (seed % (size - kept + 1)))
}

/** Appends whole frames with ids of 900 and more, as a commit that was cut off would leave them. */
async function writeUncommitted(directory: string, from: number): Promise<void> {
  const { ByteArena } = await import('../../engine/core/strings.ts')
  const { writeFrame } = await import('./log-format.ts')
  const arena = new ByteArena(64)
  for (let i = 0; i < 5; i++)
    writeFrame(arena, from + i, 0, new Uint8Array(0), Buffer.from(JSON.stringify(rowOf(900 + i))))
  const newest = (await readdir(directory))
    .filter((name) => name.endsWith('.log'))
    .sort()
    .at(-1)!
  await appendFile(join(directory, newest), arena.copy())
}
