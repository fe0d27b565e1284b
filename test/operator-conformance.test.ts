/**
 * Every operator of the public API, run as the engine may run it: any batch size, an output with room for one
 * batch, little memory, cuts restored at another parallelism. Whatever the way, the same rows come out.
 *
 * Each entry of the table declares a step of a program; its operators are taken from the graph and driven by
 * the rig of the operators' own tests. The plain run (large batches, one subtask, no restore) is the measure;
 * that it is right is the business of each operator's own tests. The last test fails when a class that
 * implements `Operator` is missing here.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import {
  ContinuousEventTimeTrigger,
  CountEvictor,
  CountTrigger,
  CumulativeEventTimeWindows,
  count,
  type DataStream,
  DeltaTrigger,
  EventTimeSessionWindows,
  GlobalWindows,
  hours,
  type KeyedStream,
  MapStateDescriptor,
  max,
  milliseconds,
  minutes,
  outputTag,
  PurgingTrigger,
  perSubtask,
  type RuntimeContext,
  type SingleOutputStreamOperator,
  SlidingEventTimeWindows,
  StreamExecutionEnvironment,
  schema,
  seconds,
  sum,
  TimeEvictor,
  TumblingEventTimeWindows,
  TumblingProcessingTimeWindows,
  t,
  type ValueState,
  ValueStateDescriptor,
  WatermarkStrategy,
} from 'millrace'
import type { JobGraph, OperatorNode } from '../engine/contract/job-graph.ts'
import { OperatorRig } from '../operators/operator.testkit.ts'

const ROW = schema({ id: t.float64(), key: t.string(), amount: t.float64(), at: t.timestamp() })
interface Row {
  readonly id: number
  readonly key: string
  readonly amount: number
  readonly at: number
}
type Stream = DataStream<Row>
type Keyed = KeyedStream<Row, string>
type Step = (left: Stream, right: Stream) => SingleOutputStreamOperator<unknown>

const late = outputTag<Row>('late')
const odd = outputTag<number>('odd')
const RULES = new MapStateDescriptor<string, number>('rules')

const appending = {
  createAccumulator: (): { ids: number[] } => ({ ids: [] }),
  add: (row: Row, kept: { ids: number[] }) => ({ ids: [...kept.ids, row.id].sort((a, b) => a - b) }),
  getResult: (kept: { ids: number[] }) => kept.ids,
  merge: (a: { ids: number[] }, b: { ids: number[] }) => ({ ids: [...a.ids, ...b.ids].sort((x, y) => x - y) }),
}
const builtIn = { rows: count(), total: sum('amount'), most: max('amount') }
const idsOf = (rows: Iterable<Row>): number[] => [...rows].map((row) => row.id).sort((a, b) => a - b)
const byKey = (stream: Stream): Keyed => stream.keyBy('key')

/** Counts rows of its key, answers ten seconds of event time later, and each hundred of processing time. */
function counting() {
  let seen: ReturnType<RuntimeContext['getState']>
  return {
    open(context: RuntimeContext) {
      seen = context.getState(new ValueStateDescriptor<number>('seen'))
    },
    processElement(
      row: Row,
      context: {
        timestamp: number
        timerService: { registerEventTimeTimer(at: number): void }
        output(tag: typeof odd, value: number): void
      },
    ) {
      seen.update(((seen.value() as number | undefined) ?? 0) + 1)
      context.timerService.registerEventTimeTimer(Math.ceil((row.at + 1) / 10_000) * 10_000)
      if (row.id % 2 === 1) context.output(odd, row.id)
    },
    onTimer(at: number, context: { currentKey: unknown }, collect: (row: unknown) => void) {
      collect([context.currentKey, at, seen.value()])
    },
  }
}

const STEPS: Readonly<Record<string, Step>> = {
  map: (left) => left.map((row) => ({ twice: row.amount * 2 })),
  'map with columns': (left) => left.map((row) => ({ id: row.id }), { schema: schema({ id: t.float64() }) }),
  filter: (left) => left.filter((row) => row.id % 3 !== 0),
  flatMap: (left) => left.flatMap((row) => Array.from({ length: row.id % 4 }, (_, i) => [row.id, i])),
  'timestamps and watermarks': (left) =>
    left
      .map((row) => row)
      .assignTimestampsAndWatermarks(
        WatermarkStrategy.forBoundedOutOfOrderness<Row>(seconds(1)).withTimestampAssigner((row) => row.at + 1),
      ),
  process: (left) => left.process({ processElement: (row, _context, collect) => collect(row.id) }),
  reduce: (left) => byKey(left).reduce((a, b) => ({ ...b, amount: a.amount + b.amount })),
  'reduce with state of its own': (left) =>
    byKey(left).reduce(
      perSubtask(() => {
        let most: ValueState<number>
        return {
          open(context: RuntimeContext) {
            most = context.getState(new ValueStateDescriptor<number>('most'))
          },
          reduce(a: Row, b: Row): Row {
            most.update(Math.max(most.value() ?? a.amount, b.amount))
            return { ...b, amount: a.amount + b.amount, at: most.value()! }
          },
        }
      }),
    ),
  'rolling sum': (left) => byKey(left).sum('amount'),
  'rolling maxBy': (left) => byKey(left).maxBy('amount'),
  'keyed process with timers': (left) => byKey(left).process(() => counting() as never),
  'tumbling, built in': (left) =>
    byKey(left)
      .window(TumblingEventTimeWindows.of(seconds(5)))
      .allowedLateness(seconds(3))
      .sideOutputLateData(late)
      .aggregate(builtIn),
  'tumbling, aggregate function': (left) =>
    byKey(left)
      .window(TumblingEventTimeWindows.of(seconds(5)))
      .allowedLateness(seconds(3))
      .aggregate(appending),
  'tumbling in local time': (left) =>
    byKey(left)
      .window(TumblingEventTimeWindows.of(hours(1), { timeZone: 'Europe/Berlin' }))
      .aggregate(builtIn),
  'sliding, built in': (left) =>
    byKey(left)
      .window(SlidingEventTimeWindows.of(seconds(6), seconds(2)))
      .allowedLateness(seconds(2))
      .sideOutputLateData(late)
      .aggregate(builtIn),
  'cumulative, built in': (left) =>
    byKey(left)
      .window(CumulativeEventTimeWindows.of(seconds(10), seconds(2)))
      .aggregate(builtIn),
  'sliding, process': (left) =>
    byKey(left)
      .window(SlidingEventTimeWindows.of(seconds(6), seconds(3)))
      .process((context, rows, collect: (r: unknown) => void) =>
        collect([context.key, context.window.start, idsOf(rows)]),
      ),
  'session, aggregate function': (left) =>
    byKey(left)
      .window(EventTimeSessionWindows.withGap(milliseconds(1_500)))
      .allowedLateness(seconds(2))
      .sideOutputLateData(late)
      .aggregate(appending),
  'count trigger on sliding': (left) =>
    byKey(left)
      .window(SlidingEventTimeWindows.of(seconds(6), seconds(3)))
      .trigger(CountTrigger.of(2))
      .aggregate(appending),
  'purging delta trigger on global': (left) =>
    byKey(left)
      .window(GlobalWindows.create())
      .trigger(PurgingTrigger.of(DeltaTrigger.of(20, (a: Row, b: Row) => Math.abs(b.amount - a.amount))))
      .aggregate(appending),
  'continuous trigger and evictors': (left) =>
    byKey(left)
      .window(TumblingEventTimeWindows.of(seconds(9)))
      .trigger(ContinuousEventTimeTrigger.of(seconds(3)))
      .evictor(CountEvictor.of(3))
      .process((context, rows, collect: (r: unknown) => void) => collect([context.key, idsOf(rows)])),
  'time evictor': (left) =>
    byKey(left)
      .window(TumblingEventTimeWindows.of(seconds(9)))
      .evictor(TimeEvictor.of(seconds(2)))
      .process((context, rows, collect: (r: unknown) => void) => collect([context.key, idsOf(rows)])),
  'count window': (left) => byKey(left).countWindow(4, 2).aggregate(appending),
  'processing time window': (left) =>
    byKey(left)
      .window(TumblingProcessingTimeWindows.of(minutes(1)))
      .aggregate(appending),
  'co-map': (left, right) =>
    left.connect(right).map({ map1: (row) => ['left', row.id], map2: (row) => ['right', row.id] }),
  'keyed co-process': (left, right) =>
    left
      .connect(right)
      .keyBy('key', 'key')
      .process(() => {
        const inner = counting()
        return {
          open: inner.open,
          processElement1: inner.processElement,
          processElement2: inner.processElement,
          onTimer: inner.onTimer,
        } as never
      }),
  'broadcast state': (left, right) =>
    byKey(left)
      .connect(right.broadcast(RULES))
      .process(
        () =>
          ({
            processElement(
              row: Row,
              context: { getBroadcastState(d: typeof RULES): { get(key: string): number | undefined } },
              collect: (r: unknown) => void,
            ) {
              collect([row.id, context.getBroadcastState(RULES).get(row.key) ?? 0])
            },
            processBroadcastElement(
              row: Row,
              context: { getBroadcastState(d: typeof RULES): { put(key: string, value: number): void } },
            ) {
              context.getBroadcastState(RULES).put(row.key, row.id)
            },
          }) as never,
      ),
  'interval join': (left, right) =>
    byKey(left)
      .intervalJoin(byKey(right))
      .between(seconds(-2), seconds(2))
      .sideOutputLeftLateData(late)
      .process({
        processElement: (a, b, _context, collect) => collect([a.id, b.id]),
      }),
  'window join': (left, right) =>
    left
      .join(right)
      .where((row) => row.key)
      .equalTo((row) => row.key)
      .window(TumblingEventTimeWindows.of(seconds(5)))
      .apply((a, b) => [a.id, b.id]),
  coGroup: (left, right) =>
    left
      .coGroup(right)
      .where((row) => row.key)
      .equalTo((row) => row.key)
      .window(EventTimeSessionWindows.withGap(seconds(1)))
      .apply((a: Iterable<Row>, b: Iterable<Row>, collect: (r: unknown) => void) => collect([idsOf(a), idsOf(b)])),
}

/** Operators over changelogs: the table that comes out is the same whatever the way, the changes that make it are not. */
const CHANGELOGS = 'test/changelogs.test.ts'
/** Operators that this way of driving cannot judge, with the file that tests them so. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  AsyncWaitOperator: 'operators/async-wait.test.ts',
  FromChangesOperator: CHANGELOGS,
  ToChangesOperator: 'engine/api/changelog-stream.test.ts',
  SelectOperator: CHANGELOGS,
  GroupAggregateOperator: CHANGELOGS,
  StreamingJoinOperator: CHANGELOGS,
  SinkUpsertMaterializerOperator: CHANGELOGS,
  ChangelogNormalizeOperator: CHANGELOGS,
}

type Event =
  | { readonly kind: 'rows'; readonly input: number; readonly rows: readonly Row[] }
  | { readonly kind: 'watermark'; readonly at: number }
  | { readonly kind: 'clock'; readonly byMs: number }

const anyRow = fc.record(
  {
    id: fc.nat(60),
    key: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    amount: fc.nat(50),
    at: fc.integer({ min: 1_700_000_000_000, max: 1_700_000_020_000 }),
  },
  { noNullPrototype: true },
)
const anyEvents: fc.Arbitrary<Event[]> = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('rows' as const),
        input: fc.nat(1),
        rows: fc.array(anyRow, { minLength: 1, maxLength: 9 }),
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: fc.constant('watermark' as const),
        at: fc.integer({ min: 1_700_000_000_000, max: 1_700_000_021_000 }),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant('clock' as const), byMs: fc.integer({ min: 1, max: 90_000 }) }),
    },
  ),
  { minLength: 2, maxLength: 14 },
)

interface Way {
  readonly batchRows?: number
  readonly capacityOne?: boolean
  readonly memoryBudgetBytes?: number
  /** Parallelism to restore at, by the index of the event that it comes before. */
  readonly restores?: ReadonlyMap<number, number>
}

function graphOf(step: Step): JobGraph {
  const env = StreamExecutionEnvironment.createEnvironment()
  const source = () => env.fromCollection<Row>([], { schema: ROW })
  const made = step(source(), source())
  for (const tag of [late, odd]) made.getSideOutput(tag as typeof late).print()
  made.print()
  return env.getGraph()
}

/** Runs the operators of a graph, each in a rig; what an operator emits goes on to the next at once. */
function outputOf(graph: JobGraph, events: readonly Event[], way: Way): string[] {
  const nodes = graph.nodes.filter((node): node is OperatorNode => node.role === 'operator')
  const rigs = nodes.map((node) => {
    const inputs = graph.edges
      .filter((edge) => edge.to === node.id)
      .sort((a, b) => (a.input ?? 0) - (b.input ?? 0))
      .map((edge) => ({
        schema: graph.nodes.find((candidate) => candidate.id === edge.from)!.outputSchema,
        createKeys: edge.createKeys,
        isBroadcast: edge.partitioning === 'broadcast',
        ...(edge.projection === undefined ? {} : { projection: edge.projection }),
      }))
    return new OperatorRig({ create: node.create, ...inputs[0]!, moreInputs: inputs.slice(1), ...rigOptions(way) })
  })
  const isKeyed = nodes.map((node) => node.isKeyed)
  const first = rigs[0]!
  const sources = graph.edges.filter((edge) => edge.to === nodes[0]!.id).length
  const sent = rigs.map(() => 0)
  const passOn = (): void => {
    for (let k = 0; k + 1 < rigs.length; k++) {
      const fresh = rigs[k]!.output.main.slice(sent[k])
      sent[k] += fresh.length
      if (fresh.length > 0)
        rigs[k + 1]!.push(
          fresh.map(({ row }) => row),
          fresh.map(({ time }) => time),
        )
    }
  }
  let watermark = Number.NEGATIVE_INFINITY
  let nowMs = 1_000
  events.forEach((event, i) => {
    const parallelism = way.restores?.get(i)
    if (parallelism !== undefined) {
      for (const [k, rig] of rigs.entries()) rig.restore(isKeyed[k] ? parallelism : 1)
    }
    if (event.kind === 'rows' && event.input < sources) {
      first.push(
        event.rows,
        event.rows.map((row) => row.at),
        event.input,
      )
    }
    if (event.kind === 'watermark' && event.at > watermark) watermark = event.at
    if (event.kind === 'clock') nowMs += event.byMs
    for (const rig of rigs) {
      if (event.kind === 'watermark') rig.watermark(watermark)
      if (event.kind === 'clock') rig.processingTime(nowMs)
      passOn()
    }
  })
  for (const rig of rigs) {
    rig.watermark(Number.POSITIVE_INFINITY)
    passOn()
  }
  const last = rigs.at(-1)!
  const rows = last.output.main.map(({ row, time }) => JSON.stringify([row, time]))
  for (const [tag, side] of last.output.sides) for (const { row } of side) rows.push(`${tag} ${JSON.stringify(row)}`)
  for (const rig of rigs) rig.close()
  return rows.sort()
}

function rigOptions({ batchRows, capacityOne, memoryBudgetBytes }: Way) {
  return {
    ...(batchRows === undefined ? {} : { batchRows }),
    ...(capacityOne === undefined ? {} : { capacityOne }),
    ...(memoryBudgetBytes === undefined ? {} : { memoryBudgetBytes }),
  }
}

const anyWay: fc.Arbitrary<Way> = fc.record({
  batchRows: fc.integer({ min: 1, max: 7 }),
  capacityOne: fc.boolean(),
  memoryBudgetBytes: fc.constantFrom(1, 1 << 26),
  restores: fc
    .array(fc.tuple(fc.nat(13), fc.integer({ min: 1, max: 5 })), { maxLength: 3 })
    .map((pairs) => new Map(pairs)),
})

const RUNS = Number(process.env['CONFORMANCE_RUNS'] ?? 12)

describe('whatever the way it is run, the same rows come out of', () => {
  for (const [name, step] of Object.entries(STEPS)) {
    test(name, () => {
      const graph = graphOf(step)
      let rowsInAll = 0
      fc.assert(
        fc.property(anyEvents, anyWay, (events, way) => {
          const plain = outputOf(graph, events, {})
          rowsInAll += plain.length
          assert.deepEqual(outputOf(graph, events, way), plain)
        }),
        { numRuns: RUNS },
      )
      assert.ok(rowsInAll > 0, 'some rows came out')
    })
  }
})

test('no operator is left out', () => {
  const folder = new URL('../operators/', import.meta.url)
  const classes = readdirSync(folder)
    .filter((file) => file.endsWith('.ts') && !file.includes('.test'))
    .flatMap((file) => [
      ...readFileSync(new URL(file, folder), 'utf8').matchAll(
        /^(?:export )?class (\w+) .*implements (?:\w+, )*\w*Operator\b/gm,
      ),
    ])
    .map((match) => match[1]!)
  assert.ok(classes.length >= 10)
  const exercised = new Set(
    Object.values(STEPS).flatMap((step) =>
      graphOf(step).nodes.flatMap((node) => (node.role === 'operator' ? [node.create().constructor.name] : [])),
    ),
  )
  assert.deepEqual(
    classes.filter((name) => !exercised.has(name) && ELSEWHERE[name] === undefined),
    [],
  )
})
