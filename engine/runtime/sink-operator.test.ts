/** Writers that do not keep their promises are told what is wrong. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SinkWriter } from '../contract/sink.ts'
import { BatchBuilder } from '../core/rows.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { SinkOperator } from './sink-operator.ts'

const builder = new BatchBuilder(OPAQUE_SCHEMA)
for (const row of ['a', 'b', 'c']) builder.append(row, 0)
const batch = builder.build()

function taking(answer: unknown): SinkOperator {
  const writer = { write: () => answer } as unknown as SinkWriter
  return new SinkOperator(() => writer, OPAQUE_SCHEMA, OPAQUE_SCHEMA)
}

test('a writer answers with the first row that it did not take', () => {
  for (const taken of [1, 2, 3]) assert.equal(taking(taken).process(batch, 1, null as never), taken)
  const cases: [unknown, RegExp][] = [
    [undefined, /write gave undefined/],
    [Promise.resolve(3), /write gave a promise/],
    [0, /write gave 0 of 3 rows from 1 on/],
    [4, /write gave 4 of 3 rows/],
    [1.5, /write gave 1\.5 of 3 rows/],
  ]
  for (const [answer, message] of cases) {
    assert.throws(() => taking(answer).process(batch, 1, null as never), { code: 'SINK_INVALID', message })
  }
})
