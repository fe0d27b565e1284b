/** Buckets of the files sink: what names they may have, how many are open, and that the source reads them back. */
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { seconds } from '../../engine/core/time.ts'
import {
  HandTime,
  readRows,
  type TestWriterContext,
  testCommitterContext,
  testWorkerAt,
  testWriterContext,
  withDirectory,
} from '../testing-context.ts'
import { dateTimeBuckets, type FilesSinkOptions, filesSink, filesSource } from './index.ts'

const ROW = schema({ id: t.int32(), country: t.string() })
type Row = { readonly id: number; readonly country: string }
const rowsOf = (...countries: string[]): Row[] => countries.map((country, id) => ({ id, country }))
const HOUR_MS = 3_600_000

/** A writer of one subtask, and a way to commit what it wrote. */
async function opened(directory: string, options: Omit<FilesSinkOptions<Row>, 'path'>, time: HandTime | null = null) {
  const path = join(directory, 'out')
  const sink = filesSink<Row>({ path, ...options })
  const real: TestWriterContext = await testWriterContext(directory, ROW)
  const context: TestWriterContext = { ...real, worker: testWorkerAt(time) }
  const writer = sink.createWriter(context)
  await writer.open()
  const committer = sink.createCommitter!(testCommitterContext(directory))
  await committer.open()
  let epoch = 0
  return {
    path,
    context,
    write: (rows: readonly Row[], times?: readonly number[]) => writer.write(batchOfRows(ROW, rows, times), 0),
    pending: () => readdir(join(path, '.pending')),
    async commit(): Promise<string[]> {
      const committable = (await writer.prepareCommit()) as JsonValue
      epoch++
      await committer.commit(epoch, [committable])
      const names = await readdir(path, { recursive: true })
      return names.filter((name) => /part-[^/]*$/.test(name)).sort()
    },
    async close() {
      await writer.close()
      await committer.close()
    },
  }
}

describe('buckets by a function', () => {
  test('each has files of its own in order, also at once; the source reads them all, and the function gets the context', () =>
    withDirectory(async (directory) => {
      const contexts: number[] = []
      const sink = await opened(directory, {
        bucketAssigner: {
          getBucketId: ({ country }, { timestamp }) => {
            contexts.push(timestamp)
            return country === '' ? '' : `country=${country}/x`
          },
        },
      })
      sink.write(rowsOf('de', 'de', 'fr', '', 'de'), [1, 2, 3, 4, 5])
      assert.deepEqual([...new Set(contexts)], [1, 2, 3, 4, 5])
      assert.deepEqual(await sink.commit(), [
        'country=de/x/part-00000001-0.jsonl',
        'country=fr/x/part-00000001-0.jsonl',
        'part-00000001-0.jsonl',
      ])
      const lines = await readFile(join(sink.path, 'country=de/x/part-00000001-0.jsonl'), 'utf8')
      assert.deepEqual(
        lines
          .trim()
          .split('\n')
          .map((line) => JSON.parse(line).id),
        [0, 1, 4],
      )
      sink.write(rowsOf('de'))
      assert.equal((await sink.commit()).length, 4)
      await sink.close()
      const { rows } = await readRows(filesSource({ path: sink.path, schema: ROW }))
      assert.deepEqual((rows as Row[]).map(({ id }) => id).sort(), [0, 0, 1, 2, 3, 4])
    }))

  test('of too many open ones the part of the one that was written to longest ago is finished', () =>
    withDirectory(async (directory) => {
      const sink = await opened(directory, { openBucketsMax: 2, bucketAssigner: (row) => row.country })
      sink.write(rowsOf('a', 'b', 'a', 'c', 'a', 'b'))
      // For c the part of b was finished, and for the second b that of c.
      assert.deepEqual(await sink.commit(), [
        'a/part-00000001-0.jsonl',
        'b/part-00000001-0-1.jsonl',
        'b/part-00000001-0.jsonl',
        'c/part-00000001-0.jsonl',
      ])
      await sink.close()
    }))

  test('parts of buckets are rolled by their own size', () =>
    withDirectory(async (directory) => {
      const sink = await opened(directory, { rollBytes: 60, bucketAssigner: (row) => row.country })
      for (let i = 0; i < 6; i++) sink.write(rowsOf('a', 'b', 'a'))
      const names = await sink.commit()
      const countOf = (bucket: string) => names.filter((name) => name.startsWith(bucket)).length
      assert.ok(countOf('a') > countOf('b') && countOf('b') > 1, names.join())
      await sink.close()
    }))

  test('one that nothing is written to is closed before the checkpoint', () =>
    withDirectory(async (directory) => {
      const sink = await opened(directory, { inactivityInterval: 5, bucketAssigner: (row) => row.country })
      sink.write(rowsOf('a'))
      while ((await sink.pending()).length === 0) await new Promise((resolve) => setTimeout(resolve, 2))
      sink.write(rowsOf('a'))
      assert.deepEqual(await sink.commit(), ['a/part-00000001-0-1.jsonl', 'a/part-00000001-0.jsonl'])
      await sink.close()
    }))

  test('parts are finished at their age, and when they were left alone, to the millisecond', () =>
    withDirectory(async (directory) => {
      const time = new HandTime()
      const intervals = { rolloverInterval: seconds(1), inactivityInterval: 300 }
      const sink = await opened(directory, { ...intervals, bucketAssigner: ({ country }) => country }, time)
      const steps: [wait: number, ...buckets: string[]][] = [
        ...Array.from({ length: 4 }, (): [number, string] => [249, 'busy']),
        // 996 ms after its first row, then 1,000: the next row begins another part, 299 ms after which one more row comes.
        [4, 'busy'],
        [299, 'busy'],
        // Left alone for 300 ms, when 'late' has been there for 100 of them.
        [200, 'late'],
        [100, 'busy', 'late'],
        [299],
      ]
      sink.write(rowsOf('busy'))
      for (const [wait, ...buckets] of steps) {
        time.pass(wait)
        if (buckets.length > 0) sink.write(rowsOf(...buckets))
      }
      const names = await sink.commit()
      const files = await Promise.all(names.map((name) => readFile(join(sink.path, name), 'utf8')))
      assert.deepEqual(
        files.map((content, k) => `${names[k]!.split('/')[0]} ${content.split('\n').length - 1}`).sort(),
        ['busy 1', 'busy 2', 'busy 5', 'late 2'],
      )
      await sink.close()
    }))

  test('without buckets a part is finished at its age only', () =>
    withDirectory(async (directory) => {
      for (const [rolloverInterval, files] of [
        [100_000, 3],
        [null, 1],
      ] as const) {
        const time = new HandTime()
        const sink = await opened(join(directory, String(files)), { rolloverInterval, inactivityInterval: 5 }, time)
        for (let row = 0; row < 5; row++) {
          sink.write(rowsOf('a'))
          time.pass(50_000)
        }
        assert.equal((await sink.commit()).length, files)
        await sink.close()
      }
    }))

  test('more than the disk can finish neither pile up nor get lost', () =>
    withDirectory(async (directory) => {
      const sink = await opened(directory, { openBucketsMax: 4, bucketAssigner: ({ id }) => `b${id}` })
      const rows = Array.from({ length: 130 }, (_, id) => ({ id, country: 'x'.repeat(40) }))
      const taken = sink.write(rows)
      assert.ok(taken < 130, 'blocked while parts are being finished')
      for (let from = taken; from < rows.length; ) {
        await sink.context.woke()
        from += sink.write(rows.slice(from))
      }
      assert.equal((await sink.commit()).length, 130)
      assert.equal(sink.context.failure(), null)
      await sink.close()
    }))

  test('names that lead out of the folder, or hide, fail with advice', () =>
    withDirectory(async (directory) => {
      for (const bad of [
        '..',
        'a/../b',
        '/etc',
        'a//b',
        './a',
        '.hidden',
        'a/_b',
        'a\\b',
        'a\nb',
        'x'.repeat(256),
        7,
      ]) {
        const sink = await opened(directory, { bucketAssigner: () => bad as string })
        assert.throws(
          () => sink.write(rowsOf('a')),
          (error: { code: string; hint: string }) => error.code === 'BUCKET_INVALID' && /folder names/.test(error.hint),
          String(bad),
        )
        await sink.close()
      }
      for (const options of [
        { openBucketsMax: 0 },
        { inactivityInterval: 0 },
        { inactivityInterval: seconds(1e9) },
        { rolloverInterval: 0 },
      ]) {
        assert.throws(() => filesSink({ path: directory, ...options }), { code: 'OPTION_INVALID' })
      }
    }))
})

describe('buckets by time', () => {
  const at = (time: string) => ({ timestamp: Date.parse(time), currentWatermark: 0, currentProcessingTime: 0 })
  const idAt = (format: string, zone: string, time: string) =>
    dateTimeBuckets(format, zone, 'event-time').getBucketId(null, at(time))

  test('are written as the format says, in a zone', () => {
    assert.equal(idAt('yyyy-MM-dd--HH', 'UTC', '2026-03-09T04:05:06.078Z'), '2026-03-09--04')
    assert.equal(idAt("'day='uuuuMMdd/'hour='H", 'Europe/Berlin', '2026-03-09T23:05:06Z'), 'day=20260310/hour=0')
    assert.equal(
      idAt("yy M d HH:mm:ss.SSS 'o''clock'", 'UTC', '2026-03-09T04:05:06.078Z'),
      "26 3 9 04:05:06.078 o'clock",
    )
    assert.equal(idAt('HHmm', 'Asia/Kathmandu', '2026-03-09T00:14:59Z'), '0559')
  })

  test('follow the clock over its changes, in any order of times', () => {
    const buckets = dateTimeBuckets('dd-HH', 'America/New_York', 'event-time')
    const hours = Array.from({ length: 30 }, (_, i) => Date.parse('2026-11-01T00:00Z') + i * HOUR_MS)
    const shown = (timeMs: number) =>
      new Intl.DateTimeFormat('en-GB', { timeZone: 'America/New_York', day: '2-digit', hour: '2-digit' })
        .formatToParts(timeMs)
        .filter(({ type }) => type === 'day' || type === 'hour')
        .map(({ value }) => value)
        .join('-')
    for (const timeMs of [...hours, ...hours.reverse()]) {
      const id = buckets.getBucketId(null, { timestamp: timeMs, currentWatermark: 0, currentProcessingTime: 0 })
      assert.equal(id, shown(timeMs))
    }
  })

  test('go by the machine’s clock as Flink’s do, or by event time', () =>
    withDirectory(async (directory) => {
      const time = new HandTime()
      const sink = await opened(directory, { bucketAssigner: dateTimeBuckets('HH-mm', 'UTC') }, time)
      time.pass(61_000)
      sink.write(rowsOf('a'), [HOUR_MS])
      assert.deepEqual(await sink.commit(), ['00-01/part-00000001-0.jsonl'])
      await sink.close()
      const byEvents = join(directory, 'by events')
      const other = await opened(byEvents, { bucketAssigner: dateTimeBuckets('yyyy-MM-dd/HH', 'UTC', 'event-time') })
      other.write(rowsOf('a', 'b', 'c'), [0, HOUR_MS, 1])
      assert.deepEqual(await other.commit(), [
        '1970-01-01/00/part-00000001-0.jsonl',
        '1970-01-01/01/part-00000001-0.jsonl',
      ])
      assert.throws(() => other.write(rowsOf('a')), { code: 'BUCKET_INVALID' })
      await other.close()
    }))

  test('are refused with a format, zone or name that cannot be', () => {
    for (const format of ['yyyy-QQ', "yyyy'", '/yyyy', '..', "'.'dd", 'YYYY']) {
      assert.throws(() => dateTimeBuckets(format, 'UTC'), { code: 'OPTION_INVALID' }, format)
    }
    assert.throws(() => dateTimeBuckets('yyyy', 'Mars/Olympus'), { code: 'OPTION_INVALID' })
  })
})
