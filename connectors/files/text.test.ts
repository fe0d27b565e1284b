/** Lines of text: what a reader of lines gives, from every position; and what is written comes back, or is refused. */
import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema, schema, t } from '../../engine/core/schema.ts'
import { readRows, testCommitterContext, testWriterContext, withDirectory } from '../testing-context.ts'
import { type FilesSinkOptions, filesSink, filesSource } from './index.ts'

const LINE = schema({ line: t.string() })
const rowsOf = (lines: readonly string[]) => lines.map((line) => ({ line }))
const lettersOf = (letters: readonly { offset: number; reason: string; bytes: Uint8Array }[]) =>
  letters.map(({ offset, reason, bytes }) => [offset, reason, Buffer.from(bytes).toString('latin1')])
const anyLine = fc.string({ unit: fc.constantFrom('a', 'é', '😀', ' ', '"', '\0', '\u2028', 'line '), maxLength: 9 })
/** As a reader of lines splits. */
const linesIn = (text: string) => text.replace(/\r?\n$/, '').split(/\r?\n/)

describe('text source', () => {
  test('gives every line once, from every position, however the file is split and read', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.txt')
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.tuple(anyLine, fc.constantFrom('\n', '\r\n')), { minLength: 1, maxLength: 14 }),
          fc.boolean(),
          fc.integer({ min: 1, max: 60 }),
          fc.integer({ min: 1, max: 7 }),
          fc.nat(14),
          async (parts, hasMark, splitBytes, rowsMax, cut) => {
            const text = parts.flat().join('')
            const lines = linesIn(text)
            await writeFile(path, `${hasMark ? '\ufeff' : ''}${text}`)
            const source = filesSource({ path, format: 'text', splitBytes })
            const first = await readRows(source, { rowsMax, rowsWanted: Math.min(cut, lines.length) })
            const rest = await readRows(source, { rowsMax, splits: first.positions })
            assert.deepEqual([...first.rows, ...rest.rows], rowsOf(lines))
            assert.deepEqual([...first.letters, ...rest.letters], [])
          },
        ),
        { numRuns: 40 },
      )
    }))

  test('a last line without an end, empty files and lines, lone carriage returns', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.txt')
      const cases: [string, string[]][] = [
        ['', []],
        ['\ufeff', []],
        ['\n', ['']],
        ['\r\n\r\n', ['', '']],
        ['a\n\nb', ['a', '', 'b']],
        ['a\rb\r\nc\r\r\nd\r', ['a\rb', 'c\r', 'd']],
      ]
      for (const [text, lines] of cases) {
        await writeFile(path, text)
        for (const [name, content] of [
          ['a.txt', Buffer.from(text)],
          ['a.txt.gz', gzipSync(text)],
        ] as const) {
          await writeFile(join(directory, name), content)
          const read = await readRows(filesSource({ path: join(directory, name), format: 'text' }))
          assert.deepEqual(read.rows, rowsOf(lines), JSON.stringify(text))
        }
      }
    }))

  test('lines across chunks; what is too long or no UTF-8 is a dead letter, with its position', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.txt')
      const long = 'y'.repeat(300_000)
      const tooLong = 'z'.repeat(1_300_000)
      const lines = [long, `${tooLong}\r`, '', 'né\xff', 'x', tooLong.slice(0, 400_001), long, tooLong]
      const content = Buffer.from(lines.join('\n'), 'latin1')
      const at = (index: number) => lines.slice(0, index).join('\n').length + 1
      for (const [name, bytes] of [
        ['a.txt', content],
        ['a.txt.zst', zstdCompressSync(content)],
      ] as const) {
        await writeFile(join(directory, name), bytes)
        const path = join(directory, name)
        const source = filesSource({ path, format: 'text', recordBytesMax: 400_000, splitBytes: 900_000 })
        const { rows, letters } = await readRows(source)
        assert.deepEqual(rows, rowsOf([long, '', 'x', long]))
        const reason = (bytes: number) => `The record has ${bytes} bytes, more than the 400000 allowed`
        const noted = lettersOf(letters).map(([offset, why]) => [offset, String(why).split(' (')[0]])
        assert.deepEqual(noted, [
          [at(1), reason(1_300_001)],
          [at(3), 'The line is no valid UTF-8.'],
          [at(5), reason(400_001)],
          [at(7), reason(1_300_000)],
        ])
        assert.match(letters[0]!.reason, /raise recordBytesMax.*Only the first \d+ of 1300001 bytes are kept/)
        assert.deepEqual(lettersOf(letters)[1]![2], 'né\xff')
      }
      await writeFile(path, '123\r\n1234\r\n1234\n12345\n')
      const { rows, letters } = await readRows(filesSource({ path, format: 'text', recordBytesMax: 4 }))
      assert.deepEqual(rows, rowsOf(['123', '1234']))
      assert.deepEqual(
        letters.map(({ offset }) => offset),
        [5, 16],
      )
    }))

  test('a schema names the column, and must be one of strings', () =>
    withDirectory(async (directory) => {
      const path = join(directory, 'a.txt')
      await writeFile(path, 'one\n')
      const named = schema({ message: t.string() })
      const read = await readRows(filesSource({ path, format: 'text', schema: named }))
      assert.deepEqual(read.rows, [{ message: 'one' }])
      for (const wrong of [schema({ id: t.int32() }), schema({ a: t.string(), b: t.string() }), OPAQUE_SCHEMA]) {
        assert.throws(() => filesSource({ path, format: 'text', schema: wrong }), { code: 'SCHEMA_INVALID' })
      }
      const untyped = { path } as unknown as { path: string; schema: typeof named }
      assert.throws(() => filesSource(untyped), { code: 'SCHEMA_REQUIRED' })
    }))
})

/** Writes rows in one epoch, and returns the content of the file that appears. */
async function written<T>(
  directory: string,
  rowSchema: Schema<T>,
  rows: readonly T[],
  options: Partial<FilesSinkOptions<T>> = {},
): Promise<string> {
  const path = join(directory, 'out')
  const sink = filesSink<T>({ path, format: 'text', ...options })
  const writer = sink.createWriter(await testWriterContext(directory, rowSchema))
  const committer = sink.createCommitter!(testCommitterContext(directory))
  await writer.open()
  try {
    const batch = batchOfRows(rowSchema, rows)
    assert.equal(writer.write(batch, 0), batch.length)
    await committer.open()
    await committer.commit(1, [(await writer.prepareCommit()) as JsonValue])
    const [name] = (await readdir(path)).filter((file) => file.startsWith('part-'))
    assert.match(name!, /^part-00000001-0\.txt$/)
    return await readFile(join(path, name!), 'utf8')
  } finally {
    await writer.close()
    await committer.close()
  }
}

describe('text sink', () => {
  test('writes columns of strings, bare strings and numbers, and what an encoder makes', () =>
    withDirectory(async (parent) => {
      const cases: [Schema<unknown>, unknown[], Partial<FilesSinkOptions<unknown>>, string][] = [
        [LINE, rowsOf(['é', '', 'a\rb']), {}, 'é\n\na\rb\n'],
        [OPAQUE_SCHEMA, ['a', 1.5, 2n, true, ''], {}, 'a\n1.5\n2\ntrue\n\n'],
        [LINE, rowsOf(['a\nb']), { encoder: (row) => JSON.stringify(row) }, '{"line":"a\\nb"}\n'],
        [OPAQUE_SCHEMA, [{ id: 3 }], { encoder: (row) => `#${(row as { id: number }).id}` }, '#3\n'],
        // Byte order marks: the first of a file is the encoding's.
        [LINE, rowsOf(['\ufeffa', '\ufeffb']), {}, '\ufeff\ufeffa\n\ufeffb\n'],
      ]
      for (const [k, [rowSchema, rows, options, text]] of cases.entries()) {
        assert.equal(await written(join(parent, String(k)), rowSchema, rows, options), text)
      }
    }))

  test('whatever is read can be written, and is the same again', () =>
    withDirectory(async (parent) => {
      let run = 0
      const line = fc.string({ unit: fc.constantFrom('a', '\ufeff', '😀', '\u0085', '\rx'), maxLength: 3 })
      await fc.assert(
        fc.asyncProperty(fc.array(line, { minLength: 1, maxLength: 5 }), async (lines) => {
          const path = join(parent, `${++run}.txt`)
          await writeFile(path, await written(join(parent, String(run)), LINE, rowsOf(lines)))
          assert.deepEqual((await readRows(filesSource({ path, format: 'text' }))).rows, rowsOf(lines))
        }),
        { numRuns: 10 },
      )
    }))

  test('refuses what would not come back', () =>
    withDirectory(async (directory) => {
      const nullable = schema({ line: t.nullable(t.string()) })
      const cases: [Schema<unknown>, unknown, Partial<FilesSinkOptions<unknown>>, RegExp][] = [
        [LINE, { line: 'a\nb' }, {}, /line break in it cannot be one line: "a\\nb"/],
        [LINE, { line: 'a\r' }, {}, /line break/],
        [OPAQUE_SCHEMA, '\n', {}, /line break/],
        [OPAQUE_SCHEMA, 'x', { encoder: () => 'a\r\n' }, /line break/],
        [nullable, { line: null }, {}, /a row is NULL/],
        [OPAQUE_SCHEMA, { a: 1 }, {}, /a row is of type object/],
        [OPAQUE_SCHEMA, [1], {}, /a row is an array/],
        [OPAQUE_SCHEMA, 1, { encoder: (() => undefined) as never }, /encoder of filesSink returned undefined/],
      ]
      for (const [rowSchema, row, options, message] of cases) {
        const refused = { code: 'ROW_NOT_SERIALIZABLE', message }
        await assert.rejects(written(directory, rowSchema, [row], options), refused)
      }
      const two = schema({ a: t.string(), b: t.string() })
      await assert.rejects(written(directory, two, [{ a: '', b: '' }]), {
        code: 'SCHEMA_INVALID',
        message: /a:string,b/,
      })
      assert.throws(() => filesSink({ path: directory, encoder: String }), { code: 'OPTION_INVALID' })
    }))
})
