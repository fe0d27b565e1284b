/**
 * What programs turn into: nodes, edges, uids, watermarks, and the errors of programs that cannot be jobs.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { describeGraph, type JobGraph, type SourceNode } from '../contract/job-graph.ts'
import type { Sink } from '../contract/sink.ts'
import { MillraceError } from '../core/errors.ts'
import { batchOfRows } from '../core/rows.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import {
  BoundedOutOfOrdernessTimestampExtractor,
  CumulativeEventTimeWindows,
  count,
  job,
  outputTag,
  SlidingEventTimeWindows,
  StreamExecutionEnvironment,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from './index.ts'

const EVENTS = schema({ id: t.string(), at: t.timestamp(), n: t.float64() })
const rows = [{ id: 'a', at: 1, n: 2 }]
const nothing: Sink = {
  kind: 'nothing',
  guarantee: 'at-least-once',
  createWriter: () => {
    throw new Error('never started')
  },
}

const environment = () => StreamExecutionEnvironment.createEnvironment()
const throwsCode = (code: string, run: () => unknown) =>
  assert.throws(run, (error) => error instanceof MillraceError && error.code === code)

/** The readable half of describeGraph: names and edges. */
function shape(graph: JobGraph): string[] {
  const edges = graph.edges.map((edge) => `${edge.from}->${edge.to} ${edge.partitioning} ${edge.sideTag ?? '-'}`)
  return [...graph.nodes.map((node) => `${node.id} ${node.name}`), ...edges]
}

describe('graphs', () => {
  test('steps become nodes, and keyBy an edge', () => {
    const env = environment()
    env
      .fromCollection(rows, { schema: EVENTS })
      .filter((row) => row.n > 0)
      .keyBy('id')
      .reduce((a, b) => ({ id: a.id, at: b.at, n: a.n + b.n }))
      .rebalance()
      .map((row) => row.n)
      .sinkTo(nothing)
    assert.deepEqual(shape(env.getGraph()), [
      '0 Source: Collection',
      '1 Filter',
      '2 Reduce',
      '3 Map',
      '4 Sink: nothing',
      '0->1 forward -',
      '1->2 hash -',
      '2->3 rebalance -',
      '3->4 forward -',
    ])
    const [, filter, reduce] = env.getGraph().nodes
    assert.ok(filter?.role === 'operator' && !filter.isKeyed)
    assert.ok(reduce?.role === 'operator' && reduce.isKeyed)
  })

  test('a map after keyBy still gets hashed rows, but is not keyed', () => {
    const env = environment()
    env
      .fromCollection(rows)
      .keyBy((row) => row.id)
      .map((row) => row.n)
      .sinkTo(nothing)
    const { nodes, edges } = env.getGraph()
    assert.equal(edges[0]?.partitioning, 'hash')
    assert.notEqual(edges[0]?.createKeys, null)
    assert.ok(nodes[1]?.role === 'operator' && !nodes[1].isKeyed)
  })

  test('union gives its reader an edge from each stream', () => {
    const env = environment()
    const a = env.fromElements(1, 2)
    const b = env.fromElements(3)
    a.union(b)
      .map((n) => n + 1)
      .sinkTo(nothing)
    assert.deepEqual(shape(env.getGraph()).slice(4), ['0->2 forward -', '1->2 forward -', '2->3 forward -'])
  })

  test('streams of different schemas or environments are not united', () => {
    const env = environment()
    const typed = env.fromCollection(rows, { schema: EVENTS })
    const opaque = env.fromCollection(rows)
    throwsCode('UNION_INVALID', () => typed.union(opaque))
    throwsCode('UNION_INVALID', () => opaque.union(environment().fromCollection(rows)))
  })

  test('a side output is an edge with its tag, late rows with the schema they came with', () => {
    const env = environment()
    const late = outputTag<(typeof rows)[number]>('late')
    const counts = env
      .fromCollection(rows, { schema: EVENTS })
      .keyBy('id')
      .window(TumblingEventTimeWindows.of(seconds(1)))
      .sideOutputLateData(late)
      .aggregate({ n: count() })
    counts
      .getSideOutput(late)
      .map((row) => row.id)
      .sinkTo(nothing)
    counts.sinkTo(nothing)
    const edge = env.getGraph().edges.find((candidate) => candidate.sideTag !== null)
    assert.equal(edge?.sideTag, 'late')
    assert.equal(edge?.sideSchema, EVENTS)
  })

  test('settings of operators reach their nodes', () => {
    const env = environment()
    env
      .fromElements(1)
      .map((n) => n)
      .name('twice')
      .uid('step')
      .setParallelism(3)
      .setMaxParallelism(5)
      .setDescription('Doubles.')
      .disableChaining()
      .sinkTo(nothing)
      .name('out')
      .uid('sink')
    const [, map, sink] = env.getGraph().nodes
    const { name, uid, uidIsExplicit, parallelism, maxParallelism, chaining, description } = map!
    assert.deepEqual(
      { name, uid, uidIsExplicit, parallelism, maxParallelism, chaining, description },
      {
        name: 'twice',
        uid: 'step',
        uidIsExplicit: true,
        parallelism: 3,
        maxParallelism: 5,
        chaining: 'never',
        description: 'Doubles.',
      },
    )
    assert.equal(`${sink?.name} ${sink?.uid}`, 'out sink')
  })

  test('chaining is begun anew at an operator, or disabled for a whole job wherever that is said', () => {
    const env = environment()
    const stream = env.fromElements(1).map((n) => n)
    stream.startNewChain().sinkTo(nothing)
    const chaining = () => env.getGraph().nodes.map((node) => node.chaining)
    assert.deepEqual(chaining(), ['always', 'head', 'always'])
    env.disableOperatorChaining()
    assert.deepEqual(chaining(), ['never', 'never', 'never'])
  })

  test("alignment of watermarks is the source's, however it is given", () => {
    const strategy = WatermarkStrategy.noWatermarks().withWatermarkAlignment('g', seconds(5))
    const expected = { group: 'g', maxDriftMs: 5_000, updateIntervalMs: 1_000 }
    const env = environment()
    env.fromElements(1).assignTimestampsAndWatermarks(strategy).sinkTo(nothing)
    assert.deepEqual((env.getGraph().nodes[0] as SourceNode).watermarks?.alignment, expected)
    env
      .fromElements(1)
      .map((n) => n)
      .assignTimestampsAndWatermarks(strategy)
      .sinkTo(nothing)
    throwsCode('ALIGNMENT_NOT_AT_SOURCE', () => env.getGraph())
  })

  test('maximum parallelism: of the job it is the number of key groups, of an operator a limit', () => {
    const env = environment().setMaxParallelism(16)
    assert.equal(env.getSettings().maxParallelism, 16)
    throwsCode('PARALLELISM_INVALID', () => env.setMaxParallelism(32_769))
    throwsCode('PARALLELISM_INVALID', () => env.setMaxParallelism(0))
    env.fromElements(1).setMaxParallelism(2).setParallelism(3).sinkTo(nothing)
    throwsCode('PARALLELISM_TOO_HIGH', () => env.getGraph())
  })

  test('partitionings reach their edges', () => {
    const env = environment()
    const stream = env.fromElements({ id: 'a', n: 1 })
    stream.rescale().sinkTo(nothing)
    stream.shuffle().sinkTo(nothing)
    stream.forward().sinkTo(nothing)
    stream.partitionCustom((n, count) => n % count, 'n').sinkTo(nothing)
    const { edges } = env.getGraph()
    assert.deepEqual(
      edges.map(({ partitioning, mustForward }) => [partitioning, mustForward]),
      [
        ['rescale', undefined],
        ['shuffle', undefined],
        ['forward', true],
        ['custom', undefined],
      ],
    )
    const rows = batchOfRows(OPAQUE_SCHEMA, [{ n: 3 }, { n: 4 }])
    assert.deepEqual(edges[3]!.createTargets!()(rows, 3), [0, 1])
    const withSchema = env.fromCollection([{ a: 1 }], { schema: schema({ a: t.float64() }) })
    throwsCode('FIELD_UNKNOWN', () => withSchema.partitionCustom(() => 0, 'b' as 'a'))
  })

  test('a job definition builds a new and equal graph each time, with its settings', () => {
    const definition = job('j', (env) => {
      env.setParallelism(4).enableCheckpointing(seconds(2)).setStateBackend('rocksdb')
      env.fromElements(env.config['a'] ?? '').sinkTo(nothing)
    })
    const one = definition.build({ a: 'x' })
    const two = definition.build({ a: 'x' })
    assert.notEqual(one.graph, two.graph)
    assert.deepEqual(describeGraph(one.graph), describeGraph(two.graph))
    assert.equal(one.settings.parallelism, 4)
    assert.equal(one.settings.checkpointIntervalMs, 2_000)
    assert.equal(one.settings.stateBackend, 'rocksdb')
  })
})

describe('watermarks', () => {
  const strategy = WatermarkStrategy.forBoundedOutOfOrderness(seconds(1)).withTimestampAssigner('at')

  test('an assigner right after a source becomes part of it', () => {
    const env = environment()
    env.fromCollection(rows, { schema: EVENTS }).assignTimestampsAndWatermarks(strategy).sinkTo(nothing)
    const graph = env.getGraph()
    assert.deepEqual(shape(graph), ['0 Source: Collection', '1 Sink: nothing', '0->1 forward -'])
    assert.notEqual((graph.nodes[0] as SourceNode).watermarks, null)
  })

  test('an assigner stays an operator where it is not alone behind a bare source', () => {
    const shared = environment()
    const source = shared.fromCollection(rows, { schema: EVENTS })
    source.assignTimestampsAndWatermarks(strategy).sinkTo(nothing)
    source.sinkTo(nothing)
    const later = environment()
    later
      .fromCollection(rows, { schema: EVENTS })
      .filter(() => true)
      .assignTimestampsAndWatermarks(strategy)
      .sinkTo(nothing)
    const second = environment()
    second
      .fromCollection(rows, { schema: EVENTS })
      .assignTimestampsAndWatermarks(strategy)
      .assignTimestampsAndWatermarks(strategy)
      .sinkTo(nothing)
    for (const env of [shared, later, second]) {
      const names = env.getGraph().nodes.map((node) => node.name)
      assert.equal(names.filter((name) => name === 'Timestamps/Watermarks').length, 1, names.join())
    }
  })

  test('the uid of a folded assigner names the source', () => {
    const env = environment()
    env.fromCollection(rows, { schema: EVENTS }).assignTimestampsAndWatermarks(strategy).uid('events').sinkTo(nothing)
    assert.equal(env.getGraph().nodes[0]?.uid, 'events')
    assert.equal(env.getGraph().nodes[0]?.uidIsExplicit, true)
  })

  test("Flink's extractor reads the field that is there", () => {
    const env = environment()
    const events = [{ id: 'a', eventTime: 7 }]
    env
      .fromCollection(events, { schema: schema({ id: t.string(), eventTime: t.timestamp() }) })
      .assignTimestampsAndWatermarks(new BoundedOutOfOrdernessTimestampExtractor(5_000))
      .sinkTo(nothing)
    const source = env.getGraph().nodes[0] as SourceNode
    assert.notEqual(source.watermarks?.createAssigner, null)
  })
})

describe('uids', () => {
  const build = (firstName: string) => {
    const env = environment()
    const source = env.fromElements(1, 2, 3)
    source
      .map((n) => n)
      .name(firstName)
      .sinkTo(nothing)
    source.map((n) => n + 1).sinkTo(nothing)
    source.map((n) => n + 2).sinkTo(nothing)
    return env.getGraph().nodes.map((node) => node.uid)
  }

  test('are the same for the same program, and unique', () => {
    assert.deepEqual(build('x'), build('x'))
    assert.equal(new Set(build('x')).size, 7)
    assert.equal(new Set(build('Map')).size, 7)
  })

  test('of one branch do not depend on another', () => {
    const before = build('x')
    const after = build('y')
    assert.notEqual(before[1], after[1])
    assert.deepEqual(before.slice(3), after.slice(3))
  })

  test('given twice are an error that names both operators', () => {
    const env = environment()
    env
      .fromElements(1)
      .uid('same')
      .map((n) => n)
      .name('second')
      .uid('same')
      .sinkTo(nothing)
    assert.throws(
      () => env.getGraph(),
      (error) => error instanceof MillraceError && error.code === 'UID_DUPLICATE' && /"second"/.test(error.message),
    )
  })

  test('are checked', () => {
    for (const uid of ['', '../x', 'a b', `${'x'.repeat(129)}`]) {
      throwsCode('UID_INVALID', () => environment().fromElements(1).uid(uid))
    }
  })
})

describe('programs that cannot be jobs', () => {
  test('have no source or no sink', () => {
    throwsCode('GRAPH_EMPTY', () => environment().getGraph())
    const env = environment()
    env.fromElements(1).map((n) => n)
    throwsCode('GRAPH_WITHOUT_SINK', () => env.getGraph())
  })

  test('name unknown fields', () => {
    const stream = environment().fromCollection(rows, { schema: EVENTS })
    // @ts-expect-error there is no such field
    throwsCode('FIELD_UNKNOWN', () => stream.keyBy('nope'))
    throwsCode('FIELD_UNKNOWN', () =>
      // @ts-expect-error there is no such field
      stream.assignTimestampsAndWatermarks(WatermarkStrategy.noWatermarks().withTimestampAssigner('nope')),
    )
  })

  test('have impossible windows, parallelism or settings', () => {
    const env = environment()
    throwsCode('WINDOW_INVALID', () => TumblingEventTimeWindows.of(0))
    throwsCode('WINDOW_INVALID', () => TumblingEventTimeWindows.of(1_000, 1_000))
    throwsCode('WINDOW_INVALID', () => SlidingEventTimeWindows.of(1_000, 0))
    throwsCode('WINDOW_INVALID', () => CumulativeEventTimeWindows.of(1_000, 300))
    throwsCode('PARALLELISM_INVALID', () => env.setParallelism(0))
    throwsCode('PARALLELISM_INVALID', () => env.fromElements(1).setParallelism(1.5))
    throwsCode('DURATION_INVALID', () => env.enableCheckpointing(0))
    throwsCode('DURATION_INVALID', () => WatermarkStrategy.forBoundedOutOfOrderness(-1))
  })

  test('want columns that the stream does not have', () => {
    const keyed = environment()
      .fromCollection(rows)
      .keyBy((row) => row.id)
    throwsCode('SCHEMA_REQUIRED', () => keyed.window(TumblingEventTimeWindows.of(1)).aggregate({ n: count() }))
  })

  test('share a process function between subtasks', () => {
    const keyed = environment()
      .fromElements('a')
      .keyBy((s) => s)
    throwsCode('PROCESS_FUNCTION_SHARED', () => keyed.process<string>({ open: () => {}, processElement: () => {} }))
    assert.ok(keyed.process<string>(() => ({ open: () => {}, processElement: () => {} })))
    assert.ok(keyed.process<string>({ processElement: (value, _, collect) => collect(value) }))
  })

  test('are asynchronous', () => {
    const definition = job('j', async (env) => {
      env.fromElements(1).sinkTo(nothing)
    })
    throwsCode('JOB_ASYNC', () => definition.build())
  })
})
