/**
 * Where time goes: the accounting itself under a clock of our own, with any sequence of runs, and what real jobs say
 * of themselves: with a sink that is slow, with one that waits, and with nothing to do.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { GraphNode, JobGraph } from '../contract/job-graph.ts'
import type { Operator } from '../contract/operator.ts'
import type { Sink, SinkWriterContext } from '../contract/sink.ts'
import type { Source } from '../contract/source.ts'
import { batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { optionsOf } from './job.testkit.ts'
import { launchJob } from './launcher.ts'
import type { SubtaskStatus } from './status.ts'
import { type Rest, type TaskShares, TaskTimes, type TimeShares } from './task-times.ts'

const near = (actual: number, expected: number, message: string): void =>
  assert.ok(Math.abs(actual - expected) < 1e-9, `${message}: ${actual}, not ${expected}`)

const sumOf = ({ busy, backPressured, idle }: TimeShares): number => busy + backPressured + idle

function assertConsistent(shares: TaskShares): void {
  near(sumOf(shares), 1, 'the shares of the subtask')
  for (const operator of shares.operators) near(sumOf(operator), 1, 'the shares of an operator')
  const busy = shares.operators.reduce((sum, operator) => sum + operator.busy, 0)
  if (shares.busy > 0) near(busy, shares.busy, 'what operators are busy, together')
  assert.ok(shares.running <= shares.busy + 1e-9)
}

describe('the accounting', () => {
  function rig(operators: number) {
    let now = 1_000
    const times = new TaskTimes(operators, () => now)
    const pass = (ms: number): void => {
      now += ms
    }
    return {
      times,
      pass,
      take: () => times.take(now),
      /** Calls of operators one within the other, each with the time that it takes for itself. */
      run(selfMs: readonly number[], rest: Rest, waitingAt = 0, progressed = true): void {
        times.begin(now)
        const call = (operator: number): void => {
          if (operator >= selfMs.length) return
          const caller = times.enter(operator)
          now += selfMs[operator]! / 2
          call(operator + 1)
          now += selfMs[operator]! / 2
          times.leave(caller)
        }
        call(0)
        times.end(now, progressed, rest, waitingAt)
      },
    }
  }

  test('a run is its operators, the time after it what it was left in', () => {
    const { run, pass, take } = rig(3)
    run([10, 20, 30], 'blocked')
    pass(30)
    run([10, 0, 0], 'idle')
    pass(100)
    const shares = take()
    assertConsistent(shares)
    near(shares.busy, 70 / 200, 'busy')
    near(shares.running, 70 / 200, 'running')
    near(shares.backPressured, 30 / 200, 'back-pressured')
    near(shares.idle, 100 / 200, 'idle')
    assert.deepEqual(
      shares.operators.map(({ busy }) => Math.round(busy * 200)),
      [20, 20, 30],
    )
  })

  test('waiting for its turn is busy, but not running', () => {
    const { run, pass, take } = rig(1)
    run([10], 'ready')
    pass(30)
    const shares = take()
    near(shares.busy, 1, 'busy')
    near(shares.running, 0.25, 'running')
  })

  test('an operator that waits for the world outside is busy; those before it have no room, those after it nothing to do', () => {
    const { run, pass, take } = rig(3)
    run([0, 10, 0], 'waiting', 1)
    pass(90)
    const shares = take()
    assertConsistent(shares)
    near(shares.busy, 1, 'busy')
    near(shares.operators[1]!.busy, 1, 'busy operator')
    near(shares.operators[0]!.backPressured, 0.9, 'the one before it')
    near(shares.operators[2]!.idle, 1, 'the one after it')
  })

  test('polls that find nothing change nothing', () => {
    const { run, pass, take } = rig(1)
    run([1], 'blocked')
    for (let i = 0; i < 9; i++) {
      pass(10)
      run([0.5], 'blocked', 0, false)
    }
    const shares = take()
    near(shares.running * (1 + 9 * 10.5), 1, 'only the first run')
    near(shares.backPressured, 1 - shares.running, 'the rest')
  })

  test('of short runs some are timed, and stand for all', () => {
    const { run, take } = rig(2)
    for (let i = 0; i < 800; i++) run([0.1, 0.3], 'ready')
    const { operators } = take()
    near(operators[0]!.busy, 0.25, 'first')
    near(operators[1]!.busy, 0.75, 'second')
  })

  test('whatever happens, shares sum to 1 and operators to their subtask', () => {
    const rests = fc.constantFrom<Rest>('ready', 'waiting', 'blocked', 'idle')
    const duration = fc.integer({ min: 0, max: 50 })
    const step = fc.record({
      selfMs: fc.array(duration, { minLength: 3, maxLength: 3 }),
      gapMs: duration,
      rest: rests,
      waitingAt: fc.nat(2),
      takes: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const { run, pass, take } = rig(3)
        for (const { selfMs, gapMs, rest, waitingAt, takes } of steps) {
          run(
            selfMs,
            rest,
            waitingAt,
            selfMs.some((ms) => ms > 0),
          )
          pass(gapMs)
          if (takes) assertConsistent(take())
        }
        assertConsistent(take())
      }),
    )
  })
})

const ROW = schema({ n: t.float64() })
const BATCH = batchOfRows(
  ROW,
  Array.from({ length: 64 }, (_, n) => ({ n })),
)

/** Endless batches, or none. */
function source(hasInput: boolean): Source {
  return {
    kind: 'endless',
    schema: ROW,
    boundedness: 'unbounded',
    splits: async () => [{ id: 'all', position: 0 }],
    createReader: () => ({
      async open() {},
      poll: () => (hasInput ? { kind: 'batch', split: 'all', batch: BATCH } : { kind: 'pending' }),
      snapshot: () => [{ id: 'all', position: 0 }],
      async close() {},
    }),
  }
}

const passOn: Operator = {
  open() {},
  process(batch, _from, output) {
    output.emit(batch)
    return batch.length
  },
  advanceWatermark: () => true,
}

type Write = (context: SinkWriterContext, rows: number) => number

function sink(write: Write): Sink {
  return {
    kind: 'slow',
    guarantee: 'at-least-once',
    createWriter: (context) => ({
      async open() {},
      write: (batch, from) => from + write(context, batch.length - from),
      prepareCommit: async () => null,
      async close() {},
    }),
  }
}

/** numbers -> pass on -> slow, the last two in one task. */
function graphOf(hasInput: boolean, write: Write): JobGraph {
  const common = {
    uidIsExplicit: true,
    parallelism: 0,
    maxParallelism: 0,
    chaining: 'always',
    outputSchema: ROW,
  } as const
  const nodes: GraphNode[] = [
    { ...common, id: 1, name: 'numbers', uid: 'numbers', role: 'source', source: source(hasInput), watermarks: null },
    { ...common, id: 2, name: 'pass on', uid: 'pass', role: 'operator', isKeyed: false, create: () => passOn },
    { ...common, id: 3, name: 'slow', uid: 'slow', role: 'sink', sink: sink(write) },
  ]
  const edge = { createKeys: null, sideTag: null }
  return {
    nodes,
    edges: [
      { ...edge, from: 1, to: 2, partitioning: 'rebalance' },
      { ...edge, from: 2, to: 3, partitioning: 'forward' },
    ],
  }
}

/** Reports come four times a second; on a machine that is busy, some of them are of a thread that stood still. */
const REPORTS_MAX = 120

/** Source and sink task of a job that runs are in some report as `expected`; the first one is of its start. */
async function isReported(
  hasInput: boolean,
  write: Write,
  expected: (source: SubtaskStatus, sink: SubtaskStatus) => void,
): Promise<void> {
  const job = await launchJob(graphOf(hasInput, write), optionsOf({}))
  try {
    for (let report = 1; ; report++) {
      await new Promise((resolve) => setTimeout(resolve, 250))
      try {
        const [first, second] = job.status().subtasks
        for (const subtask of [first!, second!]) {
          near(sumOf(subtask), 1, 'shares')
          for (const operator of subtask.operators) near(sumOf(operator), 1, 'shares')
        }
        return expected(first!, second!)
      } catch (error) {
        if (report === REPORTS_MAX) throw error
      }
    }
  } finally {
    await job.cancel()
    await job.done
  }
}

describe('a job', () => {
  test('with a slow sink is busy there, and back-pressured before it', async () => {
    const computing: Write = (_context, rows) => {
      const endMs = performance.now() + 4
      while (performance.now() < endMs);
      return rows
    }
    await isReported(true, computing, (numbers, slow) => {
      assert.ok(slow.busy > 0.8, `the sink's task is busy: ${slow.busy}`)
      assert.ok(numbers.backPressured > 0.5, `the source is back-pressured: ${numbers.backPressured}`)
      const [passes, writes] = slow.operators
      assert.equal(passes!.name, 'pass on')
      assert.ok(
        writes!.busy > 0.7 && passes!.busy < 0.2,
        `within the chain it is the sink: ${JSON.stringify(slow.operators)}`,
      )
      assert.ok(writes!.recordsIn > 0 && passes!.recordsOut === writes!.recordsIn)
      assert.deepEqual(
        numbers.operators.map(({ name }) => name),
        ['numbers'],
      )
    })
  })

  test('whose sink waits for the world outside looks the same, though nothing computes', async () => {
    let isOpen = true
    const waiting: Write = (context, rows) => {
      if (!isOpen) return 0
      isOpen = false
      context.worker.io.timers.schedule(40, () => {
        isOpen = true
        context.wake()
      })
      return rows
    }
    await isReported(true, waiting, (numbers, slow) => {
      assert.ok(slow.busy > 0.8, `the sink's task is busy: ${slow.busy}`)
      assert.ok(slow.running < 0.3, `though it does not run: ${slow.running}`)
      assert.ok(numbers.backPressured > 0.5, `the source is back-pressured: ${numbers.backPressured}`)
      const [passes, writes] = slow.operators
      assert.ok(writes!.busy > 0.7, `it is the sink that waits: ${writes!.busy}`)
      assert.ok(passes!.backPressured > 0.7, `the operator before it has no room: ${passes!.backPressured}`)
    })
  })

  test('with nothing to do is idle', async () => {
    const write: Write = (_context, rows) => rows
    await isReported(false, write, (...subtasks) => {
      for (const { idle, busy, backPressured } of subtasks) {
        assert.ok(idle > 0.95, `idle ${idle}, busy ${busy}, back-pressured ${backPressured}`)
      }
    })
  })
})
