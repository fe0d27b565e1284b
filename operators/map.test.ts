/** Tests of map: results and times, declared schemas, blocked output, and functions that fail. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { batchOfRows } from '../engine/core/rows.ts'
import { schema, t } from '../engine/core/schema.ts'
import { mapOperator } from './map.ts'
import { OperatorRig, type RigOptions } from './operator.testkit.ts'

const ROWS = schema({ name: t.string(), n: t.int32() })
interface Row {
  readonly name: string
  readonly n: number
}

const rigOf = (create: RigOptions['create'], more: Partial<RigOptions> = {}) =>
  new OperatorRig({ create, schema: ROWS, ...more })

test('each row becomes one result with the same event time, at any batch size', () => {
  for (const batchRows of [1, 2, 2_048]) {
    const rig = rigOf(() => mapOperator((row: Row) => `${row.name}${row.n}`), { batchRows, capacityOne: true })
    rig.push(
      [
        { name: 'é', n: 1 },
        { name: 'b', n: 2 },
        { name: '', n: 3 },
      ],
      [10, Number.NaN, -5],
    )
    assert.deepEqual(rig.output.main, [
      { row: 'é1', time: 10 },
      { row: 'b2', time: Number.NaN },
      { row: '3', time: -5 },
    ])
    rig.close()
  }
})

test('results get the declared columns, and a wrong result names its field', () => {
  const twice = schema({ n: t.int32() })
  const rig = rigOf(() => mapOperator((row: Row) => ({ n: row.n * 2 }), twice))
  rig.push([{ name: 'a', n: 4 }], [1])
  assert.equal(rig.output.batches[0].schema, twice)
  assert.deepEqual(rig.output.main[0].row, { n: 8 })
  rig.close()
  const wrong = rigOf(() => mapOperator((row: Row) => ({ n: row.name }), twice))
  assert.throws(() => wrong.push([{ name: 'a', n: 4 }], [1]), { code: 'ROW_INVALID', message: /"n" must be int32/ })
  wrong.close()
})

test('takes nothing while output is blocked', () => {
  const rig = rigOf(() => mapOperator((row: Row) => row.n))
  rig.output.blocked = true
  assert.equal(rig.subtasks[0].operator.process(batchOfRows(ROWS, [{ name: 'a', n: 1 }]), 0, rig.output, 0), 0)
  assert.equal(rig.output.main.length, 0)
  rig.close()
})

test('a function that throws or returns a promise is named with its place', () => {
  const failing = rigOf(() =>
    mapOperator((row: Row) => {
      throw new RangeError(`bad ${row.n}`)
    }),
  )
  assert.throws(
    () => failing.push([{ name: 'a', n: 7 }], [1]),
    (error: Error & { code?: string }) => {
      assert.equal(error.code, 'USER_FUNCTION_FAILED')
      assert.match(error.message, /operator "tested" failed: bad 7 \(at .*map\.test\.ts:\d+:\d+\)/)
      assert.ok(error.cause instanceof RangeError)
      return true
    },
  )
  failing.close()
  const waiting = rigOf(() => mapOperator(async (row: Row) => row))
  assert.throws(() => waiting.push([{ name: 'a', n: 7 }], [1]), { code: 'ASYNC_FUNCTION', message: /async operator/ })
  waiting.close()
})
