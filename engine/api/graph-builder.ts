/**
 * Collects what a program declares and turns it into the job graph. Used by the stream classes and the
 * environment only.
 *
 * A transformation stays changeable (`name`, `uid`, `setParallelism` come after it was made) until
 * `build`. There are decisions that need the whole program, so they are taken there: folding a timestamp
 * assigner into its source, and the uids.
 *
 * Invariants:
 * - The same program gives the same graph, node for node, in every thread: ids follow the order of
 *   declaration, and generated uids depend on names and positions only.
 * - Uids are unique in a graph.
 */
import type { GraphEdge, GraphNode, JobGraph } from '../contract/job-graph.ts'
import type { Operator } from '../contract/operator.ts'
import type { Sink } from '../contract/sink.ts'
import type { Source } from '../contract/source.ts'
import type { Batch, KeyColumn, Projection } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { ChainingStrategy, Partitioning, RowTargets, WatermarkPlan } from '../core/graph.ts'
import { murmur3 } from '../core/keys.ts'
import type { ChangelogMode } from '../core/row-kinds.ts'
import { OPAQUE_SCHEMA, type Schema } from '../core/schema.ts'

/** How a transformation reads another: one future edge. */
export interface Upstream {
  readonly from: Transformation
  readonly partitioning: Partitioning
  readonly createKeys: (() => (batch: Batch) => KeyColumn) | null
  readonly sideTag: string | null
  /** Which input of an operator that tells its inputs apart; 0 when left out. */
  readonly input?: number
  /** For `custom`. */
  readonly createTargets?: () => RowTargets
  /** See `GraphEdge`. */
  readonly mustForward?: boolean
}

export type TransformationBody =
  | { readonly role: 'source'; readonly source: Source; readonly watermarks: WatermarkPlan | null }
  | {
      readonly role: 'operator'
      readonly isKeyed: boolean
      readonly create: () => Operator
      /** The columns that it reads, when it does not need all. Its inputs are by key. */
      readonly projection?: Projection
      /** The changelogs that it takes; inserts only when left out. */
      readonly consumes?: ChangelogMode
    }
  /** An operator that becomes part of its source when it directly follows one. */
  | { readonly role: 'watermarks'; readonly plan: WatermarkPlan; readonly create: () => Operator }
  | { readonly role: 'sink'; readonly sink: Sink }

export interface Transformation {
  name: string
  uid: string | null
  parallelism: number
  maxParallelism: number
  chaining: ChainingStrategy
  description: string | null
  readonly outputSchema: Schema
  readonly inputs: readonly Upstream[]
  readonly body: TransformationBody
  /** What its main output may hold. */
  readonly changelogMode: ChangelogMode
  /** Schemas of side outputs whose rows are not opaque values, by tag. */
  readonly sideSchemas: Map<string, Schema>
}

export interface TransformationSpec {
  readonly name: string
  readonly outputSchema: Schema
  readonly inputs: readonly Upstream[]
  readonly body: TransformationBody
  /** Never more subtasks than this; 0 (the default) means any. */
  readonly maxParallelism?: number
  /** What its main output may hold; inserts only when left out. */
  readonly changelogMode?: ChangelogMode
}

const UID_PATTERN = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/

/** Throws `UID_INVALID` unless `uid` may name state and files. */
export function checkUid(uid: string): string {
  if (!UID_PATTERN.test(uid)) {
    throw new MillraceError('UID_INVALID', `The uid ${JSON.stringify(uid)} cannot be used.`, {
      hint: 'Use up to 128 letters, digits, and the characters _ . : - after the first.',
    })
  }
  return uid
}

/** Throws `PARALLELISM_INVALID` unless `parallelism` is a positive integer. */
export function checkParallelism(parallelism: number): number {
  if (!Number.isInteger(parallelism) || parallelism < 1) {
    throw new MillraceError('PARALLELISM_INVALID', `A parallelism of ${parallelism} is not possible.`, {
      hint: 'Give a whole number of subtasks, 1 or more.',
    })
  }
  return parallelism
}

/** Key groups have two bytes in every key of the state; Flink's limit is the same. */
const PARALLELISM_MAX = 32_768

/** Throws `PARALLELISM_INVALID` unless `maxParallelism` may be a limit of subtasks. */
export function checkMaxParallelism(maxParallelism: number): number {
  if (checkParallelism(maxParallelism) <= PARALLELISM_MAX) return maxParallelism
  throw new MillraceError('PARALLELISM_INVALID', `A maximum of ${maxParallelism} subtasks is not possible.`, {
    hint: `Give a whole number up to ${PARALLELISM_MAX}.`,
  })
}

export class GraphBuilder {
  private readonly transformations: Transformation[] = []

  /** Throws `CHANGELOG_UNSUPPORTED` for an input with changes that the operator does not take. */
  add(spec: TransformationSpec): Transformation {
    for (const { from, sideTag } of spec.inputs) if (sideTag === null) checkConsumes(spec, from)
    const made: Transformation = {
      name: spec.name,
      uid: null,
      parallelism: 0,
      maxParallelism: spec.maxParallelism ?? 0,
      chaining: 'always',
      description: null,
      outputSchema: spec.outputSchema,
      inputs: spec.inputs,
      body: spec.body,
      changelogMode: spec.changelogMode ?? 'insert-only',
      sideSchemas: new Map(),
    }
    this.transformations.push(made)
    return made
  }

  /** Throws `GRAPH_EMPTY`, `GRAPH_WITHOUT_SINK`, `UID_DUPLICATE` or `PARALLELISM_TOO_HIGH`. */
  build(options: { readonly isChainingDisabled: boolean } = { isChainingDisabled: false }): JobGraph {
    if (this.transformations.length === 0) {
      throw new MillraceError('GRAPH_EMPTY', 'The job has no sources.', {
        hint: 'Begin with env.fromSource(...) or env.fromElements(...).',
      })
    }
    if (!this.transformations.some((made) => made.body.role === 'sink')) {
      throw new MillraceError('GRAPH_WITHOUT_SINK', 'The job has no sinks, so it would compute nothing.', {
        hint: 'End a stream with sinkTo(...), addSink(...) or print(), or call executeAndCollect().',
      })
    }
    for (const made of this.transformations) checkWithinMaximum(made)
    const folded = this.foldedAssigners()
    for (const made of this.transformations) if (!folded.has(made)) checkAlignedAtSource(made)
    const uids = this.uids(folded)
    const ids = new Map<Transformation, number>()
    const nodes: GraphNode[] = []
    const edges: GraphEdge[] = []
    const plans = new Map([...folded].map(([assigner, source]) => [source, watermarksOf(assigner)]))
    for (const made of this.transformations) {
      const source = folded.get(made)
      if (source !== undefined) {
        ids.set(made, ids.get(source)!)
        continue
      }
      const id = nodes.length
      ids.set(made, id)
      const node = toNode(made, id, uids.get(made)!, plans.get(made) ?? null)
      nodes.push(options.isChainingDisabled ? { ...node, chaining: 'never' } : node)
      for (const input of made.inputs) edges.push(toEdge(input, ids.get(input.from)!, id, made.body))
    }
    return { nodes, edges }
  }

  /** Names of the sources that never end. */
  unboundedSources(): string[] {
    return this.transformations.flatMap(({ name, body }) =>
      body.role === 'source' && body.source.boundedness === 'unbounded' ? [name] : [],
    )
  }

  /** Assigners that are the only reader of a source without watermarks, each with that source. */
  private foldedAssigners(): Map<Transformation, Transformation> {
    const readers = new Map<Transformation, number>()
    for (const made of this.transformations) {
      for (const { from } of made.inputs) readers.set(from, (readers.get(from) ?? 0) + 1)
    }
    const folded = new Map<Transformation, Transformation>()
    for (const made of this.transformations) {
      if (made.body.role !== 'watermarks' || made.inputs.length !== 1) continue
      const { from, partitioning } = made.inputs[0]!
      const sameParallelism = made.parallelism === 0 || made.parallelism === from.parallelism
      if (
        from.body.role === 'source' &&
        from.body.watermarks === null &&
        readers.get(from) === 1 &&
        partitioning === 'forward' &&
        sameParallelism &&
        made.chaining === 'always'
      ) {
        folded.set(made, from)
      }
    }
    return folded
  }

  private uids(folded: ReadonlyMap<Transformation, Transformation>): Map<Transformation, string> {
    const uids = new Map<Transformation, string>()
    const seen = new Map<string, Transformation>()
    const repeats = new Map<string, number>()
    // A uid given to a folded assigner names the source, unless that has its own.
    const given = new Map<Transformation, string>()
    for (const [assigner, source] of folded) if (assigner.uid !== null) given.set(source, assigner.uid)
    for (const made of this.transformations) {
      const source = folded.get(made)
      if (source !== undefined) {
        uids.set(made, uids.get(source)!)
        continue
      }
      const explicit = made.uid ?? given.get(made) ?? null
      const uid = explicit ?? generatedUid(made, uids, repeats)
      const other = seen.get(uid)
      if (other !== undefined) {
        throw new MillraceError('UID_DUPLICATE', `"${other.name}" and "${made.name}" both have the uid "${uid}".`, {
          hint: 'State is found again by uid: give each operator its own with .uid(...).',
        })
      }
      seen.set(uid, made)
      uids.set(made, uid)
      if (explicit !== null) made.uid = explicit
    }
    return uids
  }
}

/** Flink's planner refuses the same: who would drop what a change means must not be given one. */
function checkConsumes({ name, body }: TransformationSpec, from: Transformation): void {
  const produced = from.changelogMode
  if (produced === 'insert-only') return
  const consumes = consumedMode(body)
  if (consumes === 'upsert' || consumes === produced) return
  const what = consumes === 'insert-only' ? 'consume update and delete changes' : 'consume changes without -U'
  throw new MillraceError('CHANGELOG_UNSUPPORTED', `"${name}" does not ${what}, which "${from.name}" produces.`, {
    hint:
      consumes === 'insert-only'
        ? 'Turn the changelog into rows that say what they do, by toChangelogStream(), or give the sink a key if it can have one.'
        : 'Call normalize() before this step: it adds what was there before each change.',
  })
}

function consumedMode(body: TransformationBody): ChangelogMode {
  if (body.role === 'sink') return body.sink.changelogMode ?? 'insert-only'
  return (body.role === 'operator' ? body.consumes : undefined) ?? 'insert-only'
}

/** The job's default parallelism is cut to an operator's maximum; one that was asked for is an error. */
function checkWithinMaximum({ name, parallelism, maxParallelism }: Transformation): void {
  if (maxParallelism === 0 || parallelism <= maxParallelism) return
  throw new MillraceError(
    'PARALLELISM_TOO_HIGH',
    `Operator "${name}" asks for ${parallelism} subtasks, and for ${maxParallelism} at most.`,
    { hint: 'Lower its parallelism, or raise its maximum.' },
  )
}

function checkAlignedAtSource({ name, body }: Transformation): void {
  const alignment = body.role === 'watermarks' ? body.plan.alignment : null
  if (alignment === null || alignment === undefined) return
  throw new MillraceError(
    'ALIGNMENT_NOT_AT_SOURCE',
    `"${name}" is to align watermarks in group "${alignment.group}", but only a source can wait.`,
    { hint: 'Give the strategy to fromSource, or assign it directly after the source.' },
  )
}

function watermarksOf(assigner: Transformation): WatermarkPlan | null {
  return assigner.body.role === 'watermarks' ? assigner.body.plan : null
}

/** Name, a hash of the inputs' uids and partitioning, and a counter for those that are the same. */
function generatedUid(
  made: Transformation,
  uids: ReadonlyMap<Transformation, string>,
  repeats: Map<string, number>,
): string {
  const inputs = made.inputs.map(
    (input) => `${uids.get(input.from)} ${input.partitioning} ${input.sideTag ?? ''}${inputText(input)}`,
  )
  const text = [made.body.role, made.name, ...inputs].join('\n')
  const nth = (repeats.get(text) ?? 0) + 1
  repeats.set(text, nth)
  const slug = made.name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '')
    .slice(0, 40)
  return `${slug === '' ? made.body.role : slug}-${hex(text)}${nth === 1 ? '' : `-${nth}`}`
}

/** Nothing for the first input, so that uids of operators with one input are what they always were. */
function inputText({ input }: Upstream): string {
  return input === undefined || input === 0 ? '' : ` ${input}`
}

function hex(text: string): string {
  const half = (prefix: string): string => {
    const bytes = Buffer.from(prefix + text)
    return (murmur3(bytes, 0, bytes.length) >>> 0).toString(16).padStart(8, '0')
  }
  return half('a') + half('b')
}

function toNode(made: Transformation, id: number, uid: string, plan: WatermarkPlan | null): GraphNode {
  const base = {
    id,
    name: made.name,
    uid,
    uidIsExplicit: made.uid !== null,
    parallelism: made.parallelism,
    maxParallelism: made.maxParallelism,
    outputSchema: made.outputSchema,
    chaining: made.chaining,
    ...(made.description === null ? {} : { description: made.description }),
    ...(made.changelogMode === 'insert-only' ? {} : { changelogMode: made.changelogMode }),
  }
  const body = made.body
  switch (body.role) {
    case 'source':
      return { ...base, role: 'source', source: body.source, watermarks: body.watermarks ?? plan }
    case 'operator':
      return { ...base, role: 'operator', isKeyed: body.isKeyed, create: body.create }
    case 'watermarks':
      return { ...base, role: 'operator', isKeyed: false, create: body.create }
    case 'sink':
      return { ...base, role: 'sink', sink: body.sink }
  }
}

function toEdge(input: Upstream, from: number, to: number, target: TransformationBody): GraphEdge {
  const { from: source, ...how } = input
  const { sideTag } = how
  const projection = target.role === 'operator' ? target.projection : undefined
  const edge = { from, to, ...how, ...(projection === undefined ? {} : { projection }) }
  return sideTag === null ? edge : { ...edge, sideSchema: source.sideSchemas.get(sideTag) ?? OPAQUE_SCHEMA }
}
