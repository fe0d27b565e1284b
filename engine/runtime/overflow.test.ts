/**
 * Queues that spill: order and equality of what comes back, what cannot be bytes, and files that leave nothing.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import type { Batch } from '../core/batch.ts'
import { batchOfRows, rowReader } from '../core/rows.ts'
import { OPAQUE_SCHEMA, schema, t } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import type { Message } from './channel.ts'
import { nodeIo } from './node-io.ts'
import { Overflow, type SpillSpace } from './overflow.ts'
import { BatchEncoder } from './wire.ts'

const directory = mkdtempSync(join(tmpdir(), 'millrace-overflow-'))
after(() => rmSync(directory, { recursive: true, force: true }))

let opened = 0
const space: SpillSpace = {
  open() {
    opened++
    return nodeIo.openSpill!(directory)
  },
  encoder: new BatchEncoder(),
}

const ROW = schema({ name: t.string(), n: t.nullable(t.float64()), big: t.int64() })

class Point {
  x = 1
}

function rowsOf(batch: Batch): unknown[] {
  const read = rowReader(batch.schema, new StringInterner(), 'overflow test')
  return Array.from({ length: batch.length }, (_, i) => read(batch, i))
}

const shown = (message: Message): unknown => (message.kind === 'batch' ? rowsOf(message.batch) : message)

const columns = fc
  .array(
    fc.record({
      name: fc.string(),
      n: fc.option(fc.double({ noNaN: true })),
      big: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    }),
    { minLength: 1, maxLength: 20 },
  )
  .map((rows) => batchOfRows(ROW, rows))
const opaque = fc
  .array(fc.oneof(fc.jsonValue(), fc.constant(new Point()), fc.constant(new Date(5))), { minLength: 1, maxLength: 5 })
  .map((rows) => batchOfRows(OPAQUE_SCHEMA, rows))
const step = fc.oneof(
  { weight: 4, arbitrary: columns.map((batch) => ({ kind: 'push' as const, batch })) },
  { weight: 2, arbitrary: opaque.map((batch) => ({ kind: 'push' as const, batch })) },
  { weight: 1, arbitrary: fc.nat(9).map((attempt) => ({ kind: 'barrier' as const, attempt })) },
  { weight: 5, arbitrary: fc.constant({ kind: 'take' as const }) },
)

describe('overflow', () => {
  test('gives back what it took, in order, from memory and file', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.constantFrom(0, 300, 1 << 20), (steps, memoryBytesMax) => {
        const queue = new Overflow(space, memoryBytesMax)
        const model: unknown[] = []
        const take = () => {
          const message = queue.peek()
          assert.equal(message === null, model.length === 0)
          if (message === null) return
          assert.deepEqual(shown(message), model.shift())
          queue.shift()
        }
        for (const s of steps) {
          if (s.kind === 'take') take()
          else if (s.kind === 'barrier') {
            queue.pushControl(s)
            model.push(s)
          } else {
            queue.pushBatch(s.batch)
            model.push(rowsOf(s.batch))
          }
          assert.equal(queue.length, model.length)
        }
        while (model.length > 0) take()
        queue.close()
      }),
      { numRuns: 150 },
    )
    assert.ok(opened > 50, `only ${opened} files were opened`)
  })

  test('instances of classes come back as such: they stay in memory', () => {
    const queue = new Overflow(space, 0)
    queue.pushBatch(batchOfRows(OPAQUE_SCHEMA, [new Point()]))
    const message = queue.peek()
    assert.ok(message?.kind === 'batch' && rowsOf(message.batch)[0] instanceof Point)
  })

  test('a file has no name, and a disk that fails says what to do', () => {
    const queue = new Overflow(space, 0)
    queue.pushBatch(batchOfRows(ROW, [{ name: 'a', n: 1, big: 2n }]))
    assert.deepEqual(readdirSync(directory), [])
    queue.close()
    const full: SpillSpace = {
      ...space,
      open() {
        throw new Error('no space left on device')
      },
    }
    assert.throws(() => new Overflow(full, 0).pushBatch(batchOfRows(ROW, [{ name: 'a', n: 1, big: 2n }])), {
      code: 'SPILL_FAILED',
      retryable: true,
      message: /no space left/,
    })
  })
})
