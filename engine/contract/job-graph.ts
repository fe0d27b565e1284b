/**
 * The job graph: what the API builds in every thread and the planner turns into tasks.
 *
 * Nodes carry factories, not serialised code: each worker imports the same module and builds the same
 * graph, and `describeGraph` is what the threads compare to be sure of it.
 */
import type { Batch, KeyColumn, Projection } from '../core/batch.ts'
import type { ChainingStrategy, Partitioning, RowTargets, WatermarkPlan } from '../core/graph.ts'
import type { ChangelogMode } from '../core/row-kinds.ts'
import { describeSchema, type Schema } from '../core/schema.ts'
import type { Operator } from './operator.ts'
import type { Sink } from './sink.ts'
import type { Source } from './source.ts'

interface NodeBase {
  readonly id: number
  readonly name: string
  /** Stable identity of state and sink markers over versions of the job. */
  uid: string
  /** True when the user chose the uid. */
  uidIsExplicit: boolean
  /** 0 means the job's default. */
  parallelism: number
  /** Never more subtasks than this; 0 means any. */
  maxParallelism: number
  readonly outputSchema: Schema
  readonly chaining: ChainingStrategy
  /** What it does, in the user's words; shown where the graph is. */
  readonly description?: string
  /** What its main output may hold; inserts only when left out. */
  readonly changelogMode?: ChangelogMode
}

export interface SourceNode extends NodeBase {
  readonly role: 'source'
  readonly source: Source
  readonly watermarks: WatermarkPlan | null
}

export interface OperatorNode extends NodeBase {
  readonly role: 'operator'
  readonly isKeyed: boolean
  readonly create: () => Operator
}

export interface SinkNode extends NodeBase {
  readonly role: 'sink'
  readonly sink: Sink
}

export type GraphNode = SourceNode | OperatorNode | SinkNode

export interface GraphEdge {
  readonly from: number
  readonly to: number
  readonly partitioning: Partitioning
  /** For `hash`: computes the keys in the sending subtask. Made once a subtask. */
  readonly createKeys: (() => (batch: Batch) => KeyColumn) | null
  /** Which input of the target this is, for a target that tells its inputs apart; 0 when left out. */
  readonly input?: number
  /** For `custom`: which subtask each row goes to. Made once a subtask. */
  readonly createTargets?: () => RowTargets
  /** `forward` was asked for: another parallelism is an error instead of a rebalance. */
  readonly mustForward?: boolean
  /** Reads a side output instead of the main one. */
  readonly sideTag: string | null
  /** The columns that the target reads, when it says so: others do not travel. */
  readonly projection?: Projection
  /** Schema of a side output's rows; opaque when left out. */
  readonly sideSchema?: Schema
}

export interface JobGraph {
  readonly nodes: readonly GraphNode[]
  readonly edges: readonly GraphEdge[]
}

/** One line a node and an edge: equal texts mean that two threads built the same graph. */
export function describeGraph(graph: JobGraph): string[] {
  const nodes = graph.nodes.map(
    (n) =>
      `operator ${n.id} "${n.name}" uid=${n.uid} role=${n.role} parallelism=${n.parallelism} schema=${describeSchema(n.outputSchema)}${n.changelogMode === undefined ? '' : ` changelog=${n.changelogMode}`}`,
  )
  const edges = graph.edges.map(
    (e) => `edge ${e.from}->${e.to} ${e.partitioning} side=${e.sideTag ?? '-'} input=${e.input ?? 0}`,
  )
  return [...nodes, ...edges]
}
