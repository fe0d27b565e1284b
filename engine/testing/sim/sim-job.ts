/**
 * The program of a simulated job, as its author would write it, in the version that is deployed.
 *
 * Called by sim-run.ts. Every worker builds the graph anew, as in reality; what must outlive a process
 * (the outside system) comes in through `SimJobWorld`.
 */
import { type DataStream, StreamExecutionEnvironment, WatermarkStrategy } from '../../api/index.ts'
import type { JobGraph } from '../../contract/job-graph.ts'
import type { Timers } from '../../core/io.ts'
import { BRANCHES, type BranchName } from './sim-branches.ts'
import { type InputRow, sourceUid } from './sim-input.ts'
import { type SimSinkWorld, simSink } from './sim-sink.ts'
import { type SimSourceWorld, simSource } from './sim-source.ts'

/** What an upgrade may change. */
export interface SimProgram {
  /** In the order in which the program declares them. */
  readonly branches: readonly BranchName[]
  /** A step without state stands before all others. */
  readonly hasExtraStep: boolean
}

export interface SimJobWorld extends SimSourceWorld, SimSinkWorld {
  /** Of the process. */
  readonly timers: Timers
}

/** How long an outside system takes that is asked again and again. */
const WAIT_MS_MAX = 8

export function buildGraph(world: SimJobWorld, program: SimProgram): JobGraph {
  const { shape } = world
  const env = StreamExecutionEnvironment.createEnvironment()
  const bounded = WatermarkStrategy.forBoundedOutOfOrderness<InputRow>(shape.disorderMs)
  const idle = shape.idleAfterMs === null ? bounded.withoutIdleness() : bounded.withIdleness(shape.idleAfterMs)
  const strategy = shape.driftMs === null ? idle : idle.withWatermarkAlignment('all', shape.driftMs, 5)
  const streams = shape.splits.map((_, index) => {
    const rows = env
      .fromSource(simSource(world, index), strategy.withTimestampAssigner('time'), sourceUid(index))
      .uid(sourceUid(index))
    return program.hasExtraStep ? rows.filter(() => true) : rows
  })
  for (const name of program.branches) {
    BRANCHES[name].build({
      shape,
      streams,
      ask: (row) =>
        new Promise((resolve) => {
          const latencyMs = world.random.next() * (shape.requests?.latencyMsMax ?? 0)
          world.timers.schedule(latencyMs, () => resolve([row]))
        }),
      wait: () => new Promise((resolve) => void world.timers.schedule(world.random.next() * WAIT_MS_MAX, resolve)),
      sink: (stream, id, heldMax = 0) =>
        void (stream as DataStream<unknown>).sinkTo(simSink(world, id, heldMax)).uid(id),
      put: (id, rows) => world.external.put(world.scope, id, rows),
    })
  }
  const graph = env.getGraph()
  if (!shape.unchained) return graph
  return { ...graph, nodes: graph.nodes.map((node) => ({ ...node, chaining: 'never' as const })) }
}
