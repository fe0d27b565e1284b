/** Functions as sinks: what every at-least-once sink promises, for calls that end at once, later, and by a failure. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { MemoryOutboxes } from '../../connectors/memory-outbox.ts'
import { sinkChecks } from '../../connectors/sink-conformance.ts'
import type { Sink } from '../contract/sink.ts'
import { batchOfRows } from '../core/rows.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { functionSink } from './function-sink.ts'

const FUNCTIONS: Readonly<Record<string, (rows: unknown[]) => Sink>> = {
  'a function': (rows) => functionSink((row) => void rows.push(row)),
  'an object that answers later': (rows) =>
    functionSink({
      async invoke(row) {
        await new Promise(setImmediate)
        rows.push(row)
      },
    }),
}

for (const [kind, sinkOf] of Object.entries(FUNCTIONS)) {
  describe(`conformance of ${kind}`, () => {
    const checks = sinkChecks({
      rowOf: (id) => ({ id }),
      guarantee: 'at-least-once',
      create() {
        const rows: unknown[] = []
        return { sink: () => sinkOf(rows), visible: () => rows }
      },
    })
    for (const { name, run } of checks) test(name, run)
  })
}

test('a call that fails later fails the barrier, and the job', async () => {
  const outboxes = new MemoryOutboxes()
  const sink = functionSink(async (row) => {
    await new Promise(setImmediate)
    if (row === 2) throw new Error('no more room')
  })
  const writer = sink.createWriter(outboxes.writerContext(OPAQUE_SCHEMA))
  await writer.open()
  assert.equal(writer.write(batchOfRows(OPAQUE_SCHEMA, [1, 2, 3]), 0), 3)
  await assert.rejects(writer.prepareCommit(), /no more room/)
  assert.equal(outboxes.failures.length, 1)
  await writer.close()
})
