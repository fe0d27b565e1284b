/**
 * What the compiler infers in programs without type annotations. The assertions are types: this test fails
 * in `tsc`, and at run time only checks that the programs can be declared.
 */
import { test } from 'node:test'
import { dateTimeBuckets, filesSink, filesSource } from '../../connectors/files/index.ts'
import { printSink } from '../../connectors/print/index.ts'
import type { Sink } from '../contract/sink.ts'
import type { Source } from '../contract/source.ts'
import {
  AsyncDataStream,
  type AsyncFunction,
  AsyncRetryStrategies,
  avg,
  type ChangelogStream,
  count,
  DeltaEvictor,
  DeltaTrigger,
  EventTimeSessionWindows,
  GlobalWindows,
  type KeyedProcessFunction,
  MapStateDescriptor,
  max,
  outputTag,
  type ProcessContext,
  type ProcessWindowFunction,
  perSubtask,
  ReducingStateDescriptor,
  RichMapFunction,
  RichReduceFunction,
  type RuntimeContext,
  SlidingEventTimeWindows,
  type StatefulProcessWindowContext,
  StreamExecutionEnvironment,
  schema,
  seconds,
  sum,
  TimeEvictor,
  type TimeWindow,
  Trigger,
  type TriggerContext,
  TriggerResult,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from './index.ts'
import { check, type Element, type Equal, type Flat, flights, type KeyOf } from './types.testkit.ts'

const nothing: Sink = {
  kind: 'nothing',
  guarantee: 'at-least-once',
  createWriter: () => {
    throw new Error('never started')
  },
}

test('map, flatMap and filter infer their results', () => {
  const stream = flights()
  const mapped = stream.map((f) => ({ from: f.origin, late: (f.delay ?? 0) > 15 }))
  check<Equal<Element<typeof mapped>, { from: string; late: boolean }>>()
  const many = stream.flatMap((f) => [f.origin, f.distance])
  check<Equal<Element<typeof many>, string | number>>()
  const collected = stream.flatMap<string>((f, collect) => collect(f.origin))
  check<Equal<Element<typeof collected>, string>>()
  const narrowed = mapped.filter((f): f is { from: string; late: true } => f.late)
  check<Equal<Element<typeof narrowed>, { from: string; late: true }>>()
  const declared = stream.map((f) => ({ km: f.distance }), { schema: schema({ km: t.float64() }) })
  check<Equal<Element<typeof declared>, { km: number }>>()
  // @ts-expect-error the function does not return the schema's row
  stream.map((f) => ({ km: f.origin }), { schema: schema({ km: t.float64() }) })
  // @ts-expect-error there is no such field
  stream.map((f) => f.nope)
})

test('keyBy takes fields that may be keys, and infers the key', () => {
  const stream = flights()
  const byField = stream.keyBy('origin')
  check<Equal<KeyOf<typeof byField>, string>>()
  const byNullable = stream.keyBy('delay')
  check<Equal<KeyOf<typeof byNullable>, number | null>>()
  const byLambda = stream.keyBy((f) => f.big)
  check<Equal<KeyOf<typeof byLambda>, bigint>>()
  const composite = stream.keyBy((f) => [f.origin, f.distance] as const)
  check<Equal<KeyOf<typeof composite>, readonly [string, number]>>()
  // @ts-expect-error an object is no key
  const byObject = () => stream.keyBy('extra')
  // @ts-expect-error undefined is no key
  const byUndefined = () => stream.keyBy(() => undefined)
  void byObject
  void byUndefined
})

test('a map ends the key', () => {
  const mapped = flights()
    .keyBy('origin')
    .map((f) => f)
  // @ts-expect-error windows need a keyed stream
  void mapped.window
})

test('windows infer their results', () => {
  const windows = flights()
    .keyBy('origin')
    .window(TumblingEventTimeWindows.of(seconds(5)))
  const columns = windows.aggregate({ n: count(), km: sum('distance'), delay: avg('delay'), last: max('date') })
  type Row = Flat<Element<typeof columns>>
  check<
    Equal<
      Row,
      {
        readonly key: string
        readonly windowStart: number
        readonly windowEnd: number
        readonly n: number
        readonly km: number
        readonly delay: number | null
        readonly last: number
      }
    >
  >()
  // @ts-expect-error a text has no sum
  const textSum = () => windows.aggregate({ s: sum('origin') })
  void textSum
  const mean = windows.aggregate({
    createAccumulator: () => ({ n: 0, sum: 0 }),
    add: (f, acc) => ({ n: acc.n + 1, sum: acc.sum + f.distance }),
    getResult: (acc) => acc.sum / acc.n,
    merge: (a, b) => ({ n: a.n + b.n, sum: a.sum + b.sum }),
  })
  check<Equal<Element<typeof mean>, number>>()
  const reduced = windows.reduce((a, b) => (a.distance > b.distance ? a : b))
  check<Equal<Element<typeof reduced>['origin'], string>>()
  const processed = windows.process<string>((context, elements, collect) => {
    for (const f of elements) collect(context.key.concat(f.origin))
  })
  check<Equal<Element<typeof processed>, string>>()
})

test('process functions infer their results from collect, their type, or a schema', () => {
  const stream = flights()
  type Flight = Element<typeof stream>
  const annotated = stream.process({
    processElement(f, _context, collect: (result: string) => void) {
      collect(f.origin)
    },
  })
  check<Equal<Element<typeof annotated>, string>>()
  class Counting implements KeyedProcessFunction<string, Flight, number> {
    private count!: ValueState<number>
    open(context: RuntimeContext): void {
      this.count = context.getState(new ValueStateDescriptor<number>('count'))
      const byCarrier = context.getMapState(new MapStateDescriptor<string, bigint>('carriers'))
      check<Equal<ReturnType<typeof byCarrier.get>, bigint | undefined>>()
      check<Equal<ReturnType<typeof byCarrier.entries>, Iterable<[string, bigint]>>>()
      // @ts-expect-error objects are no map keys
      void (() => context.getMapState(new MapStateDescriptor<{ a: number }, number>('objects')))
      // @ts-expect-error the rows of the schema are no numbers
      void (() => new ValueStateDescriptor<number>('rows', { schema: schema({ n: t.int32() }) }))
    }
    processElement(_f: Flight, context: ProcessContext<string>, collect: (result: number) => void): void {
      check<Equal<typeof context.currentKey, string>>()
      collect((this.count.value() ?? 0) + 1)
    }
  }
  const keyed = stream.keyBy('origin').process(new Counting())
  check<Equal<Element<typeof keyed>, number>>()
  const made = stream.keyBy('origin').process(() => new Counting())
  check<Equal<Element<typeof made>, number>>()
  const declared = stream.keyBy('distance').process(
    {
      processElement(f, context, collect) {
        check<Equal<typeof context.currentKey, number>>()
        collect({ km: f.distance })
        // @ts-expect-error the schema has another field
        collect({ miles: f.distance })
      },
    },
    { schema: schema({ km: t.float64() }) },
  )
  check<Equal<Element<typeof declared>, { km: number }>>()
  // @ts-expect-error without keys there are no timers
  stream.process({ processElement: (_f, context) => context.timerService.registerEventTimeTimer(1) })
})

test('functions that are made for each subtask keep their types', () => {
  const stream = flights()
  const numbered = stream.map(
    perSubtask(() => {
      let n = 0
      return (f) => ({ origin: f.origin, n: n++ })
    }),
  )
  check<Equal<Element<typeof numbered>, { origin: string; n: number }>>()
  const keyed = stream.keyBy(perSubtask(() => (f: Element<typeof stream>) => f.origin))
  class Longest extends RichReduceFunction<Element<typeof stream>> {
    reduce(a: Element<typeof stream>, b: Element<typeof stream>) {
      return a.distance > b.distance ? a : b
    }
  }
  const longest = keyed.reduce(new Longest())
  check<Equal<Element<typeof longest>, Element<typeof stream>>>()
  const windows = keyed.window(TumblingEventTimeWindows.of(seconds(5)))
  const total = windows.aggregate(
    perSubtask(() => ({
      createAccumulator: () => 0,
      add: (f: Element<typeof stream>, n: number) => n + f.distance,
      getResult: (n: number) => `${n}`,
      merge: (a: number, b: number) => a + b,
    })),
  )
  check<Equal<Element<typeof total>, string>>()
  // @ts-expect-error windows take no function with a life
  const rich = () => windows.reduce(new Longest())
  // @ts-expect-error it makes a function of texts
  const texts = () => stream.map(perSubtask(() => (text: string) => text.length))
  void [rich, texts]
})

test('rich functions and rolling aggregates', () => {
  const stream = flights()
  class Origin extends RichMapFunction<Element<typeof stream>, string> {
    map(f: Element<typeof stream>): string {
      return f.origin
    }
  }
  const mapped = stream.map(new Origin())
  check<Equal<Element<typeof mapped>, string>>()
  const plain = stream.map({ map: (f) => f.distance })
  check<Equal<Element<typeof plain>, number>>()
  const keyed = stream.keyBy('origin')
  check<Equal<Element<ReturnType<typeof keyed.reduce>>, Element<typeof stream>>>()
  const summed = [keyed.sum('distance'), keyed.sum('delay'), keyed.sum('big'), keyed.min('origin'), keyed.maxBy('date')]
  check<Equal<Element<(typeof summed)[number]>, Element<typeof stream>>>()
  // @ts-expect-error a text has no sum
  const textSum = () => keyed.sum('origin')
  // @ts-expect-error an object is not ordered
  const objectMax = () => keyed.max('extra')
  void textSum
  void objectMax
})

test('windows of every kind infer their elements, and refuse what does not fit them', () => {
  const keyed = flights().keyBy('origin')
  const sessions = keyed.window(EventTimeSessionWindows.withDynamicGap((f) => f.distance * 1_000))
  const counted = sessions.aggregate({ n: count(), delay: avg('delay') })
  check<Equal<Flat<Element<typeof counted>>['delay'], number | null>>()
  const summed = keyed.countWindow(10, 5).sum('distance')
  check<Equal<Element<typeof summed>['origin'], string>>()
  // @ts-expect-error a text has no sum
  const textSum = () => keyed.countWindow(10).sum('origin')
  // @ts-expect-error there is no such field
  const unknownField = () => keyed.countWindow(10).maxBy('nope')
  keyed
    .window(GlobalWindows.create())
    .trigger(DeltaTrigger.of(10, (a, b) => b.distance - a.distance))
    .evictor(DeltaEvictor.of(10, (a, b) => b.distance - a.distance))
    .evictor(TimeEvictor.of(seconds(10)))
    .maxBy('origin')
  const ofOthers = DeltaTrigger.of(1, (a: { x: number }, b: { x: number }) => b.x - a.x)
  // @ts-expect-error the trigger is for other elements
  const otherElements = () => keyed.window(GlobalWindows.create()).trigger(ofOthers)
  const applied = keyed
    .window(SlidingEventTimeWindows.of(seconds(10), seconds(2)))
    .apply<string>((key, window, elements, collect) => {
      check<Equal<typeof key, string>>()
      for (const f of elements) collect(`${key.length} ${window.start} ${f.extra.carrier}`)
    })
  check<Equal<Element<typeof applied>, string>>()
  const columns = keyed.countWindow(2).apply((_key, window, _elements, collect) => collect({ end: window.end }), {
    schema: schema({ end: t.timestamp() }),
  })
  check<Equal<Element<typeof columns>, { end: number }>>()
  const all = flights()
    .windowAll(TumblingEventTimeWindows.of(seconds(10)))
    .process<number>((context, elements, collect) => {
      check<Equal<typeof context.key, null>>()
      for (const f of elements) collect(f.distance)
    })
  check<Equal<Element<typeof all>, number>>()
  const allColumns = flights()
    .windowAll(TumblingEventTimeWindows.of(seconds(10)))
    .aggregate({ n: count() })
  check<
    Equal<
      Flat<Element<typeof allColumns>>,
      { readonly windowStart: number; readonly windowEnd: number; readonly n: number }
    >
  >()
  // @ts-expect-error a plain function has no state: an object with `process` has
  const stateOfFunction = () => keyed.countWindow(1).process<number>((context) => context.windowState())
  class Largest implements ProcessWindowFunction<number, string, string> {
    private readonly seen = new ReducingStateDescriptor<number>('seen', Math.max)
    process(context: StatefulProcessWindowContext<string>, elements: Iterable<number>, collect: (r: string) => void) {
      const seen = context.windowState().getReducingState(this.seen)
      for (const n of elements) seen.add(n)
      collect(`${context.key} ${seen.get()}`)
    }
  }
  const largest = keyed.window(TumblingEventTimeWindows.of(seconds(1))).aggregate(
    {
      createAccumulator: () => 0,
      add: (f: { distance: number }, n: number) => n + f.distance,
      getResult: (n: number) => n,
      merge: (a: number, b: number) => a + b,
    },
    new Largest(),
  )
  check<Equal<Element<typeof largest>, string>>()
  class First extends Trigger<{ distance: number }> {
    onElement(element: { distance: number }, _time: number, _window: TimeWindow, context: TriggerContext) {
      const seen = context.getPartitionedState(new ReducingStateDescriptor<number>('seen', Math.max))
      seen.add(element.distance)
      check<Equal<ReturnType<typeof seen.get>, number | undefined>>()
      return TriggerResult.FIRE
    }
    onEventTime() {
      return TriggerResult.CONTINUE
    }
    onProcessingTime() {
      return TriggerResult.CONTINUE
    }
    clear() {}
  }
  keyed.countWindow(1).trigger(new First())
  for (const unused of [textSum, unknownField, otherElements, stateOfFunction]) void unused
})

test('side outputs carry the type of their tag', () => {
  const late = outputTag<Element<ReturnType<typeof flights>>>('late')
  const counts = flights()
    .keyBy('origin')
    .window(TumblingEventTimeWindows.of(seconds(5)))
    .sideOutputLateData(late)
    .aggregate({ n: count() })
  const rows = counts.getSideOutput(late).map((f) => f.origin)
  check<Equal<Element<typeof rows>, string>>()
})

test('watermark strategies fit streams that have their field', () => {
  const bounded = WatermarkStrategy.forBoundedOutOfOrderness(seconds(5))
  flights().assignTimestampsAndWatermarks(bounded.withTimestampAssigner('date'))
  flights().assignTimestampsAndWatermarks(WatermarkStrategy.forBoundedOutOfOrderness(5, (f) => f.date))
  const opaque = StreamExecutionEnvironment.createEnvironment().fromElements({ at: 1 })
  // @ts-expect-error these rows have no field `date`
  const wrong = () => opaque.assignTimestampsAndWatermarks(bounded.withTimestampAssigner('date'))
  void wrong
})

test('sinks take rows that fit', () => {
  const wantsOrigin: Sink<{ origin: string }> = { ...nothing, schema: schema({ origin: t.string() }) }
  const wantsNope: Sink<{ nope: string }> = { ...nothing, schema: schema({ nope: t.string() }) }
  flights().sinkTo(nothing)
  flights().sinkTo(wantsOrigin)
  // @ts-expect-error the rows have no field `nope`
  flights().sinkTo(wantsNope)
  flights().addSink((f) => void f.origin)
  flights().addSink({ invoke: (f) => void f.distance })
  flights().sinkTo(printSink({ format: (f) => f.origin.toUpperCase() }))
  flights().addSink(printSink({ format: (f) => f.distance.toFixed() }))
  flights().sinkTo(printSink({ format: (f: { origin: string }) => f.origin }))
  // @ts-expect-error the rows have no field `nope`
  flights().sinkTo(printSink({ format: (f) => f.nope }))
  // @ts-expect-error the rows have no field `nope`
  flights().sinkTo(printSink({ format: (f: { nope: string }) => f.nope }))
})

test('executeAndCollect resolves to rows', () => {
  const collect = () =>
    flights()
      .map((f) => f.origin)
      .executeAndCollect()
  check<Equal<Awaited<ReturnType<typeof collect>>, string[]>>()
})

test('async functions: elements from the stream, results from the promise', () => {
  const looked = AsyncDataStream.unorderedWait(
    flights(),
    async (flight) => [{ from: flight.origin, late: flight.delay }],
    seconds(1),
  )
  check<Equal<Element<typeof looked>, { from: string; late: number | null }>>()
  class Lookup implements AsyncFunction<{ origin: string }, number> {
    async asyncInvoke(row: { origin: string }) {
      return [row.origin.length]
    }
  }
  const retry = AsyncRetryStrategies.fixedDelay(3, 1)
  const counted = AsyncDataStream.orderedWaitWithRetry(flights(), new Lookup(), seconds(1), 10, retry)
  check<Equal<Element<typeof counted>, number>>()
})

test('partitioners: keys by field or selector', () => {
  const byField = flights().partitionCustom((origin, partitions) => origin.length % partitions, 'origin')
  check<Equal<Element<typeof byField>, Element<ReturnType<typeof flights>>>>()
  flights().partitionCustom(
    (distance: number, partitions) => distance % partitions,
    (flight) => flight.distance,
  )
  // @ts-expect-error: the key is a string.
  flights().partitionCustom((origin: number) => origin, 'origin')
})

test('a files sink in place knows the rows that its buckets are chosen by', () => {
  const stream = flights()
  stream.sinkTo(
    filesSink({ path: 'unused', bucketAssigner: (flight, { timestamp }) => `${flight.origin}/${timestamp}` }),
  )
  stream.sinkTo(filesSink({ path: 'unused', bucketAssigner: dateTimeBuckets() }))
  // @ts-expect-error there is no such field
  stream.sinkTo(filesSink({ path: 'unused', bucketAssigner: (flight) => flight.country }))
})

test('lines of text come as rows of their own type, and an encoder knows what it makes lines of', () => {
  const lines = filesSource({ path: 'unused', format: 'text' })
  check<Equal<typeof lines, Source<{ readonly line: string }>>>()
  const named = filesSource({ path: 'unused', format: 'text', schema: schema({ message: t.string() }) })
  check<Equal<typeof named, Source<{ message: string }>>>()
  const stream = flights()
  stream.sinkTo(filesSink({ path: 'unused', format: 'text', encoder: (flight) => flight.origin }))
  // @ts-expect-error a line is a string
  stream.sinkTo(filesSink({ path: 'unused', format: 'text', encoder: (flight) => flight }))
  // @ts-expect-error only text has a schema of its own
  const records = () => filesSource({ path: 'unused', format: 'csv' })
  void records
})

test("sequences, generators and iterators keep their rows' types", () => {
  const env = StreamExecutionEnvironment.createEnvironment()
  const generated = env.fromDataGenerator((index) => ({ id: String(index), n: index }), { count: 3 })
  check<Equal<Element<typeof generated>, { id: string; n: number }>>()
  const sequence = env.fromSequence(1, 2)
  check<Equal<Element<typeof sequence>, number>>()
  const iterate = () => sequence.map((n) => [n]).executeAndCollectAsync()
  check<Equal<Awaited<ReturnType<ReturnType<typeof iterate>['next']>>, IteratorResult<number[], undefined>>>()
})

test('changelogs infer their rows through aggregates, joins and selections', () => {
  type RowOfChangelog<S> = S extends ChangelogStream<infer T> ? T : never
  const env = StreamExecutionEnvironment.createEnvironment()
  const orders = env.fromDataStream(
    env.fromCollection([{ id: 1, customer: 'ann', price: 5 as number | null }], {
      schema: schema({ id: t.int32(), customer: t.string(), price: t.nullable(t.float64()) }),
    }),
  )
  const totals = orders.groupBy('customer').aggregate({ orders: count(), total: sum('price'), last: max('id') })
  check<
    Equal<Flat<RowOfChangelog<typeof totals>>, { customer: string; orders: bigint; total: number | null; last: number }>
  >()
  const renamed = totals.select({ who: 'customer', n: 'orders' })
  check<Equal<Flat<RowOfChangelog<typeof renamed>>, { who: string; n: bigint }>>()
  const joined = orders.join(renamed, { type: 'left', where: ['customer'], equalTo: ['who'] })
  check<Equal<RowOfChangelog<typeof joined>['n'], bigint | null>>()
  check<Equal<RowOfChangelog<typeof joined>['customer'], string>>()
  const changes = renamed.toChangelogStream()
  check<Equal<Element<typeof changes>['kind'], '+I' | '-U' | '+U' | '-D'>>()
  // @ts-expect-error there is no such field
  void (() => orders.groupBy('nobody'))
  // @ts-expect-error nor one to be equal to
  void (() => orders.join(renamed, { type: 'inner', where: ['customer'], equalTo: ['customer'] }))
})
