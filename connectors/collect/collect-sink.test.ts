/** Rows come back as they were, odd values too; the exactly-once form applies each epoch once. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { batchOfRows } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA } from '../../engine/core/schema.ts'
import { MemoryOutboxes } from '../memory-outbox.ts'
import { sinkChecks } from '../sink-conformance.ts'
import { collectSink } from './collect-sink.ts'

const oddRow = (id: number) => ({
  id,
  a: 1n,
  b: undefined,
  c: Number.NaN,
  d: new Date(id),
  e: new Map([[1, id]]),
  f: -0,
})

for (const exactlyOnce of [false, true]) {
  describe(exactlyOnce ? 'conformance, exactly-once' : 'conformance', () => {
    const checks = sinkChecks({
      rowOf: oddRow,
      guarantee: exactlyOnce ? 'exactly-once' : 'at-least-once',
      create() {
        const collected = collectSink<ReturnType<typeof oddRow>>({ exactlyOnce })
        return { sink: () => collected.sink, visible: () => collected.results }
      },
    })
    for (const { name, run } of checks) test(name, run)
  })
}

test('rows arrive at once, in order', async () => {
  const rows = [oddRow(1), null, undefined, 'x', -0]
  const collected = collectSink()
  const post = (message: unknown) => collected.onMessage!(structuredClone(message))
  const writer = collected.createWriter(new MemoryOutboxes().writerContext(OPAQUE_SCHEMA, { post }))
  await writer.open()
  assert.equal(writer.write(batchOfRows(OPAQUE_SCHEMA, rows), 1), rows.length)
  assert.deepEqual(collected.results, rows.slice(1))
  assert.deepEqual(collected.rows(), rows.slice(1))
  await writer.close()
})
