/**
 * Every source of the project under the kit of sources (engine/testing/check-source.ts), and the kit under sources that
 * break one promise each. More schedules: CONFORMANCE_RUNS=1000.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import type { Source, SourceReader, SplitState } from 'millrace'
import { schema, t } from 'millrace'
import { dataGenSource } from 'millrace/connectors/datagen'
import { filesSource } from 'millrace/connectors/files'
import { logSource, openLog } from 'millrace/connectors/log'
import { fromAsyncIterable, queueSource } from 'millrace/connectors/queue'
import { socketSource } from 'millrace/connectors/socket'
import { checkSource } from 'millrace/testing'
import { collectionSource } from '../connectors/collection/index.ts'
import { jsonBytesSource } from '../connectors/datagen/index.ts'
import { sequenceSource } from '../connectors/datagen/sequence-source.ts'
import { queryDuckDb } from './duckdb.testkit.ts'

const RUNS = Number(process.env['CONFORMANCE_RUNS'] ?? 6)
const ROW = schema({ id: t.int32(), text: t.nullable(t.string()) })
interface Row {
  readonly id: number
  readonly text: string | null
}
const rowsOf = (count: number, from = 0): Row[] =>
  Array.from({ length: count }, (_, i) => ({ id: from + i, text: i % 7 === 0 ? null : `é"${'x'.repeat(i % 5)}` }))
const linesOf = (rows: readonly Row[]): string[] => rows.map((row) => JSON.stringify(row))
const BAD = '{"id":"bad"}'
/** A bad record before every fifth, and one at the end. */
const withBad = (lines: readonly string[]): string[] => [
  ...lines.flatMap((line, i) => (i % 5 === 3 ? [BAD, line] : [line])),
  BAD,
]

let directory = ''
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'millrace-sources-'))
})
after(() => rm(directory, { recursive: true, force: true }))

async function folder(name: string, files: Readonly<Record<string, string | Uint8Array>>): Promise<string> {
  const path = join(directory, name)
  await mkdir(path)
  for (const [file, content] of Object.entries(files)) {
    await writeFile(join(path, file), content)
    // Found in the order of their names.
    const second = 1_700_000_000 + Object.keys(files).indexOf(file)
    await utimes(join(path, file), second, second)
  }
  return path
}

const check = <T>(
  source: () => Source<T> | Promise<Source<T>>,
  options: { rows?: readonly T[]; deadLetters?: number; seed?: number } = {},
) => checkSource<T>({ source, schedules: RUNS, ...options })

describe('collections and generators', () => {
  test('collection', async () => {
    const rows = rowsOf(30)
    await check(() => collectionSource(rows, { schema: ROW }), { rows })
    await check<unknown>(() => collectionSource<unknown>([1, 'a', null, { b: [2] }, 3n]))
    await check(() => collectionSource(rows, { schema: ROW, batchRows: 3 }), { rows })
    await check(() => collectionSource<Row>([], { schema: ROW }), { rows: [] })
  })

  test('sequence', () => check(() => sequenceSource(-5, 70), { rows: Array.from({ length: 76 }, (_, i) => i - 5) }))

  test('generated rows and JSON', async () => {
    const generator = (index: number): Row => rowsOf(1, index)[0]!
    for (const splits of [1, 3]) {
      const rows = Array.from({ length: 40 }, (_, i) => generator(i))
      await check(() => dataGenSource({ schema: ROW, generator, count: 40, splits }), { rows })
      const record = (index: number): string => linesOf(rowsOf(1, index))[0]!
      await check(() => jsonBytesSource({ schema: ROW, record, count: 40, splits, poolRecords: 16 }))
    }
  })
})

describe('files', () => {
  const parts = [rowsOf(23), [], rowsOf(9, 100), rowsOf(1, 200)]
  const all = parts.flat()

  test('JSON lines, cut into ranges, with bad records', async () => {
    const files = parts.map((rows, i) => [`${i}.jsonl`, withBad(linesOf(rows)).join('\n')])
    const path = await folder('lines', Object.fromEntries(files))
    const deadLetters = files.flatMap(([, content]) => content!.split('\n')).filter((line) => line === BAD).length
    for (const splitBytes of [37, 1_000_000]) {
      await check(() => filesSource({ path, schema: ROW, splitBytes }), { rows: all, deadLetters })
    }
  })

  test('JSON arrays', async () => {
    const files = parts.map((rows, i) => [`${i}.json`, ` [${withBad(linesOf(rows)).join(' ,\n')}]`])
    const path = await folder('arrays', Object.fromEntries(files))
    const deadLetters = files.flatMap(([, content]) => content!.split(BAD).slice(1)).length
    await check(() => filesSource({ path, schema: ROW }), { rows: all, deadLetters })
  })

  test('CSV', async () => {
    const cell = (value: string | null): string => (value === null ? '' : `"${value.replaceAll('"', '""')}"`)
    const csv = (rows: readonly Row[]) => `id,text\n${rows.map(({ id, text }) => `${id},${cell(text)}\n`).join('')}`
    const path = await folder('csv', Object.fromEntries(parts.map((rows, i) => [`${i}.csv`, csv(rows)])))
    await check(() => filesSource({ path, schema: ROW, format: 'csv' }), { rows: all })
  })

  test('text, cut into ranges, compressed and watched, with lines that are no UTF-8', async () => {
    const lines = ['\ufeffone', '', 'é', 'x'.repeat(50), '', 'last']
    const text = Buffer.from(lines.map((line, i) => (i % 2 === 0 ? `${line}\n` : `${line}\r\n`)).join(''))
    const bad = Buffer.from([0x61, 0xff, 0x0a])
    const path = await folder('text', { 'a.txt': Buffer.concat([text, bad, text, bad]), 'b.txt.gz': gzipSync(text) })
    // Only at the beginning of a file it is a mark.
    const first = ['one', ...lines.slice(1)]
    const rows = [...first, ...lines, ...first].map((line) => ({ line }))
    for (const options of [{ splitBytes: 7 }, {}, { monitorContinuously: 50 }]) {
      await check(() => filesSource({ path, format: 'text', ...options }), { rows, deadLetters: 2 })
    }
  })

  test('compressed', async () => {
    const [a, , c] = parts.map((rows) => Buffer.from(`${linesOf(rows).join('\n')}\n`))
    const path = await folder('compressed', { 'a.jsonl.gz': gzipSync(a!), 'c.jsonl.zst': zstdCompressSync(c!) })
    await check(() => filesSource({ path, schema: ROW }), { rows: [...parts[0]!, ...parts[2]!] })
  })

  test('Parquet', async () => {
    const path = await folder('parquet', {})
    for (const part of [0, 1]) {
      await queryDuckDb(`COPY (SELECT CAST(i AS INTEGER) AS id, CASE WHEN i % 3 = 0 THEN NULL ELSE 'row ' || i END AS text
        FROM range(${part * 100}, ${part * 100 + 60}) t(i)) TO '${join(path, `${part}.parquet`)}' (FORMAT parquet)`)
    }
    const text = (id: number) => (id % 3 === 0 ? null : `row ${id}`)
    const rows = [0, 100].flatMap((from) =>
      Array.from({ length: 60 }, (_, i) => ({ id: from + i, text: text(from + i) })),
    )
    await check(() => filesSource({ path, schema: ROW, format: 'parquet' }), { rows })
  })

  test('a folder that is watched', async () => {
    const files = parts.map((rows, i) => [`${i}.jsonl`, withBad(linesOf(rows)).join('\n')])
    const path = await folder('watched', Object.fromEntries(files))
    const deadLetters = files.flatMap(([, content]) => content!.split(BAD).slice(1)).length
    await check(() => filesSource({ path, schema: ROW, monitorContinuously: 50 }), { rows: all, deadLetters })
  })
})

test('log, bounded and followed', async () => {
  const path = join(directory, 'log')
  const rows = rowsOf(40)
  const log = await openLog(path)
  await log.createTopic('events', { partitions: 3, segmentBytes: 300 })
  const producer = await log.producer('events')
  for (const [i, line] of withBad(linesOf(rows)).entries()) producer.append(i % 3, Buffer.from(line), 1_000 + i)
  await log.close()
  for (const bounded of [true, false]) {
    await check(() => logSource({ directory: path, topic: 'events', schema: ROW, bounded }), { rows, deadLetters: 9 })
  }
})

test('queue', async () => {
  const rows = rowsOf(30)
  const queue = queueSource<Row>({ schema: ROW })
  for (const row of rows) queue.offer(row)
  queue.end()
  // It is in memory: a restart within the process finds the same one.
  for (const source of [queue, fromAsyncIterable(rows, { schema: ROW })]) await check(() => source, { rows })
})

test('socket, which cannot be read again', async () => {
  const server = createServer((socket) => socket.end('one\ntwo\nthree\n'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  try {
    const source = () => socketSource({ host: '127.0.0.1', port })
    await checkSource({ source, rows: ['one', 'two', 'three'], replayable: false })
  } finally {
    server.close()
  }
})

describe('the kit finds a source that', () => {
  /** A source of ten numbers a split, which a test breaks. */
  function numbers(broken: (reader: SourceReader, call: { polls: number }) => Partial<SourceReader>): Source<unknown> {
    const right = collectionSource<unknown>(rowsOf(10))
    return {
      ...right,
      createReader(context) {
        const reader = right.createReader(context)
        const call = { polls: 0 }
        const poll = (rowsMax: number) => {
          call.polls++
          return reader.poll(rowsMax)
        }
        const counted: SourceReader = {
          open: (splits) => reader.open(splits),
          poll,
          snapshot: () => reader.snapshot(),
          close: () => reader.close(),
        }
        return { ...counted, ...broken(counted, call) }
      },
    }
  }
  const fails = (message: RegExp, broken: Parameters<typeof numbers>[0]) =>
    assert.rejects(checkSource({ source: () => numbers(broken) }), { code: 'ERR_ASSERTION', message })

  test('is as it should be: nothing', () => checkSource({ source: () => numbers(() => ({})), rows: rowsOf(10) }))

  test('gives more rows than were asked for', () =>
    fails(/a batch of 7 rows where 1 were asked for/, (reader) => ({ poll: (n) => reader.poll(Math.max(n, 7)) })))

  test('forgets how far it was', () =>
    fails(/restored after/, () => ({ snapshot: () => [{ id: 'rows', position: 0 }] })))

  test('forgets its splits at the end', () =>
    fails(/a snapshot names every split/, (reader, call) => ({
      snapshot: () => (call.polls > 3 ? [] : reader.snapshot()),
    })))

  test('skips a row after a restore', () =>
    fails(/restored after/, (reader) => ({
      open: (splits) =>
        reader.open(
          splits.map(({ id, position }): SplitState => {
            const at = position as number
            return { id, position: at > 0 && at < 9 ? at + 1 : at }
          }),
        ),
    })))

  test('has no rest for a reader without splits', () =>
    fails(/a reader without splits/, (reader, call) => ({
      poll: (n) => (reader.snapshot().length === 0 && call.polls++ < 1 ? { kind: 'pending' } : reader.poll(n)),
    })))

  test('does not wake', () =>
    assert.rejects(
      checkSource({ source: () => numbers(() => ({ poll: () => ({ kind: 'pending' }) })), wakeTimeoutMs: 20 }),
      { message: /wake\(\) never came/ },
    ))

  test('lacks rows', () =>
    assert.rejects(checkSource({ source: () => numbers(() => ({})), rows: rowsOf(11) }), { message: /gives its rows/ }))
})
