/**
 * Streams of two inputs in whole jobs, against plain loops over the same rows; and what they refuse.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { minutes, outputTag, StreamExecutionEnvironment, schema, seconds, t, WatermarkStrategy } from './index.ts'

const ORDERS = schema({ user: t.string(), at: t.timestamp(), item: t.int32() })
interface Click {
  readonly user: string
  readonly at: number
  readonly page: string
}

const environment = () => StreamExecutionEnvironment.createEnvironment().setParallelism(3)
const orders = Array.from({ length: 400 }, (_, i) => ({ user: `u${i % 17}`, at: i * 250 + ((i * 37) % 900), item: i }))
const clicks = Array.from(
  { length: 500 },
  (_, i): Click => ({ user: `u${(i * 5) % 17}`, at: i * 200 + ((i * 53) % 700), page: `p${i}` }),
)

const timed = <T extends { readonly at: number }>() =>
  WatermarkStrategy.forBoundedOutOfOrderness<T>(seconds(2)).withTimestampAssigner((row) => row.at)

/** Orders have columns, clicks are opaque rows. */
function streams(env = environment()) {
  return {
    orders: env.fromCollection(orders, { schema: ORDERS }).assignTimestampsAndWatermarks(timed()),
    clicks: env.fromCollection(clicks).assignTimestampsAndWatermarks(timed<Click>()),
  }
}

const throwsCode = (code: string, run: () => unknown) => assert.throws(run, { code })

describe('interval joins', () => {
  test('meet what is near in time, with bounds left out', async () => {
    const { orders: left, clicks: right } = streams()
    const rows = await left
      .keyBy('user')
      .intervalJoin(right.keyBy((click) => click.user))
      .between(seconds(-3), seconds(1))
      .lowerBoundExclusive()
      .upperBoundExclusive()
      .process({
        processElement: (order, click, context, collect) => collect(`${order.item} ${click.page} ${context.timestamp}`),
      })
      .executeAndCollect()
    const expected = orders.flatMap((order) =>
      clicks
        .filter(({ user, at }) => user === order.user && at > order.at - 3_000 && at < order.at + 1_000)
        .map((click) => `${order.item} ${click.page} ${Math.max(order.at, click.at)}`),
    )
    assert.ok(expected.length > 100)
    assert.deepEqual(rows.sort(), expected.sort())
  })

  test('of a stream with itself', async () => {
    const { orders: stream } = streams()
    const keyed = stream.keyBy('user')
    const rows = await keyed
      .intervalJoin(keyed)
      .between(0, minutes(10))
      .process({ processElement: (a, b, _context, collect) => collect([a.item, b.item] as const) })
      .executeAndCollect()
    const expected = orders.flatMap((a) =>
      orders.filter((b) => b.user === a.user && b.at >= a.at).map((b) => [a.item, b.item]),
    )
    assert.equal(rows.length, expected.length)
    assert.deepEqual(new Set(rows.map(String)), new Set(expected.map(String)))
  })

  test('late rows keep their columns', () => {
    const { orders: left, clicks: right } = streams()
    const late = outputTag<(typeof orders)[number]>('late')
    const joined = left
      .keyBy('user')
      .intervalJoin(right.keyBy((click) => click.user))
      .between(0, 0)
      .sideOutputLeftLateData(late)
      .process({ processElement() {} })
    assert.equal(joined.getSideOutput(late).schema, ORDERS)
  })

  test('refuse what cannot be meant', () => {
    const { orders: left, clicks: right } = streams()
    const keyed = right.keyBy((click) => click.user)
    throwsCode('INTERVAL_INVALID', () => left.keyBy('user').intervalJoin(keyed).between(1, 0))
    throwsCode('INTERVAL_INVALID', () => left.keyBy('user').intervalJoin(keyed).between(0, Number.POSITIVE_INFINITY))
    throwsCode('STREAMS_UNRELATED', () => streams().orders.keyBy('user').intervalJoin(keyed))
  })
})
