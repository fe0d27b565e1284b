/** Changelogs as programs make and read them: what comes out of a job, what may follow what, and what sinks get. */
import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { describe, test } from 'node:test'
import { printSink } from '../../connectors/print/print-sink.ts'
import type { Change } from '../../operators/changes.ts'
import type { Sink } from '../contract/sink.ts'
import { type ChangelogStream, count, max, min, StreamExecutionEnvironment, schema, sum, t } from './index.ts'

interface Order {
  readonly id: number
  readonly customer: string | null
  readonly price: number
}
const ORDER = schema({ id: t.int32(), customer: t.nullable(t.string()), price: t.float64() })
const CUSTOMER = schema({ name: t.string(), city: t.string() })

const environment = (parallelism = 4): StreamExecutionEnvironment =>
  StreamExecutionEnvironment.createEnvironment().setParallelism(parallelism)

const order = (id: number, customer: string | null, price: number): Order => ({ id, customer, price })

function orders(
  env: StreamExecutionEnvironment,
  changes: readonly [Change<Order>['kind'], Order][],
): ChangelogStream<Order> {
  const stream = env.fromCollection(changes.map(([kind, row]): Change<Order> => ({ kind, row })))
  return env.fromChangelogStream(stream, { schema: ORDER, primaryKey: ['id'] })
}

async function texts<T>(changelog: ChangelogStream<T>): Promise<string[]> {
  const changes = await changelog.toChangelogStream().executeAndCollect()
  return changes.map(({ kind, row }) => `${kind} ${Object.values(row as object).join(' ')}`)
}

/** A sink that nothing is written to: programs with it are declared, not run. */
const sinkOf = (options: Partial<Sink<never>>): Sink<never> => ({
  kind: 'tested',
  guarantee: 'at-least-once',
  createWriter: () => assert.fail('nothing runs'),
  ...options,
})

describe('a changelog', () => {
  test('of aggregates: +I, then pairs, nothing for what stays the same, -D at the end', async () => {
    const env = environment()
    const totals = orders(env, [
      ['+I', order(1, 'ann', 5)],
      ['+I', order(2, 'ann', 7)],
      ['-U', order(2, 'ann', 7)],
      ['+U', order(2, 'ann', 7)],
      ['-U', order(2, 'ann', 7)],
      ['+U', order(2, 'ann', 9)],
      ['-D', order(1, 'ann', 5)],
      ['-D', order(2, 'ann', 9)],
    ])
      .groupBy('customer')
      .aggregate({ orders: count(), total: sum('price'), least: min('price'), most: max('price') })
    assert.deepEqual(totals.upsertKey, ['customer'])
    assert.deepEqual(await texts(totals), [
      '+I ann 1 5 5 5',
      '-U ann 1 5 5 5',
      '+U ann 2 12 5 7',
      '-U ann 2 12 5 7',
      '+U ann 2 14 5 9',
      '-U ann 2 14 5 9',
      '+U ann 1 9 9 9',
      '-D ann 1 9 9 9',
    ])
  })

  test('of joins is the table that the tables make, whichever row comes first', async () => {
    const expected = {
      full: ['   bob Ulm', '1 ann 5 ann Bonn', '2  6  '],
      anti: ['2  6'],
    } as const
    for (const [type, rows] of Object.entries(expected)) {
      const env = environment()
      const customers = env.fromDataStream(
        env
          .fromElements({ name: 'ann', city: 'Bonn' }, { name: 'bob', city: 'Ulm' })
          .map((row) => row, { schema: CUSTOMER }),
      )
      const joined = orders(env, [
        ['+I', order(1, 'ann', 4)],
        ['+I', order(2, null, 6)],
        ['-U', order(1, 'ann', 4)],
        ['+U', order(1, 'ann', 5)],
      ]).join(customers, { type: type as keyof typeof expected, where: ['customer'], equalTo: ['name'] })
      const table: string[] = []
      for (const text of await texts(joined)) {
        const row = text.slice(3)
        if (text.startsWith('+')) table.push(row)
        else table.splice(table.indexOf(row), table.includes(row) ? 1 : assert.fail(`${row} was there`))
      }
      assert.deepEqual(table.sort(), rows, type)
    }
  })

  test('with upserts is normalised: what was there is added, what changes nothing is left out', async () => {
    const env = environment(2)
    const stream = env.fromElements<Change<Order>>(
      { kind: '+U', row: order(1, 'ann', 5) },
      { kind: '+I', row: order(1, 'ann', 5) },
      { kind: '+U', row: order(1, 'ann', 6) },
      { kind: '-D', row: order(1, null, 0) },
      { kind: '-D', row: order(1, null, 0) },
    )
    const upserts = env.fromChangelogStream(stream, { schema: ORDER, primaryKey: ['id'], mode: 'upsert' })
    assert.deepEqual(await texts(upserts.normalize()), ['+I 1 ann 5', '-U 1 ann 5', '+U 1 ann 6', '-D 1 ann 6'])
  })

  test('that is cut within a pair has two changes', async () => {
    const env = environment()
    const changes: [Change<Order>['kind'], Order][] = [
      ['+U', order(1, 'ann', 5)],
      ['-U', order(1, 'ann', 5)],
      ['+I', order(1, 'ann', 6)],
      ['-U', order(1, 'ann', 6)],
    ]
    assert.deepEqual(await texts(orders(env, changes)), ['+I 1 ann 5', '-D 1 ann 5', '+I 1 ann 6', '-D 1 ann 6'])
  })

  test('is filtered by rows: what a change moves in or out is inserted or deleted', async () => {
    const env = environment()
    const dear = orders(env, [
      ['+I', order(1, 'ann', 5)],
      ['-U', order(1, 'ann', 5)],
      ['+U', order(1, 'ann', 15)],
      ['-U', order(1, 'ann', 15)],
      ['+U', order(1, 'ann', 25)],
      ['-U', order(1, 'ann', 25)],
      ['+U', order(1, 'ann', 5)],
    ])
      .filter((row) => row.price > 10)
      .map((row) => ({ price: row.price * 2 }), { schema: schema({ price: t.float64() }) })
    assert.deepEqual(await texts(dear), ['+I 30', '-U 30', '+U 50', '-D 50'])
  })

  test('is printed with what each row does', async () => {
    const env = environment()
    const stream = new PassThrough()
    orders(env, [
      ['+I', order(1, 'ann', 5)],
      ['-U', order(1, 'ann', 5)],
      ['+U', order(1, 'ann', 6)],
    ]).sinkTo(printSink({ stream }))
    await env.execute()
    assert.equal(
      String(stream.read()),
      '+I {"id":1,"customer":"ann","price":5}\n-U {"id":1,"customer":"ann","price":5}\n+U {"id":1,"customer":"ann","price":6}\n',
    )
  })
})

describe('what may follow is decided where the program says it', () => {
  const totals = (env: StreamExecutionEnvironment) =>
    orders(env, [])
      .groupBy('customer')
      .aggregate({ orders: count(), total: sum('price') })

  test('sinks of inserts are refused, by name', () => {
    assert.throws(() => totals(environment()).sinkTo(sinkOf({})), {
      code: 'CHANGELOG_UNSUPPORTED',
      message: /"Sink: tested" does not consume update and delete changes, which "Group Aggregate" produces/,
    })
    const env = environment()
    env.fromDataStream(env.fromCollection<Order>([], { schema: ORDER })).sinkTo(sinkOf({}))
  })

  test('upserts are no input of what needs what was there before', () => {
    const env = environment()
    const upserts = env.fromChangelogStream(env.fromElements<Change<Order>>(), {
      schema: ORDER,
      primaryKey: ['id'],
      mode: 'upsert',
    })
    const refused = { code: 'CHANGELOG_UNSUPPORTED', message: /without -U/, hint: /normalize/ }
    assert.throws(() => upserts.groupBy('customer').aggregate({ n: count() }), refused)
    assert.throws(() => upserts.filter((row) => row.price > 1), refused)
    assert.throws(() => upserts.sinkTo(sinkOf({ changelogMode: 'all' })), refused)
    upserts.normalize().groupBy('customer').aggregate({ n: count() })
  })

  test('a sink with another key than what identifies the rows gets its changes put in order', () => {
    const nodesTo = (key: string[], make: (env: StreamExecutionEnvironment) => ChangelogStream<never>): string[] => {
      const env = environment()
      make(env).sinkTo(sinkOf({ changelogMode: 'upsert', primaryKey: key }))
      return env.getGraph().nodes.map(({ name }) => name)
    }
    const own = (env: StreamExecutionEnvironment) => totals(env) as ChangelogStream<never>
    assert.ok(!nodesTo(['customer'], own).includes('Sink Materializer'))
    assert.ok(nodesTo(['total'], own).includes('Sink Materializer'))
    // A row may move to another key of the join, and so to another subtask: what identifies it does not order its changes.
    const moved = (env: StreamExecutionEnvironment) => {
      const left = orders(env, [])
      const right = orders(env, []).select({ other: 'id', name: 'customer' })
      return left.join(right, { type: 'semi', where: ['customer'], equalTo: ['name'] }) as ChangelogStream<never>
    }
    assert.ok(nodesTo(['id'], moved).includes('Sink Materializer'))
    const kept = (env: StreamExecutionEnvironment) => {
      const right = orders(env, []).select({ other: 'id', name: 'customer' })
      return orders(env, []).join(right, { type: 'semi', where: ['id'], equalTo: ['other'] }) as ChangelogStream<never>
    }
    assert.ok(!nodesTo(['id'], kept).includes('Sink Materializer'))
  })

  test('mistakes are named', async () => {
    const env = environment()
    const stream = orders(env, [])
    assert.throws(() => env.fromDataStream(env.fromElements({ id: 1 })), { code: 'SCHEMA_MISSING' })
    assert.throws(() => stream.groupBy('price', 'nope' as never), { code: 'FIELD_UNKNOWN' })
    assert.throws(() => stream.groupBy('id').aggregate({ s: sum('customer') }), { code: 'AGGREGATE_INVALID' })
    assert.throws(() => stream.groupBy('id').aggregate({ n: count() }, { timeToLive: 0 }), { code: 'TTL_INVALID' })
    assert.throws(() => stream.join(stream, { type: 'inner', where: ['id'], equalTo: ['id'] }), {
      code: 'FIELD_DUPLICATE',
    })
    assert.throws(() => env.fromChangelogStream(env.fromElements<Change<Order>>().rebalance(), { schema: ORDER }), {
      code: 'CHANGELOG_UNORDERED',
    })
    const other = stream.select({ who: 'customer', number: 'id' })
    assert.throws(() => stream.join(other, { type: 'inner', where: ['id'], equalTo: ['who'] }), {
      code: 'JOIN_KEY_INVALID',
      message: /id \(int32\) is never equal to who \(string\)/,
    })
    assert.throws(() => other.map((row) => row, { schema: schema({ number: t.int32() }) }).normalize(), {
      code: 'CHANGELOG_KEY_MISSING',
    })
    const wrong = environment()
    await assert.rejects(texts(orders(wrong, [['I' as '+I', order(1, 'ann', 5)]])), { code: 'CHANGE_INVALID' })
  })
})
