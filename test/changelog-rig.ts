/**
 * Runs the operators of a job graph as the engine may: subtasks that take turns at random, channels between each two of
 * them, batches of few rows, cuts restored at another parallelism. What the sink gets is kept as the table that it makes.
 *
 * Used by changelogs.test.ts. On every output it checks what row-kinds.ts promises: pairs are whole, and what is taken
 * back was sent and is there.
 */
import assert from 'node:assert/strict'
import type { GraphEdge, JobGraph, OperatorNode } from '../engine/contract/job-graph.ts'
import type { Output } from '../engine/contract/operator.ts'
import { type Batch, gatherBatch, sliceBatch, withKeys } from '../engine/core/batch.ts'
import { keyGroupOf, subtaskOfKeyGroup } from '../engine/core/keys.ts'
import { cutBetweenPairs, isRetraction, kindAt, RowKind } from '../engine/core/row-kinds.ts'
import { batchOfRows, rowReader } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { copyBatch } from '../engine/runtime/wire.ts'
import type { SeededRandom } from '../engine/testing/sim/seeded-random.ts'
import { KEY_GROUPS, OperatorRig } from '../operators/operator.testkit.ts'

export const rowText = (row: unknown): string =>
  JSON.stringify(row, (_, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value))

/** The rows that a changelog of mode `all` has made, with how often each is there. */
export class Materialized {
  readonly counts = new Map<string, number>()
  private readonly where: string

  constructor(where: string) {
    this.where = where
  }

  apply(batch: Batch): void {
    const read = rowReader(batch.schema, new StringInterner(), 'materialized')
    const { kinds } = batch
    for (let i = 0; i < batch.length; i++) {
      const kind = kindAt(kinds, i)
      if (kind === RowKind.UPDATE_BEFORE) {
        assert.equal(kinds![i + 1], RowKind.UPDATE_AFTER, `${this.where}: a -U stands before its +U`)
      }
      if (kind === RowKind.UPDATE_AFTER) {
        assert.ok(i > 0 && kinds![i - 1] === RowKind.UPDATE_BEFORE, `${this.where}: a +U stands after its -U`)
      }
      const text = rowText(read(batch, i))
      const count = (this.counts.get(text) ?? 0) + (isRetraction(kind) ? -1 : 1)
      assert.ok(count >= 0, `${this.where}: ${text} was taken back and not there`)
      if (count === 0) this.counts.delete(text)
      else this.counts.set(text, count)
    }
  }

  rows(): string[] {
    return [...this.counts].flatMap(([text, count]) => new Array<string>(count).fill(text)).sort()
  }
}

interface Channel {
  readonly edge: GraphEdge
  readonly to: number
  readonly waiting: Batch[]
}

interface Place {
  readonly node: OperatorNode
  readonly rig: OperatorRig
  readonly table: Materialized | null
}

export interface RigWay {
  readonly parallelism: number
  readonly batchRows: number
  readonly memoryBudgetBytes: number
}

export class ChangelogRig {
  /** What came out at the sink, by batch. */
  readonly results: Batch[] = []
  private readonly graph: JobGraph
  private readonly random: SeededRandom
  private readonly batchRows: number
  private readonly places = new Map<number, Place>()
  /** By edge, sending and receiving subtask. */
  private readonly channels = new Map<string, Channel>()

  constructor(graph: JobGraph, random: SeededRandom, way: RigWay) {
    this.graph = graph
    this.random = random
    this.batchRows = way.batchRows
    for (const node of graph.nodes) {
      if (node.role !== 'operator') continue
      const inputs = graph.edges
        .filter((edge) => edge.to === node.id)
        .map((edge) => ({ schema: graph.nodes[edge.from]!.outputSchema, createKeys: edge.createKeys }))
      const rig = new OperatorRig({
        create: node.create,
        ...inputs[0]!,
        moreInputs: inputs.slice(1),
        parallelism: node.isKeyed ? way.parallelism : 1,
        memoryBudgetBytes: way.memoryBudgetBytes,
      })
      const table = node.changelogMode === 'upsert' ? null : new Materialized(`${node.name} ${node.id}`)
      this.places.set(node.id, { node, rig, table })
    }
  }

  /** Rows of the `nth` source, which the engine may deliver while others are under way. */
  send(nth: number, rows: readonly unknown[]): void {
    const source = this.graph.nodes.filter((node) => node.role === 'source')[nth]!
    for (let at = 0; at < rows.length; at += this.batchRows) {
      this.emit(source.id, 0, batchOfRows(OPAQUE_SCHEMA, rows.slice(at, at + this.batchRows)))
      if (this.random.chance(0.5)) this.step()
    }
  }

  /** Until nothing is under way. */
  settle(): void {
    while (this.step()) {
      // Each step delivers a batch.
    }
  }

  /** A cut of all operators, restored at other parallelisms; nothing may be under way. */
  restore(): void {
    for (const { node, rig } of this.places.values()) rig.restore(node.isKeyed ? this.random.between(1, 5) : 1)
    this.channels.clear()
  }

  close(): void {
    for (const { rig } of this.places.values()) rig.close()
  }

  /** Delivers the first batch of some channel; false when all are empty. */
  private step(): boolean {
    const ready = [...this.channels.values()].filter((channel) => channel.waiting.length > 0)
    if (ready.length === 0) return false
    const { edge, to, waiting } = this.random.pick(ready)
    const batch = waiting.shift()!
    const place = this.places.get(edge.to)
    if (place === undefined) {
      this.results.push(batch)
      return true
    }
    const { operator, backend } = place.rig.subtasks[to]!
    // Room for one batch a call.
    let isFull = false
    const output: Output = {
      emit: (made) => {
        isFull = true
        this.emit(edge.to, to, made)
      },
      emitSide: () => {},
      get blocked() {
        return isFull
      },
    }
    for (let row = 0; row < batch.length; isFull = false) row = operator.process(batch, row, output, edge.input ?? 0)
    backend?.maybeEvict()
    return true
  }

  private emit(from: number, subtask: number, batch: Batch): void {
    this.places.get(from)?.table?.apply(batch)
    for (const edge of this.graph.edges) if (edge.from === from) this.spread(edge, subtask, batch)
  }

  private spread(edge: GraphEdge, subtask: number, batch: Batch): void {
    const targets = this.places.get(edge.to)?.rig.subtasks.length ?? 1
    if (edge.createKeys === null) {
      this.enqueue(edge, subtask, 0, batch)
      return
    }
    const keyed = withKeys(batch, edge.createKeys()(batch))
    for (let to = 0; to < targets; to++) {
      const rows: number[] = []
      for (let i = 0; i < batch.length; i++) {
        const group = keyGroupOf(keyed.keys!.hashes[i]!, KEY_GROUPS)
        if (subtaskOfKeyGroup(group, targets, KEY_GROUPS) === to) rows.push(i)
      }
      if (rows.length > 0) this.enqueue(edge, subtask, to, gatherBatch(keyed, Int32Array.from(rows), rows.length))
    }
  }

  private enqueue(edge: GraphEdge, subtask: number, to: number, batch: Batch): void {
    const id = `${this.graph.edges.indexOf(edge)} ${subtask} ${to}`
    const channel = this.channels.get(id) ?? { edge, to, waiting: [] }
    this.channels.set(id, channel)
    for (let from = 0, end = 0; from < batch.length; from = end) {
      end = cutBetweenPairs(batch.kinds, from, Math.min(batch.length, from + this.batchRows))
      channel.waiting.push(copyBatch(sliceBatch(batch, from, end)))
    }
  }
}
