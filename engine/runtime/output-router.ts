/**
 * The end of a subtask: spreads batches over the channels of each outgoing edge.
 *
 * Operators never block, so what a channel refuses waits here, in order, in an overflow queue a channel, most of
 * it in a file where it is much (overflow.ts).
 * While any overflow exists the router is `blocked`, operators return early and the subtask takes no new
 * input; the excess of one call is all that can pile up.
 *
 * Invariants:
 * - A channel sees messages in emission order: nothing overtakes its overflow.
 * - Control messages go to every channel of every edge.
 * - A pair of rows of a changelog (row-kinds.ts) leaves in one message where both go to one channel; else each of them
 *   is a change of its own there.
 */
import { assert } from '../core/assert.ts'
import { BATCH_ROWS_MAX, type Batch, type Projection, projectBatch, sliceBatch, withKeys } from '../core/batch.ts'
import { MillraceError } from '../core/errors.ts'
import type { Partitioning, RowTargets } from '../core/graph.ts'
import type { KeyExtractor } from '../core/keys.ts'
import { keyGroupOf, subtaskOfKeyGroup } from '../core/keys.ts'
import { cutBetweenPairs, isPairAt } from '../core/row-kinds.ts'
import type { ChannelWriter, ControlMessage } from './channel.ts'
import { Overflow, type SpillSpace } from './overflow.ts'

/** One channel with its overflow. */
class Port {
  private readonly writer: ChannelWriter
  private readonly overflow: Overflow

  constructor(writer: ChannelWriter, space: SpillSpace | null) {
    this.writer = writer
    this.overflow = new Overflow(space)
  }

  /** True while anything waits. */
  get isBlocked(): boolean {
    return this.overflow.length > 0
  }

  send(batch: Batch, rows: Int32Array | null, count: number): void {
    if (count === 0) return
    const part = this.rowsOfPart
    if (count <= part) {
      this.sendPart(batch, rows, count)
      return
    }
    for (let from = 0, to = 0; from < count; from = to) {
      to = Math.min(from + part, count)
      if (batch.kinds !== null && to < count) to = this.wholePairs(batch.kinds, rows, from, to)
      if (rows === null) this.sendPart(sliceBatch(batch, from, to), null, to - from)
      else this.sendPart(batch, rows.subarray(from, to), to - from)
    }
  }

  /** The end of a part that would end at `to`, so that no pair of rows of a changelog is parted. */
  private wholePairs(kinds: Uint8Array, rows: Int32Array | null, from: number, to: number): number {
    if (rows === null) return cutBetweenPairs(kinds, from, to)
    const isParted = rows[to] === rows[to - 1]! + 1 && isPairAt(kinds, rows[to - 1]!)
    return !isParted ? to : to - 1 > from ? to - 1 : to + 1
  }

  /** Two parts may wait, so that the reader finds one when it comes for more. */
  get rowsOfPart(): number {
    return (this.writer.rowsAllowed + 1) >>> 1
  }

  private sendPart(batch: Batch, rows: Int32Array | null, count: number): void {
    if (this.overflow.length === 0 && this.writer.writeBatch(batch, rows, count)) return
    // Copied, because the sender may reuse what the batch views once its call returns.
    this.overflow.pushBatch(batch, rows, count)
  }

  control(message: ControlMessage): void {
    if (this.overflow.length === 0 && this.writer.writeControl(message)) return
    this.overflow.pushControl(message)
  }

  /** Returns true when nothing waits any more. */
  flush(): boolean {
    if (!this.writer.settle()) return false
    for (let message = this.overflow.peek(); message !== null; message = this.overflow.peek()) {
      const accepted =
        message.kind === 'batch'
          ? this.writer.writeBatch(message.batch, null, message.batch.length)
          : this.writer.writeControl(message)
      if (!accepted) return false
      this.overflow.shift()
    }
    return this.writer.settle()
  }

  close(): void {
    this.overflow.close()
  }
}

export interface EdgeOutputOptions {
  readonly partitioning: Partitioning
  readonly keys: KeyExtractor | null
  /** The columns that the target reads, when it says so. */
  readonly projection?: Projection | null
  readonly sideTag: string | null
  /** For `custom`. */
  readonly targets?: RowTargets | null
  /** For `shuffle`: uniform in [0, 1). */
  readonly random?: () => number
  /** One a target subtask that it is connected with. */
  readonly writers: readonly ChannelWriter[]
  readonly keyGroups: number
  /** Index of the sending subtask: where a rebalance starts. */
  readonly subtask: number
}

class EdgeOutput {
  readonly sideTag: string | null
  readonly ports: readonly Port[]
  private readonly partitioning: Partitioning
  private readonly keys: KeyExtractor | null
  private readonly projection: Projection | null
  private readonly targets: RowTargets | null
  private readonly random: () => number
  private readonly keyGroups: number
  /** Target of each key group. */
  private readonly targetOfGroup: Uint16Array
  /** Row numbers by target, `BATCH_ROWS_MAX` places each: one array, because a row a step goes into it. */
  private readonly order: Int32Array
  /** The same, a view a target. */
  private readonly rows: readonly Int32Array[]
  private readonly counts: Int32Array
  private turn: number

  constructor(options: EdgeOutputOptions, space: SpillSpace | null) {
    this.sideTag = options.sideTag
    this.partitioning = options.partitioning
    this.keys = options.keys
    this.projection = options.projection ?? null
    this.targets = options.targets ?? null
    this.random = options.random ?? (() => 0)
    this.keyGroups = options.keyGroups
    this.ports = options.writers.map((writer) => new Port(writer, space))
    const targets = options.writers.length
    this.targetOfGroup = new Uint16Array(options.keyGroups)
    for (let g = 0; g < options.keyGroups; g++) {
      this.targetOfGroup[g] = subtaskOfKeyGroup(g, targets, options.keyGroups)
    }
    this.order = new Int32Array(targets > 1 ? targets * BATCH_ROWS_MAX : 0)
    this.rows = options.writers.map((_, p) => this.order.subarray(p * BATCH_ROWS_MAX, (p + 1) * BATCH_ROWS_MAX))
    this.counts = new Int32Array(targets)
    this.turn = options.subtask % targets
  }

  send(batch: Batch): void {
    switch (this.partitioning) {
      case 'hash':
        this.sendByKey(batch)
        return
      case 'broadcast':
        for (const port of this.ports) port.send(batch, null, batch.length)
        return
      case 'rebalance':
      case 'rescale':
        this.sendInTurn(batch)
        return
      case 'shuffle':
        this.sendTo(batch, () => Math.floor(this.random() * this.ports.length))
        return
      case 'custom':
        this.sendCustom(batch)
        return
      default:
        this.ports[0]!.send(batch, null, batch.length)
    }
  }

  private sendByKey(batch: Batch): void {
    const withAll = this.keys === null ? batch : withKeys(batch, this.keys(batch))
    const keyed = this.projection === null ? withAll : projectBatch(withAll, this.projection)
    if (this.ports.length === 1) {
      this.ports[0]!.send(keyed, null, batch.length)
      return
    }
    const counts = this.counts.fill(0)
    const hashes = keyed.keys!.hashes
    const { targetOfGroup, order, keyGroups } = this
    assert(batch.length <= BATCH_ROWS_MAX, 'a batch has at most BATCH_ROWS_MAX rows')
    // A division a row, unless the number of key groups is a power of two, as it is by default.
    const mask = (keyGroups & (keyGroups - 1)) === 0 ? keyGroups - 1 : 0
    for (let i = 0; i < batch.length; i++) {
      const hash = hashes[i]!
      const target = targetOfGroup[mask === 0 ? keyGroupOf(hash, keyGroups) : hash & mask]!
      const place = counts[target]!
      counts[target] = place + 1
      order[target * BATCH_ROWS_MAX + place] = i
    }
    this.sendRows(keyed)
  }

  /** A batch in as many equal runs as there are targets, which costs less than row by row; the odd rows in turn. */
  private sendInTurn(batch: Batch): void {
    const targets = this.ports.length
    assert(
      batch.kinds === null || targets === 1,
      'changes of a row stay in order: no changelog is spread over subtasks',
    )
    const share = Math.floor(batch.length / targets)
    const odd = batch.length % targets
    let from = 0
    for (let k = 0; k < targets && from < batch.length; k++) {
      const to = from + share + (k < odd ? 1 : 0)
      const port = this.ports[(this.turn + k) % targets]!
      port.send(targets === 1 ? batch : sliceBatch(batch, from, to), null, to - from)
      from = to
    }
    this.turn = (this.turn + odd) % targets
  }

  private sendTo(batch: Batch, targetOf: (row: number) => number): void {
    if (this.ports.length === 1) {
      this.ports[0]!.send(batch, null, batch.length)
      return
    }
    const counts = this.counts.fill(0)
    assert(batch.length <= BATCH_ROWS_MAX, 'a batch has at most BATCH_ROWS_MAX rows')
    for (let i = 0; i < batch.length; i++) {
      const target = targetOf(i)
      this.rows[target]![counts[target]!++] = i
    }
    this.sendRows(batch)
  }

  private sendCustom(batch: Batch): void {
    const count = this.ports.length
    const targets = this.targets!(batch, count)
    for (let i = 0; i < batch.length; i++) {
      const target = targets[i]!
      if (Number.isInteger(target) && target >= 0 && target < count) continue
      throw new MillraceError('PARTITION_INVALID', `The partitioner gave ${target}; there are ${count} partitions.`, {
        hint: `Return a whole number from 0 to ${count - 1}, for example hash % numPartitions.`,
      })
    }
    this.sendTo(batch, (i) => targets[i]!)
  }

  /** What `rows` and `counts` hold for each port. */
  private sendRows(batch: Batch): void {
    for (let p = 0; p < this.ports.length; p++) this.ports[p]!.send(batch, this.rows[p]!, this.counts[p]!)
  }
}

export class OutputRouter {
  /** Rows sent on main outputs. */
  recordsOut = 0
  private readonly edges: readonly EdgeOutput[]
  private readonly ports: readonly Port[]
  private anyBlocked = false

  /** What channels refuse spills to `space`; without one it stays in memory. */
  constructor(edges: readonly EdgeOutputOptions[], space: SpillSpace | null = null) {
    this.edges = edges.map((options) => new EdgeOutput(options, space))
    this.ports = this.edges.flatMap((edge) => edge.ports)
  }

  get blocked(): boolean {
    return this.anyBlocked
  }

  /** Lets go of what waits. */
  close(): void {
    for (const port of this.ports) port.close()
  }

  emit(batch: Batch): void {
    if (batch.length === 0) return
    this.recordsOut += batch.length
    for (const edge of this.edges) if (edge.sideTag === null) edge.send(batch)
    this.updateBlocked()
  }

  emitSide(tag: string, batch: Batch): void {
    if (batch.length === 0) return
    for (const edge of this.edges) if (edge.sideTag === tag) edge.send(batch)
    this.updateBlocked()
  }

  control(message: ControlMessage): void {
    for (const port of this.ports) port.control(message)
    this.updateBlocked()
  }

  /** Rows that the receivers want at once: of those of each edge together, the fewest. */
  get rowsWanted(): number {
    let wanted = BATCH_ROWS_MAX
    for (const edge of this.edges) {
      if (edge.sideTag !== null) continue
      let rows = 0
      for (const port of edge.ports) rows += port.rowsOfPart
      wanted = Math.min(wanted, rows)
    }
    return wanted
  }

  /** Offers what waits again; returns true when nothing waits any more. */
  flush(): boolean {
    let settled = true
    for (const port of this.ports) if (!port.flush()) settled = false
    this.anyBlocked = !settled
    return settled
  }

  private updateBlocked(): void {
    if (this.anyBlocked) return
    for (const port of this.ports) {
      if (port.isBlocked) {
        this.anyBlocked = true
        return
      }
    }
  }
}
