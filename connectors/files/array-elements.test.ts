/**
 * Elements of a JSON array in any mixture of plain ones, ones with escapes and refused ones, in chunks of any size: the rows of
 * `JSON.parse`, where they begin, and the same again from any place where reading stopped.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createJsonDecoder } from '../../engine/core/json/json-decoder.ts'
import { rowReader } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { StringInterner } from '../../engine/core/strings.ts'
import { SplitReader } from './split-reader.ts'

const ROW = schema({ id: t.int32(), text: t.nullable(t.string()) })
const read = rowReader(ROW, new StringInterner(), 'array elements')

interface Found {
  readonly row: unknown
  readonly offset: number
}

async function readArray(text: Buffer, offset: number, sizes: readonly number[], rowsMax: number) {
  let position = offset
  let chunk = 0
  const stream = {
    async read(into: Uint8Array, at: number, wanted: number) {
      const count = Math.min(wanted, sizes[chunk++ % sizes.length]!, text.length - position)
      into.set(text.subarray(position, position + count), at)
      position += count
      return count
    },
    async close() {},
  }
  const found: Found[] = []
  const refused: number[] = []
  const stops: number[] = []
  let wake = (): void => {}
  const reader = new SplitReader(
    { path: 'a.json', form: 'array', offset, end: text.length },
    stream as never,
    createJsonDecoder(ROW, { id: 'array elements', recordBytesMax: 400 }),
    400,
    (_reason, at) => refused.push(at),
    () => wake(),
  )
  for (;;) {
    const more = new Promise<void>((resolve) => {
      wake = resolve
    })
    const taken = reader.take(rowsMax)
    if (taken === 'done') return { found, refused, stops }
    if (taken === 'starved') await more
    else {
      for (let i = 0; i < taken.batch.length; i++) found.push({ row: read(taken.batch, i), offset: taken.offsets[i]! })
      stops.push(reader.offset)
    }
  }
}

const space = fc.constantFrom('', '', ' ', '\n  ', '\r\n')
const element = fc.oneof(
  {
    weight: 6,
    arbitrary: fc
      .record({ id: fc.nat(), text: fc.option(fc.stringMatching(/^[a-z \]},]{0,60}$/)) })
      .map((row) => JSON.stringify(row)),
  },
  { weight: 2, arbitrary: fc.record({ id: fc.nat(), text: fc.string() }).map((row) => JSON.stringify(row)) },
  {
    weight: 1,
    arbitrary: fc.constantFrom('{"id":1.5}', '7', '[[1,"]"],{"a":[]}]', `{"id":1,"text":"${'x'.repeat(420)}"}`),
  },
)

test('are read as JSON.parse reads them, whatever is among them and however they come', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(space, element, space), { maxLength: 90 }),
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 1, max: 40 }),
      fc.nat(),
      async (elements, sizes, rowsMax, pick) => {
        const text = Buffer.from(`[${elements.map((parts) => parts.join('')).join(',')}]`)
        const wanted: Found[] = []
        const refused: number[] = []
        let at = 1
        for (const [before, body, after] of elements) {
          const offset = at + before.length
          const row = JSON.parse(body) as { id?: unknown; text?: unknown }
          const fits = Number.isInteger(row.id) && Buffer.byteLength(body) <= 400
          if (fits) wanted.push({ row: { id: row.id, text: row.text ?? null }, offset })
          else refused.push(offset)
          at += Buffer.byteLength(before + body + after) + 1
        }
        const whole = await readArray(text, 0, sizes, rowsMax)
        assert.deepEqual(whole.found, wanted)
        assert.equal(whole.refused.length, refused.length)
        if (whole.stops.length === 0) return
        const stop = pick % whole.stops.length
        const rest = await readArray(text, whole.stops[stop]!, sizes, rowsMax)
        assert.deepEqual(
          rest.found,
          wanted.filter(({ offset }) => offset >= whole.stops[stop]!),
        )
      },
    ),
    { numRuns: Number(process.env['ARRAY_RUNS'] ?? 300) },
  )
})
