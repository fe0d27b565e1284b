/**
 * Builds the subtasks that a worker hosts: operators, source drivers, sink writers, channels, state.
 */

import type { KeyedBackend } from '../../state/keyed-backend.ts'
import { DEAD_LETTER_SINK, type DeadLetterWriter, deadLetterWriter } from '../checkpoint/dead-letters.ts'
import { createOutbox } from '../checkpoint/outbox.ts'
import type { OutboxMeter } from '../checkpoint/outbox-meter.ts'
import type { GraphEdge, OperatorNode, SinkNode, SourceNode } from '../contract/job-graph.ts'
import type { Operator, OperatorContext, OperatorCounters } from '../contract/operator.ts'
import type { SinkWriterContext } from '../contract/sink.ts'
import type { DeadLetter } from '../contract/source.ts'
import type { WorkerContext } from '../contract/worker-context.ts'
import { AccumulatorRegistry } from '../core/accumulators.ts'
import { MillraceError } from '../core/errors.ts'
import type { ChangelogMode } from '../core/row-kinds.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { MetricRegistry } from '../core/user-metrics.ts'
import { orderedInputs, sortsInputs } from './batch-inputs.ts'
import { Chain, type ChainLinkOptions } from './chain.ts'
import type { ChannelHub } from './channel-hub.ts'
import { type HostedOperator, HostedSubtask } from './hosted-subtask.ts'
import { type EdgeOutputOptions, OutputRouter } from './output-router.ts'
import type { SpillSpace } from './overflow.ts'
import { type ExecutionPlan, type PlannedChannel, type PlannedEdge, type PlannedVertex, workerOf } from './planner.ts'
import type { Deployment, FromWorker } from './protocol.ts'
import { SinkOperator } from './sink-operator.ts'
import { SourceDriver } from './source-driver.ts'
import type { WorkerState } from './state-restore.ts'
import { type InputChannel, Subtask } from './subtask.ts'
import { TaskTimes } from './task-times.ts'

export interface BuildOptions {
  readonly plan: ExecutionPlan
  readonly channels: readonly PlannedChannel[]
  readonly deployment: Deployment
  readonly hub: ChannelHub
  readonly state: WorkerState
  readonly worker: WorkerContext
  /** Null: what finds no room stays in memory. */
  readonly spillSpace: SpillSpace | null
  readonly outboxMeter: OutboxMeter
  readonly wake: () => void
  readonly fail: (error: unknown, where: string) => void
  readonly send: (message: FromWorker) => void
  readonly capture: (hosted: HostedSubtask, attempt: number, alignmentMs: number) => void
  readonly ended: () => void
}

/** Builds and opens every subtask of this worker; each is in `hosted` before anything of it is opened. */
export async function buildSubtasks(hosted: HostedSubtask[], options: BuildOptions): Promise<void> {
  for (const vertex of options.plan.vertices) {
    for (let subtask = 0; subtask < vertex.parallelism; subtask++) {
      if (workerOf(subtask, options.plan.workers) !== options.worker.workerIndex) continue
      await buildSubtask(hosted, options, vertex, subtask)
    }
  }
}

async function buildSubtask(
  all: HostedSubtask[],
  options: BuildOptions,
  vertex: PlannedVertex,
  index: number,
): Promise<void> {
  const router = new OutputRouter(outputsOf(options, vertex, index), options.spillSpace)
  const label = `${vertex.name} #${index}`
  const operators: HostedOperator[] = []
  const links: ChainLinkOptions[] = []
  let sink: { id: string; operator: SinkOperator } | null = null
  vertex.nodes.forEach((node, k) => {
    if (node.role === 'source') return
    const link = k === 0 ? null : vertex.links[k - 1]!
    const keys = link?.createKeys?.() ?? null
    const projection = link?.projection ?? null
    const counters: OperatorCounters = { lateDropped: 0, filtered: 0, coldReads: 0 }
    const { uid, name } = node
    const metrics = new MetricRegistry(() => options.worker.nowMs())
    const own = { uid, name, counters, metrics, accumulators: new AccumulatorRegistry() }
    if (node.role === 'sink') {
      const input = inputSchemaEdge(options, vertex, k)
      const place = { index, parallelism: vertex.parallelism, label, ...own }
      const operator = createSink(options, node, input, inputChangelogMode(options, vertex, k), place)
      sink = { id: node.uid, operator }
      operators.push({ ...own, operator, keyed: null })
      links.push({ operator, keys, projection })
      return
    }
    const { operator, keyed } = createOperator(options, node, index, vertex.parallelism, counters)
    operators.push({ ...own, operator, keyed })
    links.push({ operator, keys, projection, counters: keyed === null ? null : counters })
  })
  const times = new TaskTimes(vertex.nodes.length, () => options.worker.io.clock.monotonicMs())
  const { runtimeMode } = options.deployment
  const chain = new Chain(links, router, runtimeMode === 'batch', options.spillSpace, times)
  const openedSink = sink as { id: string; operator: SinkOperator } | null
  const first = vertex.nodes[0]!
  const deadLetters =
    first.role === 'source'
      ? deadLetterWriter(outboxOf(options, DEAD_LETTER_SINK, `${vertex.id}-${index}`, label))
      : null
  const source = first.role === 'source' ? createSource(options, first, vertex, index, deadLetters!, label) : null
  const hosted = new HostedSubtask({
    vertex,
    index,
    workerIndex: options.worker.workerIndex,
    operators,
    sink: openedSink,
    deadLetters,
    router,
    times,
  })
  hosted.subtask = new Subtask({
    chain,
    router,
    source,
    inputs: inputsOf(options, vertex, index),
    alignsBarriers: options.deployment.checkpointingMode === 'exactly-once',
    isBatch: options.deployment.runtimeMode === 'batch',
    monotonicMs: () => options.worker.io.clock.monotonicMs(),
    hooks: {
      capture: (attempt, alignmentMs) => options.capture(hosted, attempt, alignmentMs),
      ended: options.ended,
    },
  })
  all.push(hosted)
  operators.forEach((opened, k) => {
    const wake = (): void => {
      chain.wake(k)
      options.wake()
    }
    const schedule = (timeMs: number): void => chain.schedule(k, timeMs)
    opened.operator.open(operatorContext(options, vertex, index, opened, { schedule, wake }))
  })
  await openedSink?.operator.writer.open()
  await source?.open(options.deployment.splits[first.uid]?.[index] ?? [])
}

/** In batch execution the rows of what is sorted share the operator's memory with its keyed state. */
const SORT_SHARE = 1 / 2

function createOperator(
  { state, deployment, spillSpace }: BuildOptions,
  node: OperatorNode,
  index: number,
  parallelism: number,
  counters: OperatorCounters,
): { operator: Operator; keyed: KeyedBackend | null } {
  const made = node.create()
  const isBatch = deployment.runtimeMode === 'batch'
  const stateShare = isBatch && sortsInputs(made) ? 1 - SORT_SHARE : 1
  const keyed = node.isKeyed ? state.open(node.uid, index, parallelism, counters, stateShare) : null
  if (!isBatch) return { operator: made, keyed }
  const memoryBytesMax = state.memoryBudgetBytes * SORT_SHARE
  return { operator: orderedInputs(made, { space: spillSpace, keyed, memoryBytesMax }), keyed }
}

function operatorContext(
  options: BuildOptions,
  vertex: PlannedVertex,
  index: number,
  hosted: HostedOperator,
  calls: { readonly schedule: (timeMs: number) => void; readonly wake: () => void },
): OperatorContext {
  const node = vertex.nodes.find((candidate) => candidate.uid === hosted.uid)!
  return {
    name: node.name,
    uid: hosted.uid,
    subtask: index,
    parallelism: vertex.parallelism,
    worker: options.worker,
    attempt: options.deployment.run - 1,
    counters: hosted.counters,
    metrics: hosted.metrics,
    accumulators: hosted.accumulators,
    get keyed() {
      if (hosted.keyed !== null) return hosted.keyed
      throw new MillraceError('STATE_NOT_KEYED', `Operator "${node.name}" has no keyed state.`, {
        hint: 'Put a keyBy before it.',
      })
    },
    restored: options.deployment.operatorStates[hosted.uid] ?? [],
    scheduleProcessingTime: calls.schedule,
    isBatch: options.deployment.runtimeMode === 'batch',
    wake: calls.wake,
  }
}

/** The node whose rows arrive at position `k` of a vertex. */
function inputSchemaEdge(options: BuildOptions, vertex: PlannedVertex, k: number) {
  if (k > 0) return vertex.nodes[k - 1]!.outputSchema
  const planned = options.plan.edges.find((candidate) => candidate.to === vertex.id)!
  return channelSchema(options.plan, planned)
}

/** What the rows that arrive at position `k` of a vertex may be; sinks do not read side outputs of changelogs. */
function inputChangelogMode({ plan }: BuildOptions, vertex: PlannedVertex, k: number): ChangelogMode {
  if (k > 0) return vertex.nodes[k - 1]!.changelogMode ?? 'insert-only'
  const edges = plan.edges.filter(({ to, edge }) => to === vertex.id && edge.sideTag === null)
  const modes = edges.map(({ from }) => plan.vertices[from]!.nodes.at(-1)!.changelogMode)
  return modes.find((mode) => mode !== undefined) ?? 'insert-only'
}

function outboxOf(options: BuildOptions, sink: string, part: string, label: string) {
  const { deployment, worker } = options
  return createOutbox({
    disk: worker.io.disk,
    directory: deployment.checkpointDirectory,
    liveDirectory: deployment.liveDirectory,
    prefix: `g${deployment.generation}-r${deployment.run}-${sink.replace(/[^A-Za-z0-9_-]/g, '_')}-${part}`,
    onError: (error) => options.fail(error, label),
    onAppend: (bytes) => options.outboxMeter.add(bytes),
  })
}

function createSink(
  options: BuildOptions,
  node: SinkNode,
  input: GraphNodeSchema,
  changelogMode: ChangelogMode,
  place: Pick<HostedOperator, 'name' | 'metrics' | 'accumulators'> & {
    readonly index: number
    readonly parallelism: number
    readonly label: string
  },
): SinkOperator {
  const { deployment, worker } = options
  const { index, parallelism, label, name, metrics, accumulators } = place
  const target = input.isOpaque && node.sink.schema !== undefined ? node.sink.schema : input
  const contextOf = (operator: SinkOperator): SinkWriterContext => ({
    sinkId: node.uid,
    subtask: index,
    parallelism,
    attempt: deployment.generation * 1_000 + deployment.run,
    name,
    restarts: deployment.run - 1,
    metrics,
    accumulators,
    worker,
    schema: target,
    changelogMode,
    restored: deployment.operatorStates[node.uid] ?? [],
    currentWatermark: () => operator.watermark,
    createOutbox: () => outboxOf(options, node.uid, `${node.id}-${index}`, label),
    scratchDirectory: `${deployment.liveDirectory}/g${deployment.generation}-r${deployment.run}-sink-${node.id}-${index}`,
    wake: options.wake,
    fail: (error) => options.fail(error, label),
    post: (message) => options.send({ type: 'sinkMessage', sink: node.uid, message }),
  })
  return new SinkOperator((operator) => node.sink.createWriter(contextOf(operator)), input, target)
}

type GraphNodeSchema = SinkNode['outputSchema']

function createSource(
  options: BuildOptions,
  node: SourceNode,
  vertex: PlannedVertex,
  index: number,
  deadLetters: DeadLetterWriter,
  label: string,
): SourceDriver {
  return new SourceDriver(node, {
    subtask: index,
    parallelism: vertex.parallelism,
    worker: options.worker,
    checkpointing: options.deployment.checkpointIntervalMs !== null,
    wake: options.wake,
    fail: (error) => options.fail(error, label),
    deadLetter: (letter: DeadLetter) => deadLetters.write(letter),
  })
}

function outputsOf(options: BuildOptions, vertex: PlannedVertex, index: number): EdgeOutputOptions[] {
  const { plan, channels, hub, deployment } = options
  return plan.edges
    .filter((edge) => edge.from === vertex.id)
    .map((planned) => {
      const edge: GraphEdge = planned.edge
      const writers = channels.flatMap((channel, c) =>
        channel.edge === planned && channel.fromSubtask === index ? [hub.writer(c, channel)] : [],
      )
      return {
        partitioning: planned.partitioning,
        keys: edge.createKeys?.() ?? null,
        targets: edge.createTargets?.() ?? null,
        random: () => options.worker.io.random.next(),
        projection: edge.projection ?? null,
        sideTag: edge.sideTag,
        writers,
        keyGroups: deployment.keyGroups,
        subtask: index,
      }
    })
}

function inputsOf(options: BuildOptions, vertex: PlannedVertex, index: number): InputChannel[] {
  const { plan, channels, hub } = options
  return channels.flatMap((channel, c) => {
    if (channel.edge.to !== vertex.id || channel.toSubtask !== index) return []
    const reader = hub.reader(c, channel, channelSchema(plan, channel.edge))
    return [{ reader, input: channel.edge.edge.input ?? 0 }]
  })
}

/** Schema of the rows on an edge: of the side output that it reads, or of the main one. */
function channelSchema(plan: ExecutionPlan, { edge, from }: PlannedEdge): GraphNodeSchema {
  if (edge.projection !== undefined) return edge.projection.schema
  if (edge.sideTag !== null) return edge.sideSchema ?? OPAQUE_SCHEMA
  return plan.vertices[from]!.nodes.at(-1)!.outputSchema
}
