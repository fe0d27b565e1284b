/** Rows that may wait: by how long they take, in both kinds of channel. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { LocalChannel } from './channel.ts'
import { NO_ROW_LIMIT, Pace } from './pace.ts'
import { RingReader, RingWriter } from './ring-channel.ts'
import { createRingMemory, RingMemory } from './ring-memory.ts'
import { BatchEncoder } from './wire.ts'

test('a slow pace allows few rows, never none; a quick one sets no limit, and a pause hardly counts', () => {
  const pace = new Pace()
  assert.equal(pace.rowsIn(10), NO_ROW_LIMIT)
  for (let i = 0; i < 100; i++) pace.add(10, 10)
  assert.equal(pace.rowsIn(10), 10)
  assert.equal(pace.rowsIn(0.1), 1)
  const quick = new Pace()
  for (let i = 0; i < 100; i++) quick.add(20_000, 6)
  assert.equal(quick.rowsIn(10), NO_ROW_LIMIT)
})

const ROW = schema({ n: t.float64() })
const rows = (count: number) =>
  batchOfRows(
    ROW,
    Array.from({ length: count }, (_, n) => ({ n })),
  )

for (const kind of ['local', 'ring'] as const) {
  test(`a ${kind} channel accepts what is allowed, and one batch whatever it is`, () => {
    const local = new LocalChannel(
      8,
      () => {},
      () => {},
    )
    const memory = new RingMemory(createRingMemory(1, 2))
    const writer = kind === 'local' ? local : new RingWriter(memory, 0, 1, new BatchEncoder())
    const reader = kind === 'local' ? local : new RingReader(memory, 0, 0, ROW)
    const write = (count: number) => writer.writeBatch(rows(count), null, count)
    assert.equal(writer.rowsAllowed, NO_ROW_LIMIT)
    reader.allow(10)
    assert.equal(writer.rowsAllowed, 10)
    assert.deepEqual([write(30), write(1)], [true, false])
    assert.equal(reader.peek()?.kind, 'batch')
    reader.pop()
    assert.deepEqual([write(6), write(4), write(1)], [true, true, false])
    assert.ok(writer.writeControl({ kind: 'barrier', attempt: 1 }), 'barriers need no room')
    reader.allow(NO_ROW_LIMIT)
    assert.ok(write(2_000))
  })
}
