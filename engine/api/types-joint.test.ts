/**
 * What the compiler infers where two streams meet: connected and broadcast streams, and joins. As types.test.ts: the assertions
 * are types.
 */
import { test } from 'node:test'
import {
  MapStateDescriptor,
  perSubtask,
  RichJoinFunction,
  seconds,
  TumblingEventTimeWindows,
  ValueStateDescriptor,
} from './index.ts'
import { check, type Element, type Equal, flights } from './types.testkit.ts'

test('connected streams infer both elements and the key', () => {
  const stream = flights()
  const tails = stream.map((f) => ({ from: f.origin, tail: f.distance }))
  const mapped = stream.connect(tails).map({ map1: (f) => f.delay, map2: (row) => row.tail })
  check<Equal<Element<typeof mapped>, number | null>>()
  const keyed = stream.connect(tails).keyBy('origin', 'from')
  keyed.process({
    processElement1: (f, context) => check<Equal<[typeof f.big, typeof context.currentKey], [bigint, string]>>(),
    processElement2: (row, context) => void context.timerService.registerEventTimeTimer(row.tail),
  })
  stream
    .keyBy('distance')
    .connect(tails.keyBy('tail'))
    .process({
      processElement1: (_f, { currentKey }) => check<Equal<typeof currentKey, number>>(),
      processElement2: () => {},
    })
  // @ts-expect-error the second stream has no field `origin`
  const wrong = () => stream.connect(tails).keyBy('origin', 'origin')
  void wrong
})

test('broadcast state is written by broadcast elements only', () => {
  const stream = flights()
  const limits = new MapStateDescriptor<string, number>('limits')
  const rules = stream.map((f) => ({ airport: f.origin, limit: f.distance })).broadcast(limits)
  stream.connect(rules).process({
    processElement(f, context) {
      check<Equal<typeof f.big, bigint>>()
      const state = context.getBroadcastState(limits)
      check<Equal<ReturnType<typeof state.get>, number | undefined>>()
      // @ts-expect-error read only
      const write = () => state.put('LAX', 1)
      void write
    },
    processBroadcastElement({ airport, limit }, context) {
      context.getBroadcastState(limits).put(airport, limit)
    },
  })
  stream
    .keyBy('origin')
    .connect(rules)
    .process({
      processElement: (_f, { currentKey }) => check<Equal<typeof currentKey, string>>(),
      processBroadcastElement(_rule, context) {
        context.applyToKeyedState(new ValueStateDescriptor<Date>('last'), (key, state) => {
          check<Equal<[typeof key, ReturnType<typeof state.value>], [string, Date | undefined]>>()
        })
      },
    })
})

test('window joins infer both elements', () => {
  const stream = flights()
  const tails = stream.map((f) => ({ from: f.origin, tail: f.distance }))
  const joined = stream
    .join(tails)
    .where('origin')
    .equalTo((row) => row.from)
    .window(TumblingEventTimeWindows.of(seconds(1)))
    .apply((f, row) => ({ big: f.big, tail: row.tail }))
  check<Equal<Element<typeof joined>, { big: bigint; tail: number }>>()
  const grouped = stream
    .coGroup(tails)
    .where((f) => f.distance)
    .equalTo('tail')
    .window(TumblingEventTimeWindows.of(seconds(1)))
    .apply((some, others, collect: (row: number) => void) => {
      for (const f of some) for (const row of others) collect(f.distance + row.tail)
    })
  check<Equal<Element<typeof grouped>, number>>()
  const fromOrigin = stream.join(tails).where('origin')
  // @ts-expect-error a string never equals a number
  fromOrigin.equalTo((row) => row.tail)
})

test('interval joins infer their results, and want keys of one type', () => {
  const stream = flights()
  const left = stream.keyBy('origin')
  const right = stream.map((f) => ({ airport: f.origin, passengers: 3 })).keyBy((row) => row.airport)
  const joined = left
    .intervalJoin(right)
    .between(seconds(-1), 5)
    .process({
      processElement(flight, { passengers }, context, collect: (row: { delay: number; at: number }) => void) {
        collect({ delay: (flight.delay ?? 0) * passengers, at: context.leftTimestamp })
      },
    })
  check<Equal<Element<typeof joined>, { delay: number; at: number }>>()
  // @ts-expect-error numbers never equal strings
  left.intervalJoin(stream.keyBy('distance'))
})

test('functions of joins that are made for each subtask, or have a life, keep their types', () => {
  type Flight = Element<ReturnType<typeof flights>>
  const stream = flights()
  const pair = () => stream.join(stream).where('origin').equalTo('origin')
  const windows = TumblingEventTimeWindows.of(seconds(1))
  const joined = pair()
    .window(windows)
    .apply(perSubtask(() => (a: Flight, b: Flight) => a.distance + b.distance))
  check<Equal<Element<typeof joined>, number>>()
  class Origin extends RichJoinFunction<Flight, Flight, string> {
    join(a: Flight): string {
      return a.origin
    }
  }
  const origins = pair().window(windows).apply(new Origin())
  check<Equal<Element<typeof origins>, string>>()
  const near = stream
    .keyBy('origin')
    .intervalJoin(stream.keyBy('origin'))
    .between(0, 1)
    .process(
      perSubtask(() => ({
        processElement(a: Flight, _b: Flight, _context: unknown, collect: (row: { at: string }) => void) {
          collect({ at: a.origin })
        },
      })),
    )
  check<Equal<Element<typeof near>, { at: string }>>()
  const both = stream.connect(stream).map(perSubtask(() => ({ map1: (f: Flight) => f.origin, map2: () => 'other' })))
  check<Equal<Element<typeof both>, string>>()
  const grouped = stream.coGroup(stream).where('origin').equalTo('origin').window(windows)
  const sizes = grouped.apply(
    perSubtask(
      () => (a: Iterable<Flight>, _b: Iterable<Flight>, collect: (n: number) => void) => collect([...a].length),
    ),
  )
  check<Equal<Element<typeof sizes>, number>>()
  const ofTexts = perSubtask(() => (text: string) => text.length)
  // @ts-expect-error it makes a function of texts
  const texts = () => pair().window(windows).apply(ofTexts)
  stream.addSink((flight, context) => {
    check<Equal<typeof flight, Flight>>()
    check<Equal<typeof context.timestamp, number>>()
  })
  void texts
})
