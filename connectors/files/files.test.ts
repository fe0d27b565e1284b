/** Files connector: splits, resuming at every record, long and malformed records, and commits cut short. */
import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { readRows, testCommitterContext, testWriterContext, withDirectory } from '../testing-context.ts'
import { filesSink, filesSource } from './index.ts'

const ROW = schema({ id: t.int32(), text: t.string() })
const rowsOf = (count: number, width = 5) =>
  Array.from({ length: count }, (_, id) => ({ id, text: `${id % 7 === 0 ? 'é\n"' : ''}${'x'.repeat(id % width)}` }))
const linesOf = (rows: readonly unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join('')

describe('files source', () => {
  test('any split size gives every record once', () =>
    withDirectory(async (directory) => {
      const rows = rowsOf(60)
      for (const end of ['', '\n', '\n\n \r\n']) {
        const path = join(directory, 'a.jsonl')
        await writeFile(path, linesOf(rows).trimEnd() + end)
        await fc.assert(
          fc.asyncProperty(
            fc.integer({ min: 1, max: 3_000 }),
            fc.integer({ min: 1, max: 70 }),
            async (splitBytes, rowsMax) => {
              const read = await readRows(filesSource({ path, schema: ROW, splitBytes }), { rowsMax })
              assert.deepEqual(read.rows, rows)
              assert.deepEqual(read.letters, [])
            },
          ),
          { numRuns: 25 },
        )
      }
    }))

  for (const form of ['lines', 'array'] as const) {
    test(`${form}: a reader resumes after every record, with bad ones among them`, () =>
      withDirectory(async (directory) => {
        const path = join(directory, 'a.json')
        const rows = rowsOf(25)
        const texts = rows.flatMap((row) =>
          row.id % 5 === 3 ? ['{"id":"bad"}', JSON.stringify(row)] : [JSON.stringify(row)],
        )
        await writeFile(path, form === 'lines' ? texts.join('\n') : ` [ ${texts.join(' ,\n ')}\n]\n`)
        const source = filesSource({ path, schema: ROW })
        for (let k = 0; k <= rows.length; k++) {
          const first = await readRows(source, { rowsWanted: k, rowsMax: 4 })
          const rest = await readRows(source, { splits: first.positions, rowsMax: 3 })
          assert.deepEqual([...first.rows, ...rest.rows], rows)
          assert.deepEqual(
            [...first.letters, ...rest.letters].map((l) => Buffer.from(l.bytes).toString()),
            Array(5).fill('{"id":"bad"}'),
          )
          const again = await readRows(source, { splits: rest.positions })
          assert.deepEqual(again.rows, [])
          assert.deepEqual(again.letters, [])
        }
      }))
  }

  test('records across chunks, and one that is too long', () =>
    withDirectory(async (directory) => {
      const big = (id: number, bytes: number) => ({ id, text: 'y'.repeat(bytes) })
      const rows = [
        big(0, 10),
        big(1, 300_000),
        big(2, 70_000),
        big(3, 2_000_000),
        big(4, 262_130),
        big(5, 1),
        ...rowsOf(40_000).map((r) => ({ ...r, id: r.id + 6 })),
      ]
      const texts = rows.map((row) => JSON.stringify(row))
      const tooLong = JSON.stringify(big(-1, 10_000_000))
      texts.splice(4, 0, tooLong)
      const offset = Buffer.byteLength(texts.slice(0, 4).join('\n')) + 1
      for (const form of ['lines', 'array']) {
        const path = join(directory, form)
        await writeFile(path, form === 'lines' ? texts.join('\n') : `[${texts.join(',')}]`)
        const offsets: number[] = []
        const read = await readRows(filesSource({ path, schema: ROW }))
        assert.deepEqual(read.rows, rows)
        assert.equal(read.letters.length, 1)
        const letter = read.letters[0]!
        assert.equal(letter.offset, form === 'lines' ? offset : offset + 1)
        assert.equal(letter.bytes.length, 1_048_576)
        assert.match(letter.reason, /has 10000019 bytes, more than the 8388608 allowed.*first 1048576/)
        assert.deepEqual(offsets, [])
      }
    }))

  test('a snapshot inside a record that is too long starts it again', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.jsonl')
      await writeFile(
        path,
        `${JSON.stringify({ id: 1, text: 'a' })}\n${'z'.repeat(3_000_000)}\n${JSON.stringify({ id: 2, text: 'b' })}\n`,
      )
      const source = filesSource({ path, schema: ROW, recordBytesMax: 1_000 })
      const first = await readRows(source, { rowsWanted: 1 })
      const rest = await readRows(source, { splits: first.positions })
      assert.deepEqual(rest.rows, [{ id: 2, text: 'b' }])
      assert.equal(rest.letters.length, 1)
    }))

  test('a compressed file that ends inside a record that is too long', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.gz')
      const row = '{"id":1,"text":"a"}'
      const rest = `{"id":2,"text":"${'z'.repeat(40)}`
      for (const [text, reasons] of [
        [`${row}\n${rest}`, [/has 56 bytes, more than the 30/]],
        [`[${row},${rest}`, [/has 56 bytes, more than the 30/, /before the array is closed/]],
      ] as const) {
        await writeFile(path, gzipSync(text))
        const read = await readRows(filesSource({ path, schema: ROW, recordBytesMax: 30 }))
        assert.deepEqual(read.rows, [{ id: 1, text: 'a' }])
        assert.deepEqual(Buffer.from(read.letters[0]!.bytes).toString(), rest)
        assert.equal(read.letters.length, reasons.length)
        for (const [i, reason] of reasons.entries()) assert.match(read.letters[i]!.reason, reason)
      }
    }))

  test('malformed arrays: what is wrong is dead-lettered, the rest is read', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.json')
      const source = filesSource({ path, schema: ROW })
      const row = (id: number) => JSON.stringify({ id, text: 'a]}"' })
      const cases: [string, number[], RegExp[]][] = [
        ['[]', [], []],
        [' [ \n ] ', [], []],
        [`[${row(1)},]`, [1], [/empty/]],
        [`[${row(1)},,${row(2)}]`, [1, 2], [/empty/]],
        [`[${row(1)} ${row(2)},${row(3)}]`, [3], [/Malformed/]],
        [`[${row(1)},${row(2)}`, [1], [/before the array is closed/]],
        [`[${row(1)}] x`, [1], [/after the end/]],
        [`[${row(1)},7,${row(2)}]`, [1, 2], [/must be a JSON object/]],
      ]
      for (const [text, ids, reasons] of cases) {
        await writeFile(path, text)
        const read = await readRows(source)
        assert.deepEqual(
          read.rows.map((r) => (r as { id: number }).id),
          ids,
          text,
        )
        assert.equal(read.letters.length, reasons.length, text)
        for (const [i, reason] of reasons.entries()) assert.match(read.letters[i]!.reason, reason)
      }
    }))

  test('directories, globs, empty and missing files', () =>
    withDirectory(async (directory) => {
      await mkdir(join(directory, 'd1'))
      await mkdir(join(directory, 'd2'))
      await writeFile(join(directory, 'd1/a.jsonl'), '{"id":1,"text":""}\n')
      await writeFile(join(directory, 'd1/.hidden'), '{"id":9,"text":""}\n')
      await writeFile(join(directory, 'd2/b.jsonl'), '{"id":2,"text":""}')
      await writeFile(join(directory, 'd2/c.txt'), '')
      const ids = async (path: string | string[]) =>
        (await readRows(filesSource({ path, schema: ROW }))).rows.map((r) => (r as { id: number }).id)
      assert.deepEqual(await ids(join(directory, 'd1')), [1])
      assert.deepEqual(await ids([join(directory, 'd1'), join(directory, 'd2'), join(directory, 'd1/a.jsonl')]), [1, 2])
      assert.deepEqual(await ids(join(directory, 'd*/*.jsonl')), [1, 2])
      assert.deepEqual(await ids(join(directory, 'd2/c.txt')), [])
      await assert.rejects(ids(join(directory, 'none.jsonl')), { code: 'FILE_NOT_FOUND' })
      await assert.rejects(ids(join(directory, '*.none')), { code: 'FILE_NOT_FOUND' })
    }))

  test('the flights of vega-datasets', async () => {
    const path = join(import.meta.dirname, '../../node_modules/vega-datasets/data/flights-20k.json')
    const flights = schema({
      date: t.timestamp(),
      delay: t.int32(),
      distance: t.float64(),
      origin: t.string(),
      destination: t.string(),
    })
    const expected = (JSON.parse(await readFile(path, 'utf8')) as { date: string }[]).map((f) => ({
      ...f,
      date: Date.parse(`${f.date.replaceAll('/', '-').replace(' ', 'T')}Z`),
    }))
    const read = await readRows(filesSource({ path, schema: flights }))
    assert.equal(read.rows.length, 20_000)
    assert.deepEqual(read.rows, expected)
  })
})

describe('files sink', () => {
  const sinkOf = (path: string) => filesSink({ path, schema: ROW })
  const visible = async (path: string) => {
    const files = (await readdir(path)).filter((name) => !name.startsWith('.')).sort()
    return (await Promise.all(files.map((f) => readFile(join(path, f), 'utf8')))).join('')
  }
  async function stage(path: string, checkpoints: string, ids: number[], subtask = 0, attempt = 1): Promise<JsonValue> {
    const context = await testWriterContext(checkpoints, ROW, { subtask, attempt })
    const writer = sinkOf(path).createWriter(context)
    await writer.open()
    const rows = ids.map((id) => ({ id, text: 'z' }))
    assert.equal(writer.write(batchOfRows(ROW, rows), 0), rows.length)
    const committable = await writer.prepareCommit()
    await writer.close()
    return JSON.parse(JSON.stringify(committable)) as JsonValue
  }

  test('a lost part stops the commit before the marker', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'out')
      const committable = await stage(path, directory, [1])
      await rm(join(path, '.pending'), { recursive: true })
      const committer = sinkOf(path).createCommitter!(testCommitterContext(directory))
      await committer.open()
      await assert.rejects(committer.commit(1, [committable]), { code: 'OUTPUT_LOST' })
      assert.equal(await committer.readMarker(), 0)
    }))

  test('a write that fails fails the job, with the reason', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'out')
      const context = await testWriterContext(directory, ROW)
      const writer = sinkOf(path).createWriter(context)
      await writer.open()
      await rm(join(path, '.pending'), { recursive: true })
      writer.write(batchOfRows(ROW, [{ id: 1, text: 'z' }]), 0)
      await assert.rejects(writer.prepareCommit())
      assert.match(String(context.failure()), /Writing to .*\.pending failed: ENOENT.*free space/)
      await writer.close()
    }))

  test('a part with a flipped bit is not shown; whole again it is', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'out')
      const committable = await stage(path, directory, [1, 2])
      const [part] = await readdir(join(path, '.pending'))
      const file = join(path, '.pending', part!)
      const bytes = await readFile(file)
      const committer = sinkOf(path).createCommitter!(testCommitterContext(directory))
      await committer.open()
      await writeFile(file, Buffer.from(bytes).fill(bytes[7]! ^ 1, 7, 8))
      const lost = { code: 'OUTPUT_LOST', message: /\.inprogress does not match its checksum/ }
      await assert.rejects(committer.commit(1, [committable]), lost)
      assert.equal(await visible(path), '')
      await writeFile(file, bytes)
      await committer.commit(1, [committable])
      assert.equal(await visible(path), linesOf([1, 2].map((id) => ({ id, text: 'z' }))))
    }))

  test('sweeps older attempts only after a newer one commits, never what is pending', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'out')
      const pending = await stage(path, directory, [1], 0, 1)
      await stage(path, directory, [99], 0, 1)
      const committer = sinkOf(path).createCommitter!(testCommitterContext(directory))
      await committer.open()
      const newer = await stage(path, directory, [2], 0, 2)
      await committer.commit(1, [pending])
      assert.equal((await readdir(join(path, '.pending'))).length, 2)
      await committer.commit(2, [newer])
      assert.deepEqual(await readdir(join(path, '.pending')), [])
      assert.equal(await visible(path), linesOf([1, 2].map((id) => ({ id, text: 'z' }))))
      const other = sinkOf(path).createCommitter!(testCommitterContext(directory, 'other'))
      await assert.rejects(other.readMarker(), { code: 'SINK_DIRECTORY_TAKEN' })
    }))

  test('blocks while the disk is behind, loses nothing, and cuts at the call', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'out')
      const context = await testWriterContext(directory, ROW)
      const writer = sinkOf(path).createWriter(context)
      await writer.open()
      const text = 'w'.repeat(4_000)
      const rows = Array.from({ length: 1_500 }, (_, id) => ({ id, text }))
      const batch = batchOfRows(ROW, rows)
      let from = 0
      let blocked = 0
      while (from < batch.length) {
        const next = writer.write(batch, from)
        if (next < batch.length) {
          blocked++
          await context.woke()
        }
        from = next
      }
      assert.ok(blocked > 0)
      const sealing = writer.prepareCommit()
      writer.write(batchOfRows(ROW, [{ id: -1, text: 'later' }]), 0)
      const later = writer.prepareCommit()
      const nothing = writer.prepareCommit()
      const committables = [await sealing, await later]
      assert.equal(await nothing, null)
      await writer.close()
      const committer = sinkOf(path).createCommitter!(testCommitterContext(directory))
      await committer.open()
      await committer.commit(1, committables.slice(0, 1) as JsonValue[])
      assert.equal(await visible(path), linesOf(rows))
      await committer.commit(2, committables.slice(1) as JsonValue[])
      assert.equal(await visible(path), linesOf([...rows, { id: -1, text: 'later' }]))
      assert.equal(context.failure(), null)
    }))
})
