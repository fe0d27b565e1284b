/**
 * One subtask: alignment of barriers (I8), aborts, watermarks over idle and ended inputs, and small graphs
 * of subtasks with as little room as there can be. A little longer than other files: all of it shares one rig.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { AsyncOperator, Operator, WatermarkingOperator } from '../contract/operator.ts'
import type { Batch } from '../core/batch.ts'
import { batchOfRows } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { WATERMARK_MAX } from '../core/time.ts'
import { Chain } from './chain.ts'
import { LocalChannel } from './channel.ts'
import { OutputRouter } from './output-router.ts'
import { Subtask } from './subtask.ts'

const ROW = schema({ n: t.float64() })
const batchOf = (...numbers: number[]): Batch =>
  batchOfRows(
    ROW,
    numbers.map((n) => ({ n })),
  )
const numbersOf = (batch: Batch): number[] => [...(batch.columns[0] as { values: Float64Array }).values]
const nothing = (): void => {}

/** Writes what it sees into `log` and passes it on. */
class Recorder implements Operator {
  readonly log: unknown[]
  constructor(log: unknown[]) {
    this.log = log
  }
  open(): void {}
  process: Operator['process'] = (batch, from, output) => {
    if (output.blocked) return from
    this.log.push(...numbersOf(batch))
    output.emit(batch)
    return batch.length
  }
  advanceWatermark(watermark: number): boolean {
    this.log.push(`watermark ${watermark}`)
    return true
  }
}

interface Rig {
  readonly subtask: Subtask
  readonly inputs: readonly LocalChannel[]
  readonly outputs: readonly LocalChannel[]
  /** Rows and watermarks as the operator saw them, with cuts and the end in their places. */
  readonly log: unknown[]
}

function rigOf(inputs: readonly LocalChannel[], outputs: readonly LocalChannel[], alignsBarriers = true): Rig {
  const log: unknown[] = []
  const router = new OutputRouter(
    outputs.map((channel) => ({
      partitioning: 'forward',
      keys: null,
      sideTag: null,
      writers: [channel],
      keyGroups: 128,
      subtask: 0,
    })),
  )
  const subtask = new Subtask({
    chain: new Chain([{ operator: new Recorder(log), keys: null }], router),
    router,
    source: null,
    inputs: inputs.map((reader) => ({ reader, input: 0 })),
    alignsBarriers,
    monotonicMs: () => 0,
    hooks: { capture: (attempt) => log.push(`cut ${attempt}`), ended: () => log.push('ended') },
  })
  return { subtask, inputs, outputs, log }
}

const channels = (count: number, capacity = 100): LocalChannel[] =>
  Array.from({ length: count }, () => new LocalChannel(capacity, nothing, nothing))

const rig = (inputs: number): Rig => rigOf(channels(inputs), channels(1))

function runAll(subtask: Subtask): void {
  for (let i = 0; subtask.step(0); i++) assert.ok(i < 100_000, 'comes to rest')
}

/** Kinds of what lies in a channel; batches as their rows. */
function contents(channel: LocalChannel): unknown[] {
  const out: unknown[] = []
  for (let message = channel.peek(); message !== null; message = channel.peek()) {
    if (message.kind === 'batch') out.push(...numbersOf(message.batch))
    else out.push(message.kind === 'barrier' ? `barrier ${message.attempt}` : message.kind)
    channel.pop()
  }
  return out
}

/** Makes the greatest number its watermark, as an assigner in the midst of a stream does. */
class Assigner extends Recorder implements WatermarkingOperator {
  readonly idleAfterMs = 1_000
  isIdle = false
  private greatest = Number.NEGATIVE_INFINITY
  override process: Operator['process'] = (batch, from, output) => {
    if (output.blocked) return from
    this.greatest = Math.max(this.greatest, ...numbersOf(batch))
    output.emit(batch)
    return batch.length
  }
  currentWatermark(): number {
    return this.greatest
  }
}

describe('an assigner in the midst of a stream', () => {
  test('is idle without rows for long, whatever its inputs say, but not while there is no room', () => {
    let nowMs = 0
    const inputs = channels(2)
    const [output] = channels(1, 2)
    const writers = {
      partitioning: 'forward',
      keys: null,
      sideTag: null,
      writers: [output!],
      keyGroups: 128,
      subtask: 0,
    } as const
    const router = new OutputRouter([writers])
    const assigner = new Assigner([])
    const subtask = new Subtask({
      chain: new Chain([{ operator: assigner, keys: null }], router),
      router,
      source: null,
      inputs: inputs.map((reader) => ({ reader, input: 0 })),
      alignsBarriers: true,
      monotonicMs: () => nowMs,
      hooks: { capture: nothing, ended: nothing },
    })
    const after = (ms: number): unknown[] => {
      nowMs += ms
      runAll(subtask)
      return contents(output!)
    }
    for (const input of inputs) input.writeControl({ kind: 'idle' })
    inputs[0]!.writeBatch(batchOf(1), null, 1)
    assert.deepEqual(after(1), [1, 'watermark'], 'inputs may be idle, and rows come')
    assert.deepEqual(after(999), [])
    assert.deepEqual(after(1), ['idle'])
    inputs[0]!.writeBatch(batchOf(2), null, 1)
    assert.deepEqual(after(5), [2, 'watermark', 'active'])
    // Three batches into room for two: blocked.
    for (const n of [3, 4, 5]) inputs[1]!.writeBatch(batchOf(n), null, 1)
    nowMs += 1
    runAll(subtask)
    nowMs += 60_000
    runAll(subtask)
    const seen = [...contents(output!), ...after(0), ...after(0), ...after(0)]
    assert.deepEqual(
      seen.filter((what) => typeof what === 'number'),
      [3, 4, 5],
    )
    assert.ok(!seen.includes('idle'), 'a minute without room is no silence')
    assert.deepEqual(after(1_000), ['idle'])
    assigner.isIdle = true
    inputs[0]!.writeBatch(batchOf(6), null, 1)
    assert.deepEqual(after(1), [6, 'watermark'], 'its generator says that it is idle')
  })
})

/** Holds batches until `release`, with their watermarks behind them. */
class Holding implements AsyncOperator {
  isFull = false
  private held: (Batch | number)[] = []
  private watermark = Number.NEGATIVE_INFINITY
  private hasLeave = false
  private wake!: () => void
  open(): void {}
  attach(chain: Chain): void {
    this.wake = () => chain.wake(0)
  }
  get isPending(): boolean {
    return this.held.length > 0
  }
  process: Operator['process'] = (batch) => {
    this.held.push(batchOf(...numbersOf(batch)))
    this.isFull = true
    return batch.length
  }
  advanceWatermark(watermark: number): boolean {
    if (this.held.length === 0) this.watermark = watermark
    else this.held.push(watermark)
    return true
  }
  currentWatermark(): number {
    return this.watermark
  }
  release(): void {
    this.hasLeave = true
    this.wake()
  }
  resume: AsyncOperator['resume'] = (output) => {
    if (!this.hasLeave) return true
    for (const held of this.held.splice(0)) {
      if (typeof held === 'number') this.watermark = held
      else output.emit(held)
    }
    this.isFull = false
    this.hasLeave = false
    return true
  }
}

describe('an async operator', () => {
  test('that is full takes no batch, but lets barriers pass; idleness and the end wait for it', () => {
    const holding = new Holding()
    const log: unknown[] = []
    const inputs = channels(2)
    const output = new LocalChannel(99, nothing, nothing)
    const router = new OutputRouter([
      { partitioning: 'forward', keys: null, sideTag: null, writers: [output], keyGroups: 128, subtask: 0 },
    ])
    const chain = new Chain(
      [
        { operator: holding, keys: null },
        { operator: new Recorder(log), keys: null },
      ],
      router,
    )
    holding.attach(chain)
    const subtask = new Subtask({
      chain,
      router,
      source: null,
      inputs: inputs.map((reader) => ({ reader, input: 0 })),
      alignsBarriers: true,
      monotonicMs: () => 0,
      hooks: { capture: (attempt) => log.push(`cut ${attempt}`), ended: () => log.push('ended') },
    })
    inputs[0]!.writeBatch(batchOf(1), null, 1)
    inputs[0]!.writeControl({ kind: 'barrier', attempt: 1 })
    inputs[0]!.writeBatch(batchOf(2), null, 1)
    inputs[1]!.writeControl({ kind: 'watermark', value: 5 })
    inputs[1]!.writeControl({ kind: 'barrier', attempt: 1 })
    runAll(subtask)
    assert.deepEqual(log, ['cut 1'], 'with row 1 under way')
    assert.equal(subtask.rest, 'waiting', 'row 2 waits')
    holding.release()
    runAll(subtask)
    assert.deepEqual(log, ['cut 1', 1])
    for (const input of inputs) input.writeControl({ kind: 'idle' })
    runAll(subtask)
    assert.deepEqual(contents(output), ['barrier 1', 1], 'not idle while row 2 is under way')
    for (const input of inputs) {
      input.writeControl({ kind: 'active' })
      input.writeControl({ kind: 'watermark', value: WATERMARK_MAX })
    }
    runAll(subtask)
    assert.ok(!subtask.isEnded)
    holding.release()
    runAll(subtask)
    assert.deepEqual(log, ['cut 1', 1, 2, 'watermark Infinity', 'ended'])
    assert.deepEqual(contents(output), [2, 'watermark'])
  })
})

describe('alignment', () => {
  test('takes nothing behind a barrier until every input has brought it, for any interleaving', () => {
    const ops = fc.array(fc.tuple(fc.nat(2), fc.boolean()), { minLength: 1, maxLength: 60 })
    fc.assert(
      fc.property(ops, (steps) => {
        const { subtask, inputs, outputs, log } = rig(3)
        const attempts = [0, 0, 0]
        const sentBefore = [0, 0, 0]
        for (const [input, isBarrier] of steps) {
          const channel = inputs[input]!
          // Rows say which barrier they follow on which input.
          if (isBarrier) channel.writeControl({ kind: 'barrier', attempt: ++attempts[input]! })
          else {
            channel.writeBatch(batchOf(attempts[input]! * 10 + input), null, 1)
            sentBefore[input]!++
          }
          if (steps.length % 2 === 0) runAll(subtask)
        }
        runAll(subtask)
        let cuts = 0
        for (const entry of log) {
          if (typeof entry === 'string') assert.equal(entry, `cut ${++cuts}`)
          else assert.equal(Math.floor((entry as number) / 10), cuts, 'each row lies between its barriers')
        }
        assert.equal(cuts, Math.min(...attempts))
        // The barrier goes on right after the cut.
        assert.deepEqual(
          contents(outputs[0]!),
          log.map((entry) => (typeof entry === 'string' ? entry.replace('cut', 'barrier') : entry)),
        )
      }),
    )
  })

  test('at-least-once holds nothing back, and cuts once every input has brought the barrier', () => {
    const { subtask, inputs, outputs, log } = rigOf(channels(2), channels(1), false)
    inputs[0]!.writeControl({ kind: 'barrier', attempt: 1 })
    inputs[0]!.writeBatch(batchOf(5), null, 1)
    runAll(subtask)
    assert.deepEqual(log, [5])
    inputs[1]!.writeBatch(batchOf(6), null, 1)
    inputs[1]!.writeControl({ kind: 'barrier', attempt: 1 })
    inputs[1]!.writeBatch(batchOf(7), null, 1)
    runAll(subtask)
    assert.deepEqual(log, [5, 6, 'cut 1', 7])
    assert.deepEqual(contents(outputs[0]!), [5, 6, 'barrier 1', 7])
  })

  test('a newer barrier cancels an older alignment, whose late barriers mean nothing', () => {
    const { subtask, inputs, log } = rig(2)
    inputs[0]!.writeControl({ kind: 'barrier', attempt: 1 })
    inputs[0]!.writeBatch(batchOf(5), null, 1)
    inputs[1]!.writeControl({ kind: 'barrier', attempt: 2 })
    inputs[1]!.writeControl({ kind: 'barrier', attempt: 1 })
    inputs[1]!.writeBatch(batchOf(9), null, 1)
    runAll(subtask)
    assert.deepEqual(log, [5], 'input 0 goes on, input 1 waits')
    inputs[0]!.writeControl({ kind: 'barrier', attempt: 2 })
    runAll(subtask)
    assert.deepEqual(log, [5, 'cut 2', 9])
    inputs[0]!.writeControl({ kind: 'barrier', attempt: 2 })
    inputs[0]!.writeBatch(batchOf(6), null, 1)
    runAll(subtask)
    assert.deepEqual(log, [5, 'cut 2', 9, 6])
  })

  test('an abort lets blocked inputs go on; barriers that come afterwards are ignored', () => {
    const { subtask, inputs, outputs, log } = rig(2)
    inputs[0]!.writeControl({ kind: 'barrier', attempt: 3 })
    inputs[0]!.writeBatch(batchOf(1), null, 1)
    runAll(subtask)
    assert.deepEqual(log, [])
    subtask.abort(3)
    runAll(subtask)
    assert.deepEqual(log, [1])
    inputs[1]!.writeControl({ kind: 'barrier', attempt: 3 })
    inputs[1]!.writeBatch(batchOf(2), null, 1)
    runAll(subtask)
    assert.deepEqual(log, [1, 2])
    for (const input of inputs) input.writeControl({ kind: 'barrier', attempt: 4 })
    runAll(subtask)
    assert.deepEqual(contents(outputs[0]!), [1, 2, 'barrier 4'])
  })

  test('barriers pass after the end of input', () => {
    const { subtask, inputs, log } = rig(2)
    for (const input of inputs) input.writeControl({ kind: 'watermark', value: WATERMARK_MAX })
    runAll(subtask)
    for (const input of inputs) input.writeControl({ kind: 'barrier', attempt: 1 })
    runAll(subtask)
    assert.deepEqual(log, ['watermark Infinity', 'ended', 'cut 1'])
  })
})

describe('watermarks', () => {
  test('are the minimum over the inputs, each growing, without the idle ones', () => {
    const { subtask, inputs, log } = rig(2)
    const say = (input: number, value: number) => {
      inputs[input]!.writeControl({ kind: 'watermark', value })
      runAll(subtask)
    }
    say(0, 10)
    assert.deepEqual(log, [])
    say(1, 5)
    say(1, 12)
    inputs[0]!.writeControl({ kind: 'idle' })
    runAll(subtask)
    say(1, 20)
    inputs[0]!.writeControl({ kind: 'active' })
    runAll(subtask)
    say(0, 15)
    say(1, 30)
    say(0, 25)
    assert.deepEqual(log, ['watermark 5', 'watermark 10', 'watermark 12', 'watermark 20', 'watermark 25'])
  })

  test('are the furthest of the inputs once all are idle: none holds another back', () => {
    const { subtask, inputs, log } = rig(2)
    inputs[0]!.writeControl({ kind: 'watermark', value: 100 })
    inputs[0]!.writeControl({ kind: 'idle' })
    inputs[1]!.writeControl({ kind: 'watermark', value: 50 })
    runAll(subtask)
    assert.deepEqual(log, ['watermark 50'])
    inputs[1]!.writeControl({ kind: 'idle' })
    runAll(subtask)
    assert.deepEqual(log, ['watermark 50', 'watermark 100'])
    inputs[1]!.writeControl({ kind: 'active' })
    inputs[1]!.writeControl({ kind: 'watermark', value: 70 })
    inputs[1]!.writeControl({ kind: 'watermark', value: 120 })
    runAll(subtask)
    assert.deepEqual(log, ['watermark 50', 'watermark 100', 'watermark 120'])
  })

  test('do not reach the end while an input is only idle', () => {
    const { subtask, inputs, outputs, log } = rig(2)
    inputs[0]!.writeControl({ kind: 'watermark', value: 7 })
    inputs[1]!.writeControl({ kind: 'watermark', value: 8 })
    inputs[1]!.writeControl({ kind: 'idle' })
    inputs[0]!.writeControl({ kind: 'watermark', value: WATERMARK_MAX })
    runAll(subtask)
    assert.ok(!subtask.isEnded)
    assert.deepEqual(log.slice(0, 1), ['watermark 7'])
    assert.ok(contents(outputs[0]!).includes('idle'), 'it does not hold its readers back either')
    inputs[1]!.writeControl({ kind: 'active' })
    inputs[1]!.writeBatch(batchOf(1), null, 1)
    inputs[1]!.writeControl({ kind: 'watermark', value: 9 })
    inputs[1]!.writeControl({ kind: 'watermark', value: WATERMARK_MAX })
    runAll(subtask)
    assert.deepEqual(log.slice(-4), [1, 'watermark 9', 'watermark Infinity', 'ended'])
  })

  test('idle is passed on once all inputs are, and taken back', () => {
    const { subtask, inputs, outputs } = rig(2)
    inputs[0]!.writeControl({ kind: 'idle' })
    runAll(subtask)
    assert.deepEqual(contents(outputs[0]!), [])
    inputs[1]!.writeControl({ kind: 'idle' })
    inputs[0]!.writeControl({ kind: 'active' })
    runAll(subtask)
    assert.deepEqual(contents(outputs[0]!), ['idle', 'active'])
  })
})

test('an operator learns which input a batch came from, also when it goes on in mid-batch', () => {
  const log: unknown[] = []
  const router = new OutputRouter([])
  /** One row a call. */
  const operator: Operator = {
    open() {},
    process: (batch, from, _output, input) => {
      log.push([numbersOf(batch)[from], input])
      return from + 1
    },
    advanceWatermark: () => true,
  }
  const [left, right, alsoLeft] = channels(3) as [LocalChannel, LocalChannel, LocalChannel]
  const subtask = new Subtask({
    chain: new Chain([{ operator, keys: null }], router),
    router,
    source: null,
    inputs: [
      { reader: left, input: 0 },
      { reader: right, input: 1 },
      { reader: alsoLeft, input: 0 },
    ],
    alignsBarriers: true,
    monotonicMs: () => 0,
    hooks: { capture: nothing, ended: nothing },
  })
  left.writeBatch(batchOf(1), null, 1)
  right.writeBatch(batchOf(2), null, 1)
  alsoLeft.writeBatch(batchOf(3), null, 1)
  right.writeBatch(batchOf(4, 5), null, 2)
  while (subtask.step(0));
  assert.deepEqual(log, [
    [1, 0],
    [2, 1],
    [3, 0],
    [4, 1],
    [5, 1],
  ])
})

test('a diamond with room for one batch cuts every attempt and loses nothing', () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 80 }), fc.infiniteStream(fc.nat(3)), (steps, turns) => {
      const [input, left, right, toLeft, toRight, out] = [
        ...channels(1, 1_000),
        ...channels(4, 1),
        ...channels(1, 1_000),
      ] as [LocalChannel, LocalChannel, LocalChannel, LocalChannel, LocalChannel, LocalChannel]
      const rigs = [
        rigOf([input], [toLeft, toRight]),
        rigOf([toLeft], [left]),
        rigOf([toRight], [right]),
        rigOf([left, right], [out]),
      ]
      let attempt = 0
      let n = 0
      for (const isBarrier of steps) {
        if (isBarrier) input.writeControl({ kind: 'barrier', attempt: ++attempt })
        else input.writeBatch(batchOf(n++), null, 1)
      }
      input.writeControl({ kind: 'watermark', value: WATERMARK_MAX })
      for (let i = 0; i < 300; i++) rigs[turns.next().value!]!.subtask.step(0)
      for (let moved = true; moved; ) {
        moved = false
        for (const { subtask } of rigs) if (subtask.step(0)) moved = true
      }
      const { log } = rigs[3]!
      const expected = new Map<number, number>()
      let before = 0
      for (const isBarrier of steps) {
        if (isBarrier) before++
        else expected.set(expected.size, before)
      }
      let cuts = 0
      let rows = 0
      for (const entry of log) {
        if (typeof entry === 'number') {
          assert.equal(expected.get(entry), cuts)
          rows++
        } else if ((entry as string).startsWith('cut')) assert.equal(entry, `cut ${++cuts}`)
      }
      assert.equal(rows, n * 2)
      assert.equal(cuts, attempt)
      assert.ok(rigs.every(({ subtask }) => subtask.isEnded))
    }),
    { numRuns: 60 },
  )
})
