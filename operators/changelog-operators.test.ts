/**
 * Operators over changelogs, case by case: what is taken back, what state keeps, what a time to live forgets. That
 * they agree with SQL is test/changelogs.test.ts.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { BATCH_ROWS_MAX, withKeys, withKinds } from '../engine/core/batch.ts'
import { fieldKeyExtractor } from '../engine/core/keys.ts'
import { KIND_TEXTS, type KindText, kindAt } from '../engine/core/row-kinds.ts'
import { batchOfRows, rowReader } from '../engine/core/rows.ts'
import { type Schema, schema, t } from '../engine/core/schema.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { objectCodec } from '../state/value-codec.ts'
import { groupAggregateOperator } from './group-aggregate.ts'
import { OperatorRig } from './operator.testkit.ts'
import type { AggregateCall } from './retractable-aggregates.ts'
import { compareValues } from './retractable-aggregates.ts'
import { sinkUpsertMaterializerOperator } from './sink-upsert-materializer.ts'
import { type JoinType, streamingJoinOperator } from './streaming-join.ts'

type Changes = readonly (readonly [KindText, object])[]
const ROW = schema({ key: t.float64(), v: t.nullable(t.float64()), s: t.string() })
const opaque = objectCodec()

function rigOf(
  create: ConstructorParameters<typeof OperatorRig>[0]['create'],
  memoryBudgetBytes = 1 << 26,
): OperatorRig {
  const createKeys = () => fieldKeyExtractor(ROW, 0)
  return new OperatorRig({
    create,
    schema: ROW,
    createKeys,
    moreInputs: [{ schema: ROW, createKeys }],
    memoryBudgetBytes,
  })
}

/** Sends changes as one batch to the only subtask, and gives what came out since, a text a row. */
function change(rig: OperatorRig, changes: Changes, input = 0, rows: Schema = ROW): string[] {
  const plain = batchOfRows(
    rows,
    changes.map(([, row]) => row),
  )
  const kinds = Uint8Array.from(changes.map(([kind]) => KIND_TEXTS.indexOf(kind)))
  const batch = withKeys(withKinds(plain, kinds), fieldKeyExtractor(rows, 0)(plain))
  const from = rig.output.batches.length
  const { operator, backend } = rig.subtasks[0]!
  assert.equal(operator.process(batch, 0, rig.output, input), batch.length)
  backend!.maybeEvict()
  return rig.output.batches.slice(from).flatMap((made) => {
    assert.ok(made.length <= BATCH_ROWS_MAX)
    const read = rowReader(made.schema, new StringInterner(), 'test')
    return Array.from({ length: made.length }, (_, i) => {
      const values = Object.values(read(made, i) as object)
      return `${KIND_TEXTS[kindAt(made.kinds, i)]} ${values.map((v) => (Object.is(v, -0) ? '-0' : String(v))).join(' ')}`
    })
  })
}

const row = (key: number, v: number | null, s = 'a') => ({ key, v, s })

describe('aggregates of groups', () => {
  const grouped =
    (aggregates: readonly AggregateCall[], timeToLiveMs: number | null = null) =>
    () =>
      groupAggregateOperator({
        inputSchema: ROW,
        groupFields: [0],
        aggregates,
        opaque,
        retracts: true,
        emitsUpdateBefore: true,
        timeToLiveMs,
      })
  const COUNT: AggregateCall = { name: 'n', kind: 'count' }

  test('take back the row that was sent, bit by bit, also after a restore', () => {
    const rig = rigOf(grouped([COUNT, { name: 'sum', kind: 'sum', field: 1 }]), 1)
    assert.deepEqual(change(rig, [['+I', row(-0, 0.1)]]), ['+I -0 1 0.1'])
    rig.restore(1)
    // 0 and -0 are one key; the result that was sent has the one that came first.
    assert.deepEqual(change(rig, [['+I', row(0, 0.2)]]), ['-U -0 1 0.1', '+U 0 2 0.30000000000000004'])
    assert.deepEqual(change(rig, [['-D', row(0, 0.2)]]), ['-U 0 2 0.30000000000000004', '+U 0 1 0.1'])
    rig.close()
  })

  test('make one change of a pair, none of what stays the same, and leave nothing behind', () => {
    const extremes: AggregateCall[] = [
      COUNT,
      { name: 'min', kind: 'min', field: 1 },
      { name: 'max', kind: 'max', field: 2 },
      { name: 'd', kind: 'count', field: 2, isDistinct: true },
    ]
    const rig = rigOf(grouped(extremes))
    const pair = [
      ['-U', row(1, 5)],
      ['+U', row(1, 4)],
    ] as const
    assert.deepEqual(change(rig, [['+I', row(1, 5)], ...pair]), ['+I 1 1 5 a 1', '-U 1 1 5 a 1', '+U 1 1 4 a 1'])
    const same = [
      ['-U', row(1, 4)],
      ['+U', row(1, 4)],
    ] as const
    assert.deepEqual(change(rig, same), [])
    // The pair leaves one group and enters another.
    assert.deepEqual(
      change(rig, [
        ['-D', row(1, 4)],
        ['+I', row(2, null, 'b')],
      ]),
      ['-D 1 1 4 a 1', '+I 2 1 null b 1'],
    )
    assert.deepEqual(change(rig, [['-D', row(2, null, 'b')]]), ['-D 2 1 null b 1'])
    assert.deepEqual(change(rig, [['-D', row(2, null, 'b')]]), [], 'nothing is there to take back')
    rig.checkpoint()
    assert.equal(rig.storedEntries(), 0)
    rig.close()
  })

  test('min and max know what is left, however much went', () => {
    const value = fc.constantFrom(...Array.from({ length: 40 }, (_, v) => v), Number.NaN, -1e300)
    fc.assert(
      fc.property(fc.array(value, { minLength: 1, maxLength: 60 }), fc.nat(), (values, order) => {
        const rig = rigOf(
          grouped([
            { name: 'min', kind: 'min', field: 1 },
            { name: 'max', kind: 'max', field: 1 },
          ]),
        )
        const last = (made: string[]): string => made.at(-1)!
        change(
          rig,
          values.map((v) => ['+I', row(1, v)] as const),
        )
        rig.restore(1)
        const left = values.slice()
        for (let n = 0; left.length > 1; n++) {
          const [gone] = left.splice((n * order) % left.length, 1)
          const made = change(rig, [['-D', row(1, gone!)]])
          const sorted = left.slice().sort(compareValues)
          if (made.length > 0) assert.equal(last(made), `+U 1 ${sorted[0]} ${sorted.at(-1)}`)
        }
        rig.close()
      }),
      { numRuns: 10 },
    )
  })

  test('with a time to live begin anew, and repeat what stays the same', () => {
    const rig = rigOf(grouped([COUNT], 100))
    assert.deepEqual(change(rig, [['+I', row(1, 1)]]), ['+I 1 1'])
    rig.nowMs += 99
    assert.deepEqual(
      change(rig, [
        ['-U', row(1, 1)],
        ['+U', row(1, 2)],
      ]),
      ['-U 1 1', '+U 1 1'],
    )
    rig.nowMs += 100
    assert.deepEqual(change(rig, [['-D', row(1, 2)]]), [], 'it is forgotten')
    assert.deepEqual(change(rig, [['+I', row(1, 3)]]), ['+I 1 1'])
    rig.close()
  })
})

describe('regular joins', () => {
  const RIGHT = schema({ key: t.float64(), v: t.nullable(t.float64()), s: t.string() })
  const joined = (type: JoinType, timeToLiveMs: number | null = null) => {
    const optional = (fields: typeof ROW.fields, prefix: string) =>
      fields.map((field) => ({ ...field, name: prefix + field.name, nullable: true }))
    const outputSchema: Schema =
      type === 'semi' || type === 'anti'
        ? ROW
        : { isOpaque: false, fields: [...optional(ROW.fields, 'l'), ...optional(RIGHT.fields, 'r')] }
    return () =>
      streamingJoinOperator({
        type,
        leftSchema: ROW,
        rightSchema: RIGHT,
        leftKey: [0],
        rightKey: [0],
        outputSchema,
        opaque,
        timeToLiveMs,
      })
  }

  test('a row alone goes when its first match comes, and comes when its last one goes; equal rows count', () => {
    const rig = rigOf(joined('left'))
    assert.deepEqual(change(rig, [['+I', row(1, 5)]]), ['+I 1 5 a null null null'])
    assert.deepEqual(change(rig, [['+I', row(1, 5)]]), ['+I 1 5 a null null null'])
    const alone = '1 5 a null null null'
    const pair = '1 5 a 1 7 b'
    const first = change(rig, [['+I', row(1, 7, 'b')]], 1)
    assert.deepEqual(first, [`-D ${alone}`, `+I ${pair}`, `-D ${alone}`, `+I ${pair}`])
    rig.restore(1)
    assert.deepEqual(change(rig, [['+I', row(1, 7, 'b')]], 1), [`+I ${pair}`, `+I ${pair}`])
    assert.deepEqual(change(rig, [['-D', row(1, 5)]]), [`-D ${pair}`, `-D ${pair}`])
    assert.deepEqual(change(rig, [['-D', row(1, 7, 'b')]], 1), [`-D ${pair}`])
    assert.deepEqual(change(rig, [['-D', row(1, 7, 'b')]], 1), [`-D ${pair}`, `+I ${alone}`])
    assert.deepEqual(change(rig, [['-D', row(1, 7, 'b')]], 1), [], 'it is not there any more')
    assert.deepEqual(change(rig, [['-D', row(1, 5)]]), [`-D ${alone}`])
    rig.checkpoint()
    assert.equal(rig.storedEntries(), 0)
    rig.close()
  })

  test('semi and anti joins show a left row once, however many match', () => {
    for (const type of ['semi', 'anti'] as const) {
      const rig = rigOf(joined(type))
      const [shown, hidden] = type === 'semi' ? ['+I', '-D'] : ['-D', '+I']
      assert.deepEqual(change(rig, [['+I', row(1, 5)]]), type === 'anti' ? ['+I 1 5 a'] : [])
      assert.deepEqual(change(rig, [['+I', row(1, 7)]], 1), [`${shown} 1 5 a`])
      assert.deepEqual(change(rig, [['+I', row(1, 8)]], 1), [])
      assert.deepEqual(change(rig, [['-D', row(1, 7)]], 1), [])
      assert.deepEqual(change(rig, [['-D', row(1, 8)]], 1), [`${hidden} 1 5 a`])
      rig.close()
    }
  })

  test('a row that meets very many emits full batches, and all of them', () => {
    const rig = rigOf(joined('inner'))
    for (let from = 0; from < 5_000; from += 1_000) {
      change(
        rig,
        Array.from({ length: 1_000 }, (_, i) => ['+I', row(1, from + i)] as const),
      )
    }
    const pairs = change(rig, [['+I', row(1, 0, 'z')]], 1)
    assert.equal(new Set(pairs).size, 5_000)
    assert.deepEqual(
      rig.output.batches.map(({ length }) => length),
      [2_048, 2_048, 904],
    )
    rig.close()
  })

  test('with a time to live forget rows that nothing has written since', () => {
    const rig = rigOf(joined('inner', 100))
    change(rig, [['+I', row(1, 5)]])
    rig.nowMs += 50
    assert.deepEqual(change(rig, [['+I', row(1, 7)]], 1), ['+I 1 5 a 1 7 a'])
    rig.nowMs += 60
    assert.deepEqual(change(rig, [['+I', row(1, 8)]], 1), [])
    assert.deepEqual(change(rig, [['-D', row(1, 5)]]), [])
    rig.close()
  })
})

test('a sink with another key shows the row that came last of those that are there, whatever the order', () => {
  const rig = rigOf(() => sinkUpsertMaterializerOperator({ schema: ROW, opaque, timeToLiveMs: null }))
  assert.deepEqual(change(rig, [['+I', row(1, 5)]]), ['+I 1 5 a'])
  // The row that moves here comes before the one that moves away is gone.
  assert.deepEqual(change(rig, [['+I', row(1, 6)]]), ['+U 1 6 a'])
  rig.restore(1)
  assert.deepEqual(change(rig, [['-D', row(1, 5)]]), [])
  assert.deepEqual(change(rig, [['+I', row(1, 7)]]), ['+U 1 7 a'])
  assert.deepEqual(change(rig, [['-D', row(1, 7)]]), ['+U 1 6 a'])
  assert.deepEqual(change(rig, [['-D', row(1, 6)]]), ['-D 1 6 a'])
  assert.deepEqual(change(rig, [['-D', row(1, 6)]]), [])
  rig.checkpoint()
  assert.equal(rig.storedEntries(), 0)
  rig.close()
})

test('texts compare by their UTF-8 bytes', () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'é', '\uffff', '😀', '\ue000'), maxLength: 4 })
  fc.assert(
    fc.property(text, text, (a, b) => {
      assert.equal(Math.sign(compareValues(a, b)), Buffer.compare(Buffer.from(a), Buffer.from(b)))
    }),
  )
})
