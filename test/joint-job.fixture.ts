/**
 * A job with every operator of two inputs, for test/joint-job.test.ts: an interval join, a coGroup, a keyed co-process
 * function and a keyed broadcast function over the same two streams, into one exactly-once sink. Worker threads import
 * this module.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type CollectSink, collectSink } from '../connectors/collect/collect-sink.ts'
import { dataGenSource } from '../connectors/datagen/index.ts'
import {
  type KeyedBroadcastContext,
  type KeyedBroadcastOnTimerContext,
  type KeyedBroadcastProcessFunction,
  type KeyedBroadcastReadOnlyContext,
  type KeyedCoProcessFunction,
  type ListState,
  ListStateDescriptor,
  MapStateDescriptor,
  milliseconds,
  type OnTimerContext,
  type ProcessContext,
  RichMapFunction,
  type RuntimeContext,
  StreamExecutionEnvironment,
  schema,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from '../engine/api/index.ts'
import type { JobGraph } from '../engine/contract/job-graph.ts'

export interface JointOptions {
  readonly count: number
  readonly ratePerSecond?: number
  /** The map after the orders fails once at each of these rows; markers of that lie in `directory`. */
  readonly failAt?: readonly number[]
  readonly directory?: string
}

export const LOWER_MS = -300
export const UPPER_MS = 500
export const WINDOW_MS = 1_000
export const RULES = 7
const USERS = 23
const END_MS = 1e9

export interface Order {
  readonly user: string
  readonly at: number
  readonly item: number
}
export interface Click {
  readonly user: string
  readonly at: number
  readonly page: number
}

export const orderOf = (i: number): Order => ({ user: `u${(i * 7) % USERS}`, at: i * 20 + ((i * 37) % 90), item: i })
export const clickOf = (i: number): Click => ({ user: `u${(i * 5) % USERS}`, at: i * 20 + ((i * 53) % 90), page: i })
export const ruleOf = (i: number) => ({ digit: i, factor: i * 11 + 1 })

const ORDERS = schema({ user: t.string(), at: t.timestamp(), item: t.int32() })
const RULE_MAP = new MapStateDescriptor<number, number>('rules')

/** Fails once at each row of `failAt`, in whatever run comes there first. */
class Failing extends RichMapFunction<Order, Order> {
  private readonly options: JointOptions

  constructor(options: JointOptions) {
    super()
    this.options = options
  }

  map(order: Order): Order {
    const { failAt = [], directory = '' } = this.options
    const marker = join(directory, `failed-${order.item}`)
    if (failAt.includes(order.item) && !existsSync(marker)) {
      writeFileSync(marker, '')
      throw new Error(`planned failure at ${order.item}`)
    }
    return order
  }
}

/** Sums the items and pages of a user; a timer at the end tells. */
class Sums implements KeyedCoProcessFunction<string, Order, Click, string> {
  private items!: ValueState<number>
  private pages!: ListState<number>

  open(context: RuntimeContext): void {
    this.items = context.getState(new ValueStateDescriptor<number>('items'))
    this.pages = context.getListState(new ListStateDescriptor<number>('pages'))
  }

  processElement1({ item }: Order, { timerService }: ProcessContext<string>): void {
    this.items.update((this.items.value() ?? 0) + item)
    timerService.registerEventTimeTimer(END_MS)
  }

  processElement2({ page }: Click, { timerService }: ProcessContext<string>): void {
    this.pages.add(page)
    timerService.registerEventTimeTimer(END_MS)
  }

  onTimer(_timeMs: number, { currentKey }: OnTimerContext<string>, collect: (row: string) => void): void {
    const pages = [...this.pages.get()]
    collect(`sums ${currentKey} ${this.items.value()} ${pages.length} ${pages.reduce((a, b) => a + b, 0)}`)
  }
}

/** Multiplies the sum of each user's pages, by their last digit, with the rules that were broadcast. */
class Rules implements KeyedBroadcastProcessFunction<number, Click, ReturnType<typeof ruleOf>, string> {
  private sum!: ValueState<number>

  open(context: RuntimeContext): void {
    this.sum = context.getState(new ValueStateDescriptor<number>('sum'))
  }

  processElement({ page }: Click, { timerService }: KeyedBroadcastReadOnlyContext<number>): void {
    this.sum.update((this.sum.value() ?? 0) + page)
    timerService.registerEventTimeTimer(END_MS)
  }

  processBroadcastElement({ digit, factor }: ReturnType<typeof ruleOf>, context: KeyedBroadcastContext<number>): void {
    context.getBroadcastState(RULE_MAP).put(digit, factor)
  }

  onTimer(_timeMs: number, context: KeyedBroadcastOnTimerContext<number>, collect: (row: string) => void): void {
    const factor = context.getBroadcastState(RULE_MAP).get(context.currentKey)
    collect(`rule ${context.currentKey} ${(this.sum.value() ?? 0) * (factor ?? Number.NaN)}`)
  }
}

const timed = <T extends { readonly at: number }>() =>
  WatermarkStrategy.forBoundedOutOfOrderness<T>(milliseconds(200)).withTimestampAssigner((row) => row.at)

export function jointGraph(options: JointOptions): { graph: JobGraph; sink: CollectSink<string> } {
  const { count, ratePerSecond } = options
  const env = StreamExecutionEnvironment.createEnvironment()
  const rate = ratePerSecond === undefined ? {} : { ratePerSecond }
  // Splits advance at their own pace, and one may be far ahead when the job stops: only watermarks of each split know
  // that the rows of the others are not late.
  const timedSource = <T extends { readonly at: number }>(generator: (index: number) => T, splits: number) =>
    env.fromSource(dataGenSource<T>({ generator, count, splits, ...rate }), timed<T>())
  const orders = timedSource(orderOf, 2).map(new Failing(options), { schema: ORDERS })
  const clicks = timedSource(clickOf, 3)
  const rules = env.fromDataGenerator(ruleOf, { count: RULES, ...rate })
  const near = orders
    .keyBy('user')
    .intervalJoin(clicks.keyBy((click) => click.user))
    .between(LOWER_MS, UPPER_MS)
    .process<string>({
      processElement: (order, click, _context, collect) => collect(`near ${order.item} ${click.page}`),
    })
  const grouped = orders
    .coGroup(clicks)
    .where('user')
    .equalTo('user')
    .window(TumblingEventTimeWindows.of(WINDOW_MS))
    .apply<string>((some, others, collect) => {
      const items = [...some].map(({ item }) => item).sort((a, b) => a - b)
      const pages = [...others].map(({ page }) => page).sort((a, b) => a - b)
      collect(`group ${items} ${pages}`)
    })
  const sums = orders.connect(clicks).keyBy('user', 'user').process(new Sums())
  const ruled = clicks
    .keyBy((click) => click.page % RULES)
    .connect(rules.broadcast(RULE_MAP))
    .process(() => new Rules())
  const sink = collectSink<string>({ exactlyOnce: true })
  near.union(grouped, sums, ruled).sinkTo(sink)
  return { graph: env.getGraph(), sink }
}

/** The module that worker threads import: `config` carries the options. */
export default {
  build(config: Readonly<Record<string, string>>): { graph: JobGraph } {
    return { graph: jointGraph(JSON.parse(config['joint'] ?? '{}') as JointOptions).graph }
  },
}
