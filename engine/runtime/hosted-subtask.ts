/**
 * A subtask with everything that was opened for it: its run, its cut, its end, and what it says of itself.
 *
 * Made by subtask-builder.ts, driven by worker-runtime.ts, all on the worker's thread.
 */
import type { KeyedBackend } from '../../state/keyed-backend.ts'
import type { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { DEAD_LETTER_SINK, type DeadLetterWriter } from '../checkpoint/dead-letters.ts'
import type { CheckpointListener } from '../contract/functions.ts'
import type { Operator, OperatorCounters } from '../contract/operator.ts'
import type { AccumulatorRegistry } from '../core/accumulators.ts'
import { assert } from '../core/assert.ts'
import { checkJson, type JsonValue } from '../core/json-value.ts'
import type { MetricRegistry } from '../core/user-metrics.ts'
import type { OutputRouter } from './output-router.ts'
import type { PlannedVertex } from './planner.ts'
import type { OperatorCapture, SinkCommittable, SubtaskCapture } from './protocol.ts'
import type { SinkOperator } from './sink-operator.ts'
import type { OperatorStatus, SplitWatermark, SubtaskStatus } from './status.ts'
import type { Subtask } from './subtask.ts'
import type { TaskShares, TaskTimes, TimeShares } from './task-times.ts'
import type { AlignmentReport } from './watermark-alignment.ts'

/** Entries encoded within the cut itself. */
const CAPTURE_AT_ONCE = 4_096

export interface HostedOperator {
  readonly uid: string
  readonly name: string
  readonly operator: Operator
  readonly keyed: KeyedBackend | null
  readonly counters: OperatorCounters
  readonly metrics: MetricRegistry
  readonly accumulators: AccumulatorRegistry
}

/** A subtask with everything that was opened for it. */
export class HostedSubtask {
  readonly label: string
  readonly keyed: readonly KeyedBackend[]
  subtask!: Subtask
  private readonly vertex: PlannedVertex
  private readonly index: number
  private readonly workerIndex: number
  private readonly operators: readonly HostedOperator[]
  private readonly sink: { readonly id: string; readonly operator: SinkOperator } | null
  private readonly deadLetters: DeadLetterWriter | null
  private readonly router: OutputRouter
  private readonly times: TaskTimes
  /** Of the last status. */
  private shares: TaskShares | null = null

  constructor(parts: {
    vertex: PlannedVertex
    index: number
    workerIndex: number
    operators: readonly HostedOperator[]
    sink: { readonly id: string; readonly operator: SinkOperator } | null
    deadLetters: DeadLetterWriter | null
    router: OutputRouter
    times: TaskTimes
  }) {
    this.label = `${parts.vertex.name} #${parts.index}`
    this.vertex = parts.vertex
    this.index = parts.index
    this.workerIndex = parts.workerIndex
    this.operators = parts.operators
    this.keyed = parts.operators.map((hosted) => hosted.keyed).filter((keyed) => keyed !== null)
    this.sink = parts.sink
    this.deadLetters = parts.deadLetters
    this.router = parts.router
    this.times = parts.times
  }

  /** Whether this is a subtask of the source with that uid. */
  hosts(uid: string, subtask: number): boolean {
    return this.index === subtask && this.vertex.nodes[0]!.role === 'source' && this.vertex.uid === uid
  }

  /** The synchronous cut. Promises of sealed output are added to `sealing`. */
  capture(
    attempt: number,
    alignmentMs: number,
    builder: WriteBatchBuilder | null,
    sealing: Promise<SinkCommittable | null>[],
  ): Omit<SubtaskCapture, 'syncMs'> {
    const operators: OperatorCapture[] = this.operators.map(({ uid, operator, keyed }) => {
      const state: JsonValue = operator.snapshot?.({ checkpointId: attempt }) ?? null
      if (keyed === null || builder === null) return { uid, state, tables: [] }
      keyed.beginCut(builder)
      // Small state is done at once; the rest follows in pieces (worker-checkpoint.ts).
      keyed.captureMore(CAPTURE_AT_ONCE)
      return { uid, state, tables: keyed.declarations() }
    })
    if (this.sink !== null) {
      const { id, operator } = this.sink
      sealing.push(operator.writer.prepareCommit().then((committable) => committableOf(id, committable)))
    }
    if (this.deadLetters !== null) {
      const sealed = this.deadLetters.prepareCommit()
      sealing.push(sealed.then((segment) => committableOf(DEAD_LETTER_SINK, segment as JsonValue | null)))
    }
    const splits = this.subtask.source?.capture(attempt) ?? null
    return { vertex: this.vertex.id, subtask: this.index, alignmentMs, operators, splits }
  }

  /** Tells its source and the functions of users how a checkpoint ended. */
  notify(how: keyof CheckpointListener, attempt: number): void {
    if (how === 'notifyCheckpointComplete') this.subtask.source?.completed(attempt)
    for (const { operator } of this.operators) operator.checkpointListener?.[how]?.(attempt)
  }

  /** Runs the subtask from `beforeMs` until about `untilMs` and accounts for its time; returns whether it progressed. */
  run(nowMs: number, beforeMs: number, untilMs: number): boolean {
    this.times.begin(beforeMs)
    return this.subtask.run(nowMs, untilMs)
  }

  /** The run is over. */
  ran(afterMs: number, progressed: boolean): void {
    const { rest } = this.subtask
    const waitingAt = rest === 'waiting' ? this.firstOperator + this.subtask.waitingAt : 0
    this.times.end(afterMs, progressed, rest, waitingAt)
  }

  /** 1 when a source comes before the operators of the chain. */
  private get firstOperator(): number {
    return this.vertex.nodes[0]!.role === 'source' ? 1 : 0
  }

  /** With shares of the time since the last status; after the end, `monotonicMs` null, with those of the last one. */
  status(monotonicMs: number | null): SubtaskStatus {
    if (monotonicMs !== null) this.shares = this.times.take(monotonicMs)
    assert(this.shares !== null, 'a status comes before the last one')
    const { operators, ...shares } = this.shares
    const { source } = this.subtask
    const sum = (of: (counters: OperatorCounters) => number) =>
      this.operators.reduce((total, hosted) => total + of(hosted.counters), 0)
    return {
      vertex: this.vertex.id,
      subtask: this.index,
      worker: this.workerIndex,
      recordsIn: this.subtask.recordsIn,
      recordsOut: this.sink === null ? this.router.recordsOut : this.sink.operator.recordsOut,
      lateDropped: sum((counters) => counters.lateDropped),
      filtered: sum((counters) => counters.filtered),
      deadLettered: this.subtask.source?.deadLettered ?? 0,
      watermarkMs: Number.isFinite(this.subtask.watermark) ? this.subtask.watermark : null,
      timeIdle: this.subtask.isTimeIdle,
      ended: this.subtask.isEnded,
      ...shares,
      paused: source?.isBeyondLimit ?? false,
      keyGroups: this.keyGroups,
      operators: this.operatorStatus(operators),
      stateBytes: this.keyed.reduce((total, keyed) => total + keyed.memoryBytes(), 0),
      userMetrics: this.operators.flatMap(({ uid, name, metrics }) =>
        metrics.snapshot().map((sample) => ({ operator: uid, operatorName: name, ...sample })),
      ),
      accumulators: this.operators.flatMap(({ accumulators }) => Object.entries(accumulators.snapshot())),
    }
  }

  private get keyGroups(): SubtaskStatus['keyGroups'] {
    const range = this.keyed[0]?.keyGroups
    return range === undefined ? null : { from: range.from, to: range.to }
  }

  private operatorStatus(shares: readonly TimeShares[]): OperatorStatus[] {
    const first = this.firstOperator
    const { records, recordsIn } = this.subtask
    const node = this.vertex.nodes[0]!
    const source: OperatorStatus = {
      ...{ uid: node.uid, name: node.name, recordsIn, recordsOut: recordsIn, ...shares[0]! },
      ...{ stateBytes: 0, coldReads: 0, tables: [] },
    }
    const chained = this.operators.map(({ uid, name, keyed, counters }, k): OperatorStatus => {
      const isSink = this.sink !== null && k === this.operators.length - 1
      return {
        uid,
        name,
        recordsIn: records[k]!.recordsIn,
        recordsOut: isSink ? this.sink!.operator.recordsOut : records[k]!.recordsOut,
        ...shares[first + k]!,
        stateBytes: keyed?.memoryBytes() ?? 0,
        coldReads: counters.coldReads,
        tables: keyed?.tableSizes() ?? [],
      }
    })
    return first === 1 ? [source, ...chained] : chained
  }

  /** What its alignment group has to know of it, when it has one. */
  alignmentReport(): AlignmentReport[] {
    const { source } = this.subtask
    if (source === null || source.alignment === null) return []
    const subtask = `${this.vertex.id} ${this.index}`
    return [{ group: source.alignment.group, subtask, watermark: source.alignedWatermark }]
  }

  splitWatermarks(): SplitWatermark[] {
    return this.subtask.source?.splitWatermarks(this.vertex.id, this.index) ?? []
  }

  /** Gives what failed. */
  async close(): Promise<readonly unknown[]> {
    const closing: Promise<void>[] = []
    this.subtask.close()
    // Started one by one within async functions: what throws must not keep the others open.
    for (const { operator } of this.operators) closing.push((async () => operator.close?.())())
    const { source } = this.subtask
    if (source !== null) closing.push((async () => source.close())())
    const writer = this.sink?.operator.writer
    if (writer !== undefined) closing.push((async () => writer.close())())
    if (this.deadLetters !== null) closing.push(this.deadLetters.close())
    const closed = await Promise.allSettled(closing)
    return closed.flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))
  }
}

function committableOf(sink: string, committable: JsonValue | null): SinkCommittable | null {
  checkJson(committable, `What prepareCommit of sink ${JSON.stringify(sink)} gave`)
  return committable === null ? null : { sink, committable }
}
