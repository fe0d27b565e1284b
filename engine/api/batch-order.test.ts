/**
 * In which order batch execution gives rows to functions: by key and time, broadcast elements first, against naive
 * programs and DuckDB; in far less memory than the rows take.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { queryDuckDb } from '../../test/duckdb.testkit.ts'
import { environment } from './batch.testkit.ts'
import {
  type BroadcastProcessFunction,
  EventTimeSessionWindows,
  type KeyedBroadcastProcessFunction,
  type KeyedCoProcessFunction,
  type KeyedProcessFunction,
  MapStateDescriptor,
  milliseconds,
  schema,
  TumblingEventTimeWindows,
  t,
  ValueStateDescriptor,
  WatermarkStrategy,
} from './index.ts'

interface Event {
  readonly key: string
  readonly at: number
  readonly n: number
}
const EVENT = schema({ key: t.string(), at: t.timestamp(), n: t.float64() })
const byAt = WatermarkStrategy.forMonotonousTimestamps<Event>().withTimestampAssigner((event) => event.at)
const inOrder = (events: readonly Event[]) => events.toSorted((a, b) => a.at - b.at || a.n - b.n)
const keysOf = (events: readonly Event[]) => [...new Set(events.map(({ key }) => key))]

/** `n` says the order of arrival, where there is one source. */
const anyEvents = fc
  .array(fc.record({ key: fc.constantFrom('a', 'b', 'c', 'd'), at: fc.nat(60) }), { maxLength: 80 })
  .map((events) => events.map((event, n): Event => ({ ...event, n })))

type Context = Parameters<KeyedProcessFunction<string, Event, string>['processElement']>[1]

/** Tells of each element and timer, with how many elements its key had before. */
class Telling implements KeyedProcessFunction<string, Event, string> {
  private seen!: { value(): number | undefined; update(value: number): void }
  open(context: Parameters<NonNullable<KeyedProcessFunction<string, Event, string>['open']>>[0]) {
    this.seen = context.getState(new ValueStateDescriptor<number>('seen'))
  }
  processElement(event: Event, { timerService }: Context, collect: (result: string) => void) {
    const seen = this.seen.value() ?? 0
    this.seen.update(seen + 1)
    timerService.registerEventTimeTimer(event.at + 1_000)
    collect(`${event.key} ${event.at} ${event.n} after ${seen}`)
  }
  onTimer(timeMs: number, { currentKey }: { currentKey: string }, collect: (result: string) => void) {
    collect(`${currentKey} timer ${timeMs} after ${this.seen.value()}`)
  }
}

describe('order of rows in batch mode', () => {
  test('a key comes whole, in order of time, with its timers at its end', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvents, fc.integer({ min: 1, max: 3 }), fc.boolean(), async (events, parallelism, typed) => {
        const env = environment(parallelism)
        const stream = typed ? env.fromCollection<Event>(events, { schema: EVENT }) : env.fromCollection<Event>(events)
        const told = await stream
          .assignTimestampsAndWatermarks(byAt)
          .keyBy((event) => event.key)
          .process(() => new Telling())
          .executeAndCollect()
        const expected = (key: string): string[] => {
          const own = inOrder(events.filter((event) => event.key === key))
          const times = [...new Set(own.map(({ at }) => at + 1_000))].sort((a, b) => a - b)
          return [
            ...own.map(({ at, n }, seen) => `${key} ${at} ${n} after ${seen}`),
            ...times.map((time) => `${key} timer ${time} after ${own.length}`),
          ]
        }
        for (const key of keysOf(events)) {
          const own = told.filter((text) => text.startsWith(`${key} `))
          assert.deepEqual(own, expected(key))
          const [first, last] = [told.indexOf(own[0]!), told.indexOf(own.at(-1)!)]
          // With one subtask nothing of another key comes in between.
          if (parallelism === 1) assert.equal(last - first + 1, own.length)
        }
        assert.equal(told.length, keysOf(events).flatMap(expected).length)
      }),
      { numRuns: 8 },
    )
  })

  test('windows and reduces see their elements in order of time', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvents, async (events) => {
        const keyed = () =>
          environment()
            .fromCollection<Event>(events)
            .assignTimestampsAndWatermarks(byAt)
            .keyBy((event) => event.key)
        const texts = (own: readonly Event[]) => own.map(({ at, n }) => `${at}/${n}`).join(' ')
        const groups = (sameAs: (before: Event, event: Event) => boolean): string[] =>
          keysOf(events).flatMap((key) => {
            const groupsOfKey: Event[][] = []
            for (const event of inOrder(events.filter((candidate) => candidate.key === key))) {
              const before = groupsOfKey.at(-1)?.at(-1)
              if (before !== undefined && sameAs(before, event)) groupsOfKey.at(-1)!.push(event)
              else groupsOfKey.push([event])
            }
            return groupsOfKey.map((own) => `${key} ${texts(own)}`)
          })
        const tumbling = await keyed()
          .window(TumblingEventTimeWindows.of(milliseconds(20)))
          .process((context, own, collect: (result: string) => void) => collect(`${context.key} ${texts([...own])}`))
          .executeAndCollect()
        const sameWindow = (a: Event, b: Event) => Math.floor(a.at / 20) === Math.floor(b.at / 20)
        assert.deepEqual(tumbling.sort(), groups(sameWindow).sort())
        const sessions = await keyed()
          .window(EventTimeSessionWindows.withGap(milliseconds(5)))
          .process((context, own, collect: (result: string) => void) => collect(`${context.key} ${texts([...own])}`))
          .executeAndCollect()
        const sameSession = (a: Event, b: Event) => b.at - a.at <= 5
        assert.deepEqual(sessions.sort(), groups(sameSession).sort())
        const last = await keyed()
          .reduce((_, event) => event)
          .executeAndCollect()
        const newest = keysOf(events).map((key) => inOrder(events.filter((event) => event.key === key)).at(-1)!.n)
        assert.deepEqual(last.map(({ n }) => n).sort(), newest.sort())
      }),
      { numRuns: 5 },
    )
  })

  test('several times more rows than memory: running sums as DuckDB has them', async () => {
    const count = 30_000
    const text = 'x'.repeat(120)
    const ROW = schema({ key: t.string(), at: t.timestamp(), n: t.float64(), text: t.string() })
    const rows = Array.from({ length: count }, (_, i) => {
      const at = (i * 7_919) % count
      return { key: `k${(i * 31) % 997}`, at, n: i % 1_001, text: `${at} ${text}` }
    })
    class RunningSum implements KeyedProcessFunction<string, (typeof rows)[number], string> {
      private key = ''
      private sum = 0
      processElement(row: (typeof rows)[number], _context: unknown, collect: (result: string) => void) {
        this.sum = row.key === this.key ? this.sum + row.n : row.n
        this.key = row.key
        assert.equal(row.text.split(' ')[0], String(row.at))
        collect(`${row.key} ${row.at} ${this.sum}`)
      }
    }
    const results = await environment()
      .setStateMemory('1m')
      .fromCollection(rows, { schema: ROW })
      .assignTimestampsAndWatermarks(
        WatermarkStrategy.forMonotonousTimestamps<(typeof rows)[number]>().withTimestampAssigner('at'),
      )
      .keyBy('key')
      .process(() => new RunningSum())
      .executeAndCollect()
    const answer = await queryDuckDb(`
      with rows as (
        select 'k' || ((i * 31) % 997) as key, (i * 7919) % ${count} as time, i % 1001 as n from range(${count}) r(i)
      )
      select key || ' ' || time || ' ' || sum(n) over (partition by key order by time)::bigint as line from rows`)
    assert.deepEqual(results.sort(), answer.map(({ line }) => line as string).sort())
  })

  test('connected streams with keys come together in order of time', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvents, anyEvents, async (lefts, rights) => {
        class Both implements KeyedCoProcessFunction<string, Event, Event, string> {
          processElement1({ key, at }: Event, _context: unknown, collect: (result: string) => void) {
            collect(`${key} ${at} left`)
          }
          processElement2({ key, at }: Event, _context: unknown, collect: (result: string) => void) {
            collect(`${key} ${at} right`)
          }
        }
        const env = environment()
        const stream = (events: Event[]) => env.fromCollection<Event>(events).assignTimestampsAndWatermarks(byAt)
        const told = await stream(lefts)
          .connect(stream(rights))
          .keyBy(
            (event) => event.key,
            (event) => event.key,
          )
          .process(() => new Both())
          .executeAndCollect()
        const all = [
          ...lefts.map((event) => ({ ...event, side: 'left' })),
          ...rights.map((event) => ({ ...event, side: 'right' })),
        ]
        assert.equal(told.length, all.length)
        for (const key of keysOf(all)) {
          const own = all.filter((event) => event.key === key)
          const expected = own.toSorted((a, b) => a.at - b.at || a.side.localeCompare(b.side))
          assert.deepEqual(
            told.filter((row) => row.startsWith(`${key} `)),
            expected.map(({ at, side }) => `${key} ${at} ${side}`),
          )
        }
      }),
      { numRuns: 5 },
    )
  })

  test('broadcast elements come first, from the same source as the others too', async () => {
    const total = new MapStateDescriptor<string, number>('total')
    const count = 20_000
    for (const isKeyed of [true, false]) {
      const env = environment()
      const numbers = env.fromSequence(1, count)
      const rules = numbers.filter((n) => n % 1_000 === 0).broadcast(total)
      type Contexts = {
        read: { getBroadcastState(of: typeof total): { get(key: string): number | undefined } }
        write: {
          getBroadcastState(of: typeof total): {
            get(key: string): number | undefined
            put(key: string, value: number): void
          }
        }
      }
      const processElement = (n: number, context: Contexts['read'], collect: (result: string) => void) =>
        collect(`${n} ${context.getBroadcastState(total).get('sum')}`)
      const processBroadcastElement = (n: number, context: Contexts['write']) => {
        const state = context.getBroadcastState(total)
        state.put('sum', (state.get('sum') ?? 0) + n)
      }
      class Keyed implements KeyedBroadcastProcessFunction<number, number, number, string> {
        processElement = processElement
        processBroadcastElement = processBroadcastElement
      }
      class Plain implements BroadcastProcessFunction<number, number, string> {
        processElement = processElement
        processBroadcastElement = processBroadcastElement
      }
      const results = isKeyed
        ? numbers
            .keyBy((n) => n % 7)
            .connect(rules)
            .process(() => new Keyed())
        : numbers.connect(rules).process(() => new Plain())
      const told = await results.executeAndCollect()
      assert.equal(told.length, count)
      assert.ok(
        told.every((row) => row.endsWith(` ${(1_000 * 20 * 21) / 2}`)),
        told[0],
      )
    }
  })

  test('joins of time and of windows find the same pairs', async () => {
    await fc.assert(
      fc.asyncProperty(anyEvents, anyEvents, async (lefts, rights) => {
        const env = environment()
        const stream = (events: Event[]) => env.fromCollection<Event>(events).assignTimestampsAndWatermarks(byAt)
        const pairs = (meets: (a: Event, b: Event) => boolean) =>
          lefts.flatMap((a) => rights.filter((b) => a.key === b.key && meets(a, b)).map((b) => `${a.n} ${b.n}`)).sort()
        const [left, right] = [stream(lefts), stream(rights)]
        const interval = await left
          .keyBy((event) => event.key)
          .intervalJoin(right.keyBy((event) => event.key))
          .between(milliseconds(-3), milliseconds(4))
          .process(() => ({
            processElement: (a: Event, b: Event, _context: unknown, collect: (result: string) => void) =>
              collect(`${a.n} ${b.n}`),
          }))
          .executeAndCollect()
        assert.deepEqual(
          interval.sort(),
          pairs((a, b) => b.at >= a.at - 3 && b.at <= a.at + 4),
        )
        const again = environment()
        const of = (events: Event[]) => again.fromCollection<Event>(events).assignTimestampsAndWatermarks(byAt)
        const joined = await of(lefts)
          .join(of(rights))
          .where('key')
          .equalTo('key')
          .window(TumblingEventTimeWindows.of(milliseconds(10)))
          .apply((a, b) => `${a.n} ${b.n}`)
          .executeAndCollect()
        assert.deepEqual(
          joined.sort(),
          pairs((a, b) => Math.floor(a.at / 10) === Math.floor(b.at / 10)),
        )
      }),
      { numRuns: 5 },
    )
  })
})
