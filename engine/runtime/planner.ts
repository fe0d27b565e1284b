/**
 * Turns the job graph into tasks: decides parallelism, chains operators, and places subtasks.
 *
 * Pure and deterministic: the coordinator and every worker plan the same graph with the same options and
 * must get the same plan. Subtask s of every task runs on worker s % workers, so one worker holds a
 * slice of the whole job (Flink's slot sharing).
 *
 * An operator is chained to its input when nothing else reads that input, it reads nothing else, neither
 * asks to be apart, and records would only ever go to the subtask at the same index: a forward edge, or a
 * keyBy between two operators of one subtask each.
 */
import type { GraphEdge, GraphNode, JobGraph } from '../contract/job-graph.ts'
import { MillraceError } from '../core/errors.ts'
import type { Partitioning } from '../core/graph.ts'

export interface PlannedVertex {
  readonly id: number
  readonly name: string
  /** Uid of the first operator. */
  readonly uid: string
  readonly role: 'source' | 'operator' | 'sink'
  readonly parallelism: number
  readonly nodes: readonly GraphNode[]
  /** Edge into nodes[i] for i > 0. */
  readonly links: readonly GraphEdge[]
}

export interface PlannedEdge {
  readonly id: number
  readonly from: number
  readonly to: number
  readonly partitioning: Partitioning
  readonly edge: GraphEdge
}

export interface ExecutionPlan {
  readonly vertices: readonly PlannedVertex[]
  readonly edges: readonly PlannedEdge[]
  readonly workers: number
}

/** A pipe between two subtasks. */
export interface PlannedChannel {
  readonly edge: PlannedEdge
  readonly fromSubtask: number
  readonly toSubtask: number
  /** Number among the channels between workers, or -1 inside one worker. */
  readonly ring: number
}

export interface PlanOptions {
  readonly parallelism: number
  /** At least 1. */
  readonly workers: number
  readonly keyGroups: number
}

export function workerOf(subtask: number, workers: number): number {
  return subtask % workers
}

export function planJob(graph: JobGraph, options: PlanOptions): ExecutionPlan {
  const parallelism = new Map(graph.nodes.map((node) => [node.id, parallelismOf(node, options)]))
  const incoming = groupBy(graph.edges, (edge) => edge.to)
  const outgoing = groupBy(graph.edges, (edge) => edge.from)
  const nodes = new Map(graph.nodes.map((node) => [node.id, node]))
  const partitioningOf = (edge: GraphEdge): Partitioning => {
    const [from, to] = [parallelism.get(edge.from)!, parallelism.get(edge.to)!]
    const isResized = edge.partitioning === 'forward' && from !== to
    const partitioning = isResized ? 'rebalance' : edge.partitioning
    if (to > 1) checkOrdered(edge, partitioning, nodes)
    if (!isResized || edge.mustForward !== true) return partitioning
    throw new MillraceError(
      'FORWARD_PARALLELISM',
      `"${nodes.get(edge.from)!.name}" has ${from} subtasks and "${nodes.get(edge.to)!.name}" ${to}: forward() needs as many.`,
      { hint: 'Give both the same parallelism, or use rescale() or rebalance().' },
    )
  }
  const chainedInto = (edge: GraphEdge, target: GraphNode): boolean => {
    if (target.chaining !== 'always' || nodes.get(edge.from)!.chaining === 'never') return false
    if (edge.sideTag !== null) return false
    if (outgoing.get(edge.from)!.length !== 1 || incoming.get(edge.to)!.length !== 1) return false
    const partitioning = partitioningOf(edge)
    const single = parallelism.get(edge.from) === 1 && parallelism.get(edge.to) === 1
    return partitioning === 'forward' || (partitioning === 'hash' && single)
  }

  const vertices: { nodes: GraphNode[]; links: GraphEdge[] }[] = []
  const vertexOf = new Map<number, number>()
  const edges: GraphEdge[] = []
  for (const node of graph.nodes) {
    const inputs = incoming.get(node.id) ?? []
    const only = inputs[0]
    if (only !== undefined && chainedInto(only, node)) {
      const vertex = vertexOf.get(only.from)!
      vertices[vertex]!.nodes.push(node)
      vertices[vertex]!.links.push(only)
      vertexOf.set(node.id, vertex)
    } else {
      vertexOf.set(node.id, vertices.length)
      vertices.push({ nodes: [node], links: [] })
      edges.push(...inputs)
    }
  }
  return {
    vertices: vertices.map(({ nodes, links }, id) => ({
      id,
      name: nodes.map((node) => node.name).join(' -> '),
      uid: nodes[0]!.uid,
      role: nodes[0]!.role === 'source' ? 'source' : nodes.at(-1)!.role,
      parallelism: parallelism.get(nodes[0]!.id)!,
      nodes,
      links,
    })),
    edges: edges.map((edge, id) => ({
      id,
      from: vertexOf.get(edge.from)!,
      to: vertexOf.get(edge.to)!,
      partitioning: partitioningOf(edge),
      edge,
    })),
    workers: options.workers,
  }
}

/** Throws `CHANGELOG_UNORDERED` for an edge that sends changes of one row to several subtasks. */
function checkOrdered(edge: GraphEdge, partitioning: Partitioning, nodes: ReadonlyMap<number, GraphNode>): void {
  const [from, to] = [nodes.get(edge.from)!, nodes.get(edge.to)!]
  if (from.changelogMode === undefined || edge.sideTag !== null || !SPREADING.has(partitioning)) return
  throw new MillraceError(
    'CHANGELOG_UNORDERED',
    `Changes from "${from.name}" would go to any of the subtasks of "${to.name}", so that they lose their order.`,
    { hint: 'Give both the same parallelism, or one subtask to the second.' },
  )
}

/** Partitionings by which rows with the same content do not always meet. */
const SPREADING: ReadonlySet<Partitioning> = new Set(['rebalance', 'rescale', 'shuffle'])

function parallelismOf(node: GraphNode, options: PlanOptions): number {
  const wanted = node.parallelism === 0 ? options.parallelism : node.parallelism
  const parallelism = node.maxParallelism === 0 ? wanted : Math.min(wanted, node.maxParallelism)
  if (node.role === 'operator' && node.isKeyed && parallelism > options.keyGroups) {
    throw new MillraceError(
      'PARALLELISM_TOO_HIGH',
      `Operator "${node.name}" asks for ${parallelism} subtasks, but there are ${options.keyGroups} key groups.`,
      { hint: 'Lower its parallelism, or start a new job with more key groups.' },
    )
  }
  return parallelism
}

function groupBy<T>(items: readonly T[], key: (item: T) => number): Map<number, T[]> {
  const groups = new Map<number, T[]>()
  for (const item of items) {
    const group = groups.get(key(item))
    if (group === undefined) groups.set(key(item), [item])
    else group.push(item)
  }
  return groups
}

/** Every channel of the plan, in a fixed order. */
export function planChannels(plan: ExecutionPlan): PlannedChannel[] {
  const channels: PlannedChannel[] = []
  let rings = 0
  const add = (edge: PlannedEdge, fromSubtask: number, toSubtask: number): void => {
    const crosses = workerOf(fromSubtask, plan.workers) !== workerOf(toSubtask, plan.workers)
    channels.push({ edge, fromSubtask, toSubtask, ring: crosses ? rings++ : -1 })
  }
  for (const edge of plan.edges) {
    const from = plan.vertices[edge.from]!.parallelism
    const to = plan.vertices[edge.to]!.parallelism
    for (let f = 0; f < from; f++) {
      // `global` too: subtasks that get no rows still need watermarks, barriers and the end.
      const [first, end] = targetsOf(edge.partitioning, f, from, to)
      for (let t = first; t < end; t++) add(edge, f, t)
    }
  }
  return channels
}

/** Subtasks [first, end) of the target that subtask `f` sends to. */
function targetsOf(partitioning: Partitioning, f: number, from: number, to: number): [number, number] {
  if (partitioning === 'forward') return [f, f + 1]
  if (partitioning !== 'rescale') return [0, to]
  // The fewer subtasks of both sides share the more out among them, in runs as equal as can be.
  if (from >= to) return [Math.floor((f * to) / from), Math.floor((f * to) / from) + 1]
  return [Math.ceil((f * to) / from), Math.ceil(((f + 1) * to) / from)]
}

export function ringCount(channels: readonly PlannedChannel[]): number {
  return channels.reduce((count, channel) => count + (channel.ring >= 0 ? 1 : 0), 0)
}
