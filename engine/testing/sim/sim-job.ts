/**
 * The jobs that are simulated: a random small shape from the seed, its input, and its graph.
 *
 * Called by sim-run.ts. Every worker builds the graph anew, as in reality; what must outlive a process
 * (the outside system) comes in through `SimJobWorld`.
 */
import type { GraphEdge, GraphNode, JobGraph } from '../../contract/job-graph.ts'
import type { Operator } from '../../contract/operator.ts'
import type { OutboxSegment, Sink } from '../../contract/sink.ts'
import type { Source, SourceReader, SplitState } from '../../contract/source.ts'
import type { Batch } from '../../core/batch.ts'
import type { WatermarkGenerator, WatermarkPlan } from '../../core/graph.ts'
import type { JsonValue } from '../../core/json-value.ts'
import { fieldKeyExtractor } from '../../core/keys.ts'
import { batchOfRows } from '../../core/rows.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { SimExternal, SinkRow } from './sim-external.ts'
import { float, INPUT, NUMBERED, Numbering, outsideRequests, text, WINDOWED, windowCounts } from './sim-operators.ts'
import { type Scope, SIM_START_MS } from './sim-scheduler.ts'

export interface SimJobShape {
  readonly splits: number
  readonly rowsPerSplit: number
  readonly keys: number
  readonly parallelism: number
  readonly workers: number
  readonly keyGroups: number
  /** Batches that a channel holds. */
  readonly channelCapacity: number
  readonly batchRows: number
  /** Longest pause between two batches of a reader. */
  readonly pauseMsMax: number
  readonly intervalMs: number
  readonly timeoutMs: number
  readonly hasSecondHop: boolean
  readonly hasWindows: boolean
  readonly windowMs: number
  /** Events are out of order by at most this. */
  readonly disorderMs: number
  /** One record in so many has an impossible time; 0 for none. */
  readonly badEvery: number
  /** Subtasks of the source read no further ahead of each other than this; null for any distance. */
  readonly driftMs: number | null
  /** How the windows' input asks an outside system about each record before; null: it does not. */
  readonly requests: { readonly isOrdered: boolean; readonly capacity: number; readonly latencyMsMax: number } | null
  /** Share of offers that a sink's writer does not take whole. */
  readonly slowSinkRate: number
}

export function randomShape(random: SeededRandom): SimJobShape {
  return {
    splits: random.between(1, 4),
    rowsPerSplit: random.between(5, 60),
    keys: random.between(1, 9),
    parallelism: random.between(1, 4),
    workers: random.between(1, 3),
    keyGroups: random.pick([4, 7, 16]),
    channelCapacity: random.between(1, 2),
    batchRows: random.between(1, 6),
    pauseMsMax: random.between(1, 12),
    intervalMs: random.between(5, 60),
    timeoutMs: random.between(40, 400),
    hasSecondHop: random.chance(0.5),
    hasWindows: random.chance(0.6),
    windowMs: random.between(20, 200),
    disorderMs: random.between(0, 30),
    badEvery: random.chance(0.4) ? random.between(4, 15) : 0,
    slowSinkRate: random.chance(0.4) ? 0.3 : 0,
    driftMs: random.chance(0.3) ? random.between(0, 300) : null,
    requests: random.chance(0.5)
      ? { isOrdered: random.chance(0.5), capacity: random.between(1, 8), latencyMsMax: random.between(1, 60) }
      : null,
  }
}

export interface InputRow {
  readonly key: string
  readonly id: number
  readonly time: number
  readonly group: string
}

/** Row `i` of a split: fixed, so that every run and the model agree. */
export function inputRow(shape: SimJobShape, split: number, i: number): InputRow {
  const key = (split * 31 + i * 7 + ((i * i) % 5)) % shape.keys
  const isBad = shape.badEvery > 0 && (i + split) % shape.badEvery === 0
  const disorder = shape.disorderMs === 0 ? 0 : (i * 13) % (shape.disorderMs + 1)
  const time = isBad ? -1 : SIM_START_MS - 3_600_000 + i * 11 - disorder
  return { key: `key-${key}`, id: split * 1_000 + i, time, group: `group-${key % 2}` }
}

export function isBadRow(row: InputRow): boolean {
  return row.time < 0
}

/** What a process's graph shares with the world outside. */
export interface SimJobWorld {
  readonly shape: SimJobShape
  readonly external: SimExternal
  readonly random: SeededRandom
  /** The process that runs the graph. */
  readonly scope: Scope
  /** Set to make the next poll of any reader throw. */
  readonly pollFailure: { armed: boolean }
  /** Removes segments before the transaction: a planted fault. */
  readonly beforeCommit: ((segments: readonly OutboxSegment[]) => Promise<void>) | null
  /** Positions are captured this many rows too far: a planted fault. */
  readonly offsetsLateRows: number
}

function boundedDisorder(disorderMs: number): WatermarkGenerator {
  let watermark = Number.NEGATIVE_INFINITY
  return {
    onBatch(eventTimes, count) {
      for (let i = 0; i < count; i++) watermark = Math.max(watermark, eventTimes[i]! - disorderMs - 1)
    },
    current: () => watermark,
    restore(restored) {
      watermark = restored
    },
  }
}

function watermarksOf(shape: SimJobShape): WatermarkPlan {
  return {
    createGenerator: () => boundedDisorder(shape.disorderMs),
    createAssigner: () => (batch: Batch) =>
      Float64Array.from({ length: batch.length }, (_, i) => float(batch.columns[2]!, i)),
    idleAfterMs: null,
    alignment: shape.driftMs === null ? null : { group: 'all', maxDriftMs: shape.driftMs, updateIntervalMs: 5 },
  }
}

function source(world: SimJobWorld): Source {
  const { shape } = world
  return {
    kind: 'simulated',
    schema: INPUT,
    boundedness: 'bounded',
    splits: async () => Array.from({ length: shape.splits }, (_, i) => ({ id: String(i), position: 0 })),
    createReader: (context) => createReader(world, context.worker.io.timers.schedule, () => context.wake()),
  }
}

function createReader(
  world: SimJobWorld,
  schedule: (delayMs: number, task: () => void) => () => void,
  wake: () => void,
): SourceReader {
  const { shape, random } = world
  let splits: { id: string; next: number }[] = []
  let isPaused = false
  let cancelPause: () => void = () => {}
  return {
    async open(assigned: readonly SplitState[]) {
      splits = assigned.map((split) => ({ id: split.id, next: split.position as number }))
    },
    poll() {
      if (world.pollFailure.armed) {
        world.pollFailure.armed = false
        throw new Error('planned failure of a reader')
      }
      const open = splits.filter((split) => split.next < shape.rowsPerSplit)
      if (open.length === 0) return { kind: 'end' }
      if (isPaused) return { kind: 'pending' }
      if (random.chance(0.5)) {
        isPaused = true
        cancelPause = schedule(random.next() * shape.pauseMsMax, () => {
          isPaused = false
          wake()
        })
      }
      const split = random.pick(open)
      const from = split.next
      split.next = Math.min(shape.rowsPerSplit, from + random.between(1, shape.batchRows))
      const offsets = Float64Array.from({ length: split.next - from }, (_, k) => from + k)
      const rows = Array.from(offsets, (i) => inputRow(shape, Number(split.id), i))
      return { kind: 'batch', split: split.id, batch: batchOfRows(INPUT, rows), offsets }
    },
    snapshot: () =>
      splits.map(({ id, next }) => ({ id, position: Math.min(shape.rowsPerSplit, next + world.offsetsLateRows) })),
    async close() {
      cancelPause()
    },
  }
}

function sink(world: SimJobWorld, toRow: (batch: Batch, i: number) => SinkRow): Sink {
  const { external, random, shape, scope } = world
  return {
    kind: 'simulated',
    guarantee: 'exactly-once',
    createWriter(context) {
      const outbox = context.createOutbox()
      let isFull = false
      return {
        async open() {},
        write(batch, from) {
          if (isFull) return from
          let to = batch.length
          if (random.chance(shape.slowSinkRate)) {
            to = random.between(from, batch.length)
            isFull = true
            context.worker.io.timers.schedule(random.next() * 10, () => {
              isFull = false
              context.wake()
            })
          }
          for (let i = from; i < to; i++) outbox.append(Buffer.from(JSON.stringify(toRow(batch, i))))
          if (random.chance(0.3)) outbox.flush().catch((error: unknown) => context.fail(error))
          return to
        },
        prepareCommit: async () => (await outbox.seal()) as JsonValue | null,
        close: () => outbox.close(),
      }
    },
    createCommitter(context) {
      let owner = 0
      return {
        async open() {
          owner = await external.claim(scope, context.sinkId)
        },
        readMarker: () => external.readMarker(scope, context.sinkId),
        async commit(epoch, committables) {
          const segments = committables as unknown as readonly OutboxSegment[]
          const rows: SinkRow[] = []
          for (const segment of segments) {
            for await (const record of context.readOutbox(segment)) {
              rows.push(JSON.parse(Buffer.from(record).toString()) as SinkRow)
            }
          }
          await world.beforeCommit?.(segments)
          await external.transact(scope, context.sinkId, owner, epoch, rows)
        },
        async close() {},
      }
    },
  }
}

const COMMON = { uidIsExplicit: true, parallelism: 0, maxParallelism: 0, chaining: 'always' as const }

function operatorNode(
  id: number,
  uid: string,
  outputSchema: GraphNode['outputSchema'],
  create: Extract<GraphNode, { role: 'operator' }>['create'],
): GraphNode {
  return { ...COMMON, id, name: uid, uid, role: 'operator', outputSchema, isKeyed: true, create }
}

function sinkNode(id: number, uid: string, outputSchema: GraphNode['outputSchema'], node: Sink): GraphNode {
  return { ...COMMON, id, name: uid, uid, role: 'sink', outputSchema, sink: node }
}

function hashEdge(from: number, to: number, schema: GraphNode['outputSchema'], field: number): GraphEdge {
  return { from, to, partitioning: 'hash', createKeys: () => fieldKeyExtractor(schema, field), sideTag: null }
}

function forwardEdge(from: number, to: number): GraphEdge {
  return { from, to, partitioning: 'forward', createKeys: null, sideTag: null }
}

/** Sink ids of the graph: `numbers` always, `windows` when the shape has windows. */
export function buildGraph(world: SimJobWorld): JobGraph {
  const { shape } = world
  const nodes: GraphNode[] = [
    {
      ...COMMON,
      id: 1,
      name: 'input',
      uid: 'input',
      role: 'source',
      outputSchema: INPUT,
      source: source(world),
      watermarks: watermarksOf(shape),
    },
    operatorNode(2, 'numbering', NUMBERED, () => new Numbering(1)),
  ]
  const edges: GraphEdge[] = [hashEdge(1, 2, INPUT, 0)]
  if (shape.hasSecondHop) {
    nodes.push(operatorNode(3, 'regroup', NUMBERED, () => new Numbering(2)))
    edges.push(hashEdge(2, 3, NUMBERED, 3))
  }
  const numbered = sink(world, (batch, i) => ({
    key: text(batch.columns[0]!, i),
    id: float(batch.columns[1]!, i),
    number: float(batch.columns[2]!, i),
    group: text(batch.columns[3]!, i),
  }))
  nodes.push(sinkNode(4, 'numbers', NUMBERED, numbered))
  edges.push(forwardEdge(shape.hasSecondHop ? 3 : 2, 4))
  if (shape.hasWindows) {
    nodes.push(operatorNode(5, 'windowing', WINDOWED, () => windowCounts(shape.windowMs)))
    const asks = shape.requests
    if (asks === null) edges.push(hashEdge(1, 5, INPUT, 0))
    else {
      const create = (): Operator => outsideRequests(asks, () => world.random.next())
      // Before the windows: a node comes after what it reads.
      const windowing = nodes.pop()!
      nodes.push({ ...operatorNode(7, 'asking', INPUT, create), isKeyed: false } as GraphNode, windowing)
      edges.push(forwardEdge(1, 7), hashEdge(7, 5, INPUT, 0))
    }
    const windowed = sink(world, (batch, i) => ({
      key: text(batch.columns[0]!, i),
      start: float(batch.columns[1]!, i),
      count: float(batch.columns[2]!, i),
    }))
    nodes.push(sinkNode(6, 'windows', WINDOWED, windowed))
    edges.push(forwardEdge(5, 6))
  }
  return { nodes, edges }
}
