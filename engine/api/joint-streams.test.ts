/**
 * Streams of two inputs in whole jobs, against plain loops over the same rows; and what they refuse.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  CountTrigger,
  EventTimeSessionWindows,
  type Evictor,
  GlobalWindows,
  type KeyedCoProcessFunction,
  type ListState,
  ListStateDescriptor,
  MapStateDescriptor,
  minutes,
  outputTag,
  type ProcessContext,
  PurgingTrigger,
  type RuntimeContext,
  SlidingEventTimeWindows,
  StateTtlConfig,
  StreamExecutionEnvironment,
  schema,
  seconds,
  type TaggedUnion,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from './index.ts'

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

/** Sums what a user ordered, and answers clicks with it. */
class OrdersOfClicks implements KeyedCoProcessFunction<string, (typeof orders)[number], Click, string> {
  private items!: ListState<number>

  open(context: RuntimeContext): void {
    this.items = context.getListState(new ListStateDescriptor<number>('items'))
  }

  processElement1(order: (typeof orders)[number], { timerService }: ProcessContext<string>): void {
    this.items.add(order.item)
    timerService.registerEventTimeTimer(1_000_000)
  }

  processElement2(click: Click, context: ProcessContext<string>, collect: (row: string) => void): void {
    collect(`${context.currentKey} clicked ${click.page}`)
  }

  onTimer(_timeMs: number, context: ProcessContext<string>, collect: (row: string) => void): void {
    collect(`${context.currentKey} ordered ${[...this.items.get()].sort((a, b) => a - b)}`)
  }
}

describe('connected streams', () => {
  test('by key: one function, its state and timers for both', async () => {
    const { orders: left, clicks: right } = streams()
    const users = [...new Set(orders.map((order) => order.user))]
    const expected = [
      ...clicks.map(({ user, page }) => `${user} clicked ${page}`),
      ...users.map(
        (user) => `${user} ordered ${orders.filter((order) => order.user === user).map(({ item }) => item)}`,
      ),
    ]
    const connected = left.connect(right)
    const both = [
      connected.keyBy('user', 'user').process(new OrdersOfClicks()),
      left
        .keyBy('user')
        .connect(right.keyBy((click) => click.user))
        .process(() => new OrdersOfClicks()),
      connected
        .keyBy(
          (order) => order.user,
          (click) => click.user,
        )
        .process(new OrdersOfClicks()),
    ]
    const rows = await both[0]!.union(both[1]!, both[2]!).executeAndCollect()
    assert.deepEqual(rows.sort(), [...expected, ...expected, ...expected].sort())
  })

  test('map and flatMap, with columns', async () => {
    const { orders: left, clicks: right } = streams()
    const NAMES = schema({ name: t.string() })
    const mapped = left
      .connect(right)
      .map({ map1: (order) => ({ name: `${order.item}` }), map2: (click) => ({ name: click.page }) }, { schema: NAMES })
    const flat = left
      .connect(right)
      .flatMap<{ name: string }>(
        { flatMap1: () => [], flatMap2: (click, collect) => collect({ name: `flat ${click.page}` }) },
        { schema: NAMES },
      )
    const rows = await mapped.union(flat).executeAndCollect()
    const expected = [...orders.map(({ item }) => `${item}`), ...clicks.flatMap(({ page }) => [page, `flat ${page}`])]
    assert.deepEqual(rows.map(({ name }) => name).sort(), expected.sort())
  })

  test('refuse streams of two environments, and functions that subtasks would share', () => {
    const { orders: left, clicks: right } = streams()
    throwsCode('STREAMS_UNRELATED', () => streams().orders.connect(right))
    throwsCode('PROCESS_FUNCTION_SHARED', () =>
      left.connect(right).process({ open() {}, processElement1() {}, processElement2() {} }),
    )
  })
})

describe('broadcast streams', () => {
  const PRICES = new MapStateDescriptor<string, number>('prices')

  test('every subtask has every broadcast element', async () => {
    const env = environment()
    const prices = env.fromCollection([
      { page: 'p0', price: 5 },
      { page: 'p1', price: 7 },
    ])
    const rows = await env
      .fromCollection(clicks)
      .rebalance()
      .connect(prices.broadcast(PRICES))
      .process<string>(() => {
        const early: Click[] = []
        return {
          processElement(click, context, collect) {
            const state = context.getBroadcastState(PRICES)
            if ([...state.keys()].length < 2) early.push(click)
            else collect(`${click.page} ${state.get(click.page) ?? 'free'}`)
          },
          processBroadcastElement({ page, price }, context, collect) {
            const state = context.getBroadcastState(PRICES)
            state.put(page, price)
            if ([...state.keys()].length < 2) return
            for (const click of early.splice(0)) collect(`${click.page} ${state.get(click.page) ?? 'free'}`)
          },
        }
      })
      .executeAndCollect()
    const expected = clicks.map(({ page }) => `${page} ${page === 'p0' ? 5 : page === 'p1' ? 7 : 'free'}`)
    assert.deepEqual(rows.sort(), expected.sort())
  })

  test('beside keyed streams keyed state can be gone over', async () => {
    const env = environment()
    const first = env.fromCollection(clicks).keyBy((click) => click.user)
    const COUNT = new ValueStateDescriptor<number>('count')
    const asks = env
      .fromCollection(clicks)
      .assignTimestampsAndWatermarks(timed<Click>())
      .keyBy(() => 0)
      .process(() => ({
        processElement: (_click, { timerService }) => timerService.registerEventTimeTimer(10_000_000),
        onTimer: (_timeMs, _context, collect: (ask: string) => void) => collect('count'),
      }))
    const rows = await first
      .connect(asks.broadcast(PRICES))
      .process<[string, number]>(() => {
        let count: ValueState<number>
        return {
          open(context) {
            count = context.getState(COUNT)
          },
          processElement: (_click) => count.update((count.value() ?? 0) + 1),
          processBroadcastElement(_ask, context, collect) {
            context.applyToKeyedState(COUNT, (user, state) => collect([user, state.value()!]))
          },
        }
      })
      .executeAndCollect()
    // How many clicks were counted before the question came is not fixed.
    assert.ok(rows.length > 0 && rows.length === new Set(rows.map(([user]) => user)).size)
    assert.ok(rows.every(([user, n]) => n > 0 && n <= clicks.filter((click) => click.user === user).length))
  })

  test('refuse times to live and names that come twice', () => {
    const { clicks: stream } = streams()
    const forgetting = new MapStateDescriptor<string, number>('forgetting').enableTimeToLive(
      StateTtlConfig.newBuilder(seconds(1)).build(),
    )
    throwsCode('TTL_INVALID', () => stream.broadcast(forgetting))
    throwsCode('STATE_DECLARED_TWICE', () => stream.broadcast(PRICES, PRICES))
  })
})

describe('window joins', () => {
  /** Rows by user and window, of both streams. */
  function groups(sizeMs: number, slideMs: number) {
    const made = new Map<string, { orders: (typeof orders)[number][]; clicks: Click[]; end: number }>()
    const add = (user: string, at: number, put: (group: { orders: unknown[]; clicks: unknown[] }) => void) => {
      for (let end = (Math.floor(at / slideMs) + 1) * slideMs; end <= at + sizeMs; end += slideMs) {
        const group = made.get(`${user} ${end}`) ?? { orders: [], clicks: [], end }
        made.set(`${user} ${end}`, group)
        put(group)
      }
    }
    for (const order of orders) add(order.user, order.at, (group) => group.orders.push(order))
    for (const click of clicks) add(click.user, click.at, (group) => group.clicks.push(click))
    return [...made.values()]
  }

  test('pairs of a key in tumbling windows', async () => {
    const { orders: left, clicks: right } = streams()
    const rows = await left
      .join(right)
      .where('user')
      .equalTo((click) => click.user)
      .window(TumblingEventTimeWindows.of(seconds(10)))
      .apply((order, click) => `${order.item} ${click.page}`)
      .executeAndCollect()
    const expected = groups(10_000, 10_000).flatMap((group) =>
      group.orders.flatMap((order) => group.clicks.map((click) => `${order.item} ${click.page}`)),
    )
    assert.ok(expected.length > 500)
    assert.deepEqual(rows.sort(), expected.sort())
  })

  test('groups in sliding windows, also where one stream has nothing', async () => {
    const { orders: left, clicks: right } = streams()
    const rows = await left
      .coGroup(right)
      .where('user')
      .equalTo('user')
      .window(SlidingEventTimeWindows.of(seconds(4), seconds(2)))
      .apply<string>((some, others, collect) =>
        collect(`${[...some].map(({ item }) => item).sort()} ${[...others].map(({ page }) => page).sort()}`),
      )
      .executeAndCollect()
    const expected = groups(4_000, 2_000).map(
      (group) => `${group.orders.map(({ item }) => item).sort()} ${group.clicks.map(({ page }) => page).sort()}`,
    )
    assert.ok(expected.some((row) => row.startsWith(' ')) && expected.some((row) => row.endsWith(' ')))
    assert.deepEqual(rows.sort(), expected.sort())
  })

  test('sessions of both streams, with columns', async () => {
    const { orders: left, clicks: right } = streams()
    const COUNTS = schema({ orders: t.int32(), clicks: t.int32() })
    const rows = await left
      .coGroup(right)
      .where((order) => order.user)
      .equalTo((click) => click.user)
      .window(EventTimeSessionWindows.withGap(seconds(1)))
      .apply((some, others, collect) => collect({ orders: [...some].length, clicks: [...others].length }), {
        schema: COUNTS,
      })
      .executeAndCollect()
    const expected = [...new Set([...orders, ...clicks].map(({ user }) => user))].flatMap((user) => {
      const all = [...orders, ...clicks].filter((row) => row.user === user).sort((a, b) => a.at - b.at)
      const sessions: { orders: number; clicks: number }[] = []
      all.forEach((row, i) => {
        if (i === 0 || row.at > all[i - 1]!.at + 1_000) sessions.push({ orders: 0, clicks: 0 })
        sessions.at(-1)!['item' in row ? 'orders' : 'clicks']++
      })
      return sessions
    })
    const shown = (counts: readonly object[]) => counts.map((row) => JSON.stringify(row)).sort()
    assert.deepEqual(shown(rows), shown(expected))
  })

  test('triggers and evictors see which stream an element is of', async () => {
    const { orders: left, clicks: right } = streams()
    const keepsClicks: Evictor<TaggedUnion<(typeof orders)[number], Click>> = {
      evictBefore(elements) {
        const kept = elements.filter(({ value }) => !value.isOne)
        elements.splice(0, elements.length, ...kept)
      },
      evictAfter() {},
    }
    const rows = await left
      .coGroup(right)
      .where('user')
      .equalTo('user')
      .window(TumblingEventTimeWindows.of(seconds(10)))
      .evictor(keepsClicks)
      .apply<[number, number]>((some, others, collect) => collect([[...some].length, [...others].length]))
      .executeAndCollect()
    assert.ok(rows.length > 0 && rows.every(([some]) => some === 0))
    assert.equal(
      rows.reduce((sum, [, others]) => sum + others, 0),
      clicks.length,
    )
    const again = streams()
    const counted = await again.orders
      .join(again.clicks)
      .where('user')
      .equalTo('user')
      .window(GlobalWindows.create())
      .trigger(PurgingTrigger.of(CountTrigger.of(5)))
      .apply<number>({ join: (_order, _click, collect) => collect(1) })
      .executeAndCollect()
    assert.ok(counted.length > 0)
  })

  test('a promise is refused', async () => {
    const { orders: left, clicks: right } = streams()
    const joined = left
      .join(right)
      .where('user')
      .equalTo('user')
      .window(TumblingEventTimeWindows.of(seconds(10)))
    await assert.rejects(joined.apply(async () => 1).executeAndCollect(), { code: 'ASYNC_FUNCTION' })
  })
})
