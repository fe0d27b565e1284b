/**
 * The planner: what is chained, how edges spread, and that channels and key groups add up.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { GraphEdge, GraphNode, JobGraph } from '../contract/job-graph.ts'
import type { ChainingStrategy, Partitioning } from '../core/graph.ts'
import { keyGroupRange, subtaskOfKeyGroup } from '../core/keys.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { planChannels, planJob, ringCount, workerOf } from './planner.ts'

const PARTITIONINGS: readonly Partitioning[] = [
  'forward',
  'hash',
  'rebalance',
  'rescale',
  'shuffle',
  'broadcast',
  'global',
  'custom',
]

interface NodeOptions {
  readonly parallelism?: number
  readonly maxParallelism?: number
  readonly isKeyed?: boolean
  readonly chaining?: ChainingStrategy
  readonly role?: 'source' | 'operator'
}

function node(id: number, options: NodeOptions = {}): GraphNode {
  return {
    id,
    name: `n${id}`,
    uid: `u${id}`,
    uidIsExplicit: true,
    parallelism: options.parallelism ?? 0,
    maxParallelism: options.maxParallelism ?? 0,
    outputSchema: OPAQUE_SCHEMA,
    chaining: options.chaining ?? 'always',
    role: options.role ?? (id === 1 ? 'source' : 'operator'),
    isKeyed: options.isKeyed ?? false,
  } as unknown as GraphNode
}

function edge(
  from: number,
  to: number,
  partitioning: Partitioning = 'forward',
  sideTag: string | null = null,
): GraphEdge {
  return { from, to, partitioning, createKeys: null, sideTag }
}

const plan = (nodes: GraphNode[], edges: GraphEdge[], parallelism = 2, workers = 2) =>
  planJob({ nodes, edges }, { parallelism, workers, keyGroups: 128 })

const names = (nodes: GraphNode[], edges: GraphEdge[], parallelism?: number) =>
  plan(nodes, edges, parallelism).vertices.map((vertex) => vertex.name)

describe('chaining', () => {
  test('joins forward edges of equal parallelism', () => {
    assert.deepEqual(names([node(1), node(2), node(3)], [edge(1, 2), edge(2, 3)]), ['n1 -> n2 -> n3'])
  })

  test('stops at a keyBy, except between single subtasks', () => {
    const edges = [edge(1, 2, 'hash')]
    assert.deepEqual(names([node(1), node(2)], edges), ['n1', 'n2'])
    assert.deepEqual(names([node(1), node(2)], edges, 1), ['n1 -> n2'])
  })

  test('stops at every other partitioning, also between single subtasks', () => {
    for (const partitioning of PARTITIONINGS) {
      if (partitioning === 'forward' || partitioning === 'hash') continue
      assert.deepEqual(names([node(1), node(2)], [edge(1, 2, partitioning)], 1), ['n1', 'n2'])
    }
  })

  test('begins anew at a head, and leaves out what is to be alone', () => {
    const edges = [edge(1, 2), edge(2, 3)]
    const chained = (chaining: ChainingStrategy) => names([node(1), node(2, { chaining }), node(3)], edges)
    assert.deepEqual(chained('always'), ['n1 -> n2 -> n3'])
    assert.deepEqual(chained('head'), ['n1', 'n2 -> n3'])
    assert.deepEqual(chained('never'), ['n1', 'n2', 'n3'])
  })

  test('an edge that must be forward is refused between different parallelisms', () => {
    const forward = { ...edge(1, 2), mustForward: true }
    assert.deepEqual(names([node(1), node(2)], [forward]), ['n1 -> n2'])
    assert.throws(() => plan([node(1), node(2, { parallelism: 3 })], [forward]), { code: 'FORWARD_PARALLELISM' })
  })

  test('rescale connects each subtask with its share of the others', () => {
    const pairs = (from: number, to: number) =>
      planChannels(plan([node(1, { parallelism: from }), node(2, { parallelism: to })], [edge(1, 2, 'rescale')])).map(
        (channel) => `${channel.fromSubtask}-${channel.toSubtask}`,
      )
    assert.deepEqual(pairs(2, 4), ['0-0', '0-1', '1-2', '1-3'])
    assert.deepEqual(pairs(4, 2), ['0-0', '1-0', '2-1', '3-1'])
    assert.deepEqual(pairs(2, 3), ['0-0', '0-1', '1-2'])
    assert.deepEqual(pairs(3, 3), ['0-0', '1-1', '2-2'])
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 9 }), (from, to) => {
        const connected = pairs(from, to).map((pair) => pair.split('-').map(Number))
        assert.equal(connected.length, Math.max(from, to), 'the more numerous have one partner each')
        const shares = from < to ? connected.map(([f]) => f!) : connected.map(([, t]) => t!)
        const counts = Array.from({ length: Math.min(from, to) }, (_, i) => shares.filter((s) => s === i).length)
        assert.ok(Math.max(...counts) - Math.min(...counts) <= 1)
      }),
    )
  })

  test('stops where a node has several readers or several inputs, or a side output is read', () => {
    assert.deepEqual(names([node(1), node(2), node(3)], [edge(1, 2), edge(1, 3)]), ['n1', 'n2', 'n3'])
    const two = [node(1), node(2, { role: 'source' }), node(3)]
    assert.deepEqual(names(two, [edge(1, 3), edge(2, 3)]), ['n1', 'n2', 'n3'])
    assert.deepEqual(names([node(1), node(2)], [edge(1, 2, 'forward', 'late')]), ['n1', 'n2'])
    const withSide = [edge(1, 2), edge(1, 3, 'forward', 'late')]
    assert.deepEqual(names([node(1), node(2), node(3)], withSide), ['n1', 'n2', 'n3'])
  })

  test('a forward edge between different parallelisms becomes a rebalance', () => {
    const { vertices, edges } = plan([node(1), node(2, { parallelism: 3 })], [edge(1, 2)])
    assert.equal(vertices.length, 2)
    assert.equal(edges[0]!.partitioning, 'rebalance')
    const limited = plan([node(1), node(2, { maxParallelism: 1 })], [edge(1, 2)])
    assert.equal(limited.vertices[1]!.parallelism, 1)
    assert.equal(limited.edges[0]!.partitioning, 'rebalance')
  })

  test('changes of one row never part: no changelog is spread over subtasks', () => {
    const nodes = (to: number): GraphNode[] => [
      { ...node(1, { parallelism: 3 }), changelogMode: 'all' },
      node(2, { parallelism: to, isKeyed: true }),
    ]
    for (const partitioning of PARTITIONINGS) {
      const isSpread = ['forward', 'rebalance', 'rescale', 'shuffle'].includes(partitioning)
      const planned = () => plan(nodes(2), [edge(1, 2, partitioning)])
      if (isSpread) assert.throws(planned, { code: 'CHANGELOG_UNORDERED', message: /"n1".*"n2"/ })
      else assert.ok(planned())
      assert.ok(plan(nodes(1), [edge(1, 2, partitioning)]), 'one subtask gets all in order')
    }
    assert.ok(plan(nodes(3), [edge(1, 2)]))
  })

  test('refuses more subtasks than key groups for keyed operators only', () => {
    const wide = (isKeyed: boolean) => plan([node(1), node(2, { parallelism: 129, isKeyed })], [edge(1, 2)])
    assert.throws(() => wide(true), { code: 'PARALLELISM_TOO_HIGH' })
    assert.equal(wide(false).vertices[1]!.parallelism, 129)
  })
})

/** Any graph whose nodes come after what they read. */
const anyGraph: fc.Arbitrary<JobGraph> = fc
  .array(
    fc.record({
      parallelism: fc.integer({ min: 0, max: 5 }),
      chaining: fc.constantFrom('always' as const, 'head' as const, 'never' as const),
      inputs: fc.array(fc.tuple(fc.nat(), fc.constantFrom(...PARTITIONINGS), fc.boolean()), {
        minLength: 1,
        maxLength: 3,
      }),
    }),
    { minLength: 1, maxLength: 8 },
  )
  .map((specs) => ({
    nodes: [node(1), ...specs.map((spec, i) => node(i + 2, spec))],
    edges: specs.flatMap((spec, i) =>
      spec.inputs.map(([from, partitioning, side]) =>
        edge(1 + (from % (i + 1)), i + 2, partitioning, side ? 'tag' : null),
      ),
    ),
  }))

describe('plans of any graph', () => {
  test('hold every node once, every edge once, and connect every subtask', () => {
    fc.assert(
      fc.property(
        anyGraph,
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 4 }),
        (graph, parallelism, workers) => {
          const result = planJob(graph, { parallelism, workers, keyGroups: 128 })
          assert.deepEqual(
            planJob(graph, { parallelism, workers, keyGroups: 128 }),
            result,
            'the plan is deterministic',
          )
          const placed = result.vertices.flatMap((vertex) => vertex.nodes.map((n) => n.id)).sort((a, b) => a - b)
          assert.deepEqual(
            placed,
            graph.nodes.map((n) => n.id),
          )
          const used = [...result.vertices.flatMap((vertex) => vertex.links), ...result.edges.map((e) => e.edge)]
          assert.equal(used.length, graph.edges.length)
          assert.equal(new Set(used).size, graph.edges.length)

          const channels = planChannels(result)
          const seen = new Set(channels.map((c) => `${c.edge.id} ${c.fromSubtask} ${c.toSubtask}`))
          assert.equal(seen.size, channels.length, 'each channel appears once')
          const rings = channels.filter((c) => c.ring >= 0)
          assert.deepEqual(
            rings.map((c) => c.ring),
            rings.map((_, i) => i),
          )
          assert.equal(ringCount(channels), rings.length)
          for (const c of channels) {
            assert.equal(c.ring >= 0, workerOf(c.fromSubtask, workers) !== workerOf(c.toSubtask, workers))
          }
          for (const e of result.edges) {
            const mine = channels.filter((c) => c.edge === e)
            const from = result.vertices[e.from]!.parallelism
            const to = result.vertices[e.to]!.parallelism
            if (e.partitioning === 'forward') assert.equal(from, to)
            const count = { forward: from, rescale: Math.max(from, to) } as Partial<Record<Partitioning, number>>
            assert.equal(mine.length, count[e.partitioning] ?? from * to)
            // Every subtask hears from each edge: without watermarks and barriers it would neither cut nor end.
            assert.equal(new Set(mine.map((c) => c.toSubtask)).size, to)
            assert.equal(new Set(mine.map((c) => c.fromSubtask)).size, from)
          }
        },
      ),
    )
  })
})

test('every key group is owned by exactly one subtask, the one it is sent to (I7)', () => {
  for (let parallelism = 1; parallelism <= 128; parallelism++) {
    const owners = new Int32Array(128)
    for (let s = 0; s < parallelism; s++) {
      const { from, to } = keyGroupRange(s, parallelism, 128)
      for (let g = from; g < to; g++) {
        owners[g]!++
        assert.equal(subtaskOfKeyGroup(g, parallelism, 128), s)
      }
    }
    assert.ok(owners.every((count) => count === 1))
  }
})
