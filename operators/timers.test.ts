/**
 * Timers of both domains against a model: sorted lists of (time, key, namespace), through blocked output,
 * evictions and restores at other parallelisms.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { TimeDomain } from '../engine/contract/functions.ts'
import type { Operator, OperatorContext, Output } from '../engine/contract/operator.ts'
import type { Batch } from '../engine/core/batch.ts'
import { decodeKey } from '../engine/core/keys.ts'
import { rowReader } from '../engine/core/rows.ts'
import { OPAQUE_SCHEMA } from '../engine/core/schema.ts'
import { StringInterner } from '../engine/core/strings.ts'
import { RowCollector } from './collector.ts'
import { OperatorRig } from './operator.testkit.ts'
import { NumberQueue, TimerQueue } from './timer-queue.ts'
import { type FireTimer, InternalTimerService } from './timers.ts'

interface Row {
  readonly key: string
  readonly act: 'register' | 'delete'
  readonly domain: TimeDomain
  readonly timeMs: number
  readonly namespace: number
}

interface Fired {
  readonly key: string
  readonly domain: TimeDomain
  readonly timeMs: number
  readonly namespace: number
}

/** What the operator does when a timer fires, beside saying so: the model does the same. */
function followUps({ domain, timeMs, namespace }: Fired): readonly Omit<Row, 'key'>[] {
  const other: TimeDomain = domain === 'EVENT_TIME' ? 'PROCESSING_TIME' : 'EVENT_TIME'
  return [
    ...(timeMs % 7 === 0 ? [{ act: 'register', domain, timeMs: timeMs + 1_001, namespace } as const] : []),
    ...(timeMs % 700 === 0 ? [{ act: 'register', domain, timeMs: timeMs + 1, namespace: namespace + 1 } as const] : []),
    ...(timeMs % 1_050 === 0 ? [{ act: 'delete', domain, timeMs: timeMs + 350, namespace } as const] : []),
    ...(timeMs % 1_400 === 0 ? [{ act: 'register', domain: other, timeMs: timeMs + 2, namespace: 9 } as const] : []),
  ]
}

class TimerOperator implements Operator {
  private readonly collector = new RowCollector(OPAQUE_SCHEMA)
  private timers!: InternalTimerService
  private output!: Output
  private firing: number | null = null
  private watermark = Number.NEGATIVE_INFINITY

  open(context: OperatorContext): void {
    this.timers = new InternalTimerService(context, { namespaced: true })
  }

  private act(row: Omit<Row, 'key'>, keys: NonNullable<Batch['keys']>, at: number): void {
    const { timers } = this
    const { timeMs, namespace } = row
    const isEventTime = row.domain === 'EVENT_TIME'
    if (row.act === 'register') {
      if (isEventTime) timers.registerEventTimeTimer(keys, at, timeMs, namespace)
      else timers.registerProcessingTimeTimer(keys, at, timeMs, namespace)
    } else if (isEventTime) timers.deleteEventTimeTimer(keys, at, timeMs, namespace)
    else timers.deleteProcessingTimeTimer(keys, at, timeMs, namespace)
  }

  process(batch: Batch, from: number): number {
    const read = rowReader(batch.schema, new StringInterner(), 'timers')
    for (let i = from; i < batch.length; i++) this.act(read(batch, i) as Row, batch.keys!, i)
    return batch.length
  }

  private readonly fire: FireTimer = ({ timeMs, namespace, keys }, domain) => {
    const key = decodeKey(keys.bytes, keys.starts[0]!, keys.ends[0]!) as string
    const fired: Fired = { key, domain, timeMs, namespace }
    for (const row of followUps(fired)) this.act(row, keys, 0)
    // The key's bytes must have outlived what was registered.
    assert.equal(decodeKey(keys.bytes, keys.starts[0]!, keys.ends[0]!), key)
    this.collector.add(fired, timeMs, this.output)
  }

  advanceWatermark(watermark: number, output: Output): boolean {
    this.output = output
    if (this.firing === null && watermark <= this.watermark) return true
    this.watermark = watermark
    this.firing = watermark
    const done = this.timers.advanceWatermark(watermark, output, this.fire)
    this.collector.flush(output)
    if (done) this.firing = null
    return done
  }

  onProcessingTime(nowMs: number, output: Output): boolean {
    this.output = output
    const done = this.timers.onProcessingTime(nowMs, output, this.fire)
    this.collector.flush(output)
    return done
  }
}

const rigOf = (options: { batchRows?: number; capacityOne?: boolean; memoryBudgetBytes?: number } = {}) =>
  new OperatorRig({
    create: () => new TimerOperator(),
    schema: OPAQUE_SCHEMA,
    keyOf: (row) => (row as Row).key,
    ...options,
  })

const same = (a: Omit<Row, 'act'>, b: Omit<Row, 'act'>) =>
  a.key === b.key && a.domain === b.domain && a.timeMs === b.timeMs && a.namespace === b.namespace

class Model {
  readonly fired: Fired[] = []
  private timers: Fired[] = []

  row(row: Row): void {
    const { key, domain, timeMs, namespace } = row
    this.timers = this.timers.filter((timer) => !same(timer, row))
    if (row.act === 'register') this.timers.push({ key, domain, timeMs, namespace })
  }

  advance(domain: TimeDomain, upTo: number): void {
    for (;;) {
      const due = this.timers
        .filter((timer) => timer.domain === domain && timer.timeMs <= upTo)
        .sort((a, b) => a.timeMs - b.timeMs)[0]
      if (due === undefined) return
      this.timers.splice(this.timers.indexOf(due), 1)
      this.fired.push(due)
      for (const row of followUps(due)) this.row({ key: due.key, ...row })
    }
  }
}

const textsOf = (fired: readonly Fired[]) => fired.map((f) => `${f.key} ${f.domain} ${f.timeMs} ${f.namespace}`).sort()

const rows = fc.array(
  fc.record({
    key: fc.constantFrom('a', 'b', 'c', 'a longer key'),
    act: fc.constantFrom<Row['act']>('register', 'register', 'register', 'delete'),
    domain: fc.constantFrom<TimeDomain>('EVENT_TIME', 'PROCESSING_TIME'),
    timeMs: fc.integer({ min: 0, max: 16 }).map((n) => n * 350),
    namespace: fc.constantFrom(0, 0, -5, 17),
  }),
  { minLength: 1, maxLength: 15 },
)

describe('timers', () => {
  test('behave as the model in both domains', () => {
    let fired = 0
    const scenario = fc.record({
      batchRows: fc.integer({ min: 1, max: 7 }),
      capacityOne: fc.boolean(),
      memoryBudgetBytes: fc.constantFrom(500, 1 << 24),
      steps: fc.array(
        fc.oneof(
          { weight: 4, arbitrary: rows },
          { weight: 2, arbitrary: fc.record({ watermark: fc.integer({ min: 1, max: 1_500 }) }) },
          { weight: 2, arbitrary: fc.record({ now: fc.integer({ min: 1, max: 1_500 }) }) },
          { weight: 1, arbitrary: fc.record({ restore: fc.constantFrom(1, 2, 3) }) },
        ),
        { maxLength: 20, size: 'max' },
      ),
    })
    fc.assert(
      fc.property(scenario, ({ steps, ...options }) => {
        const model = new Model()
        const rig = rigOf(options)
        let watermark = -1
        const advanceNow = (nowMs: number) => {
          // A timer of the past fires as soon as the chain is drained.
          model.advance('PROCESSING_TIME', nowMs)
          rig.processingTime(nowMs)
        }
        for (const step of steps) {
          if (Array.isArray(step)) {
            for (const row of step) model.row(row)
            rig.push(
              step,
              step.map(() => 0),
            )
          } else if ('watermark' in step) {
            watermark += step.watermark
            model.advance('EVENT_TIME', watermark)
            rig.watermark(watermark)
          } else if ('now' in step) advanceNow(rig.nowMs + step.now)
          else rig.restore(step.restore)
        }
        advanceNow(50_000)
        model.advance('EVENT_TIME', 50_000)
        rig.watermark(50_000)
        advanceNow(50_001)
        const actual = rig.output.main.map(({ row }) => row as Fired)
        assert.deepEqual(textsOf(actual), textsOf(model.fired))
        fired += actual.length
        rig.close()
      }),
      { numRuns: 40 },
    )
    assert.ok(fired > 200)
  })

  test('a bucket larger than a call may load fires in order over several calls', () => {
    const rig = rigOf()
    const count = 20_000
    const all = Array.from({ length: count }, (_, i): Row => {
      return {
        key: `key-${i}`,
        act: 'register',
        domain: 'PROCESSING_TIME',
        timeMs: 5_001 + 7 * (i % 100) + 1 + (i % 5),
        namespace: 0,
      }
    })
    rig.push(
      all,
      all.map(() => 0),
    )
    rig.restore(1)
    const { operator } = rig.subtasks[0]!
    let calls = 1
    while (!operator.onProcessingTime!(5_999, rig.output)) calls++
    assert.ok(calls > 10)
    const times = rig.output.main.map(({ row }) => (row as Fired).timeMs)
    assert.equal(times.length, count)
    assert.deepEqual(
      times,
      times.toSorted((a, b) => a - b),
    )
    rig.close()
  })

  test('registering and deleting within the current second over and over takes no more room', () => {
    const rig = rigOf()
    const move = (timeMs: number, act: Row['act']): Row => ({
      key: 'session',
      act,
      domain: 'EVENT_TIME',
      timeMs,
      namespace: 0,
    })
    rig.push([move(1_999, 'register')], [0])
    rig.watermark(1_000)
    for (let round = 0; round < 50; round++) {
      const moves = Array.from({ length: 500 }, (_, i) => [move(1_100 + i, 'register'), move(1_100 + i, 'delete')])
      rig.push(
        moves.flat(),
        moves.flat().map(() => 0),
      )
    }
    const timers = (rig.subtasks[0]!.operator as unknown as { timers: { eventTime: { queue: TimerQueue } } }).timers
    assert.ok(timers.eventTime.queue.size < 2_000)
    rig.watermark(1_999)
    assert.equal(rig.output.main.length, 1)
    rig.close()
  })

  test('no processing-time timer fires after the end of input', () => {
    const rig = rigOf()
    rig.push([{ key: 'a', act: 'register', domain: 'PROCESSING_TIME', timeMs: 2_000, namespace: 0 }], [0])
    rig.watermark(Number.POSITIVE_INFINITY)
    rig.processingTime(3_000)
    assert.deepEqual(rig.output.main, [])
    rig.close()
  })
})

test('queues give out what they took, smallest first', () => {
  fc.assert(
    fc.property(fc.array(fc.option(fc.integer({ min: 0, max: 20 }), { freq: 2 }), { maxLength: 400 }), (steps) => {
      const timers = new TimerQueue()
      const numbers = new NumberQueue()
      let model: { timeMs: number; id: number }[] = []
      steps.forEach((step, id) => {
        if (step !== null) {
          const bytes = Buffer.from(`key ${id}`)
          const keys = {
            bytes,
            starts: Int32Array.of(0),
            ends: Int32Array.of(bytes.length),
            hashes: Int32Array.of(id),
          }
          timers.push(step, id, keys, 0)
          numbers.push(step)
          model.push({ timeMs: step, id })
        } else if (model.length > 0) {
          model = model.toSorted((a, b) => a.timeMs - b.timeMs || a.id - b.id)
          const first = model.shift()!
          assert.equal(timers.firstTimeMs, first.timeMs)
          const popped = timers.pop()
          const { bytes, starts, ends } = popped.keys
          assert.deepEqual([popped.timeMs, popped.namespace], [first.timeMs, first.id])
          assert.equal(Buffer.from(bytes.subarray(starts[0], ends[0])).toString(), `key ${first.id}`)
          assert.equal(numbers.pop(), first.timeMs)
        }
        assert.equal(timers.size, model.length)
      })
    }),
    { numRuns: 100 },
  )
})

test('a queue of many timers gives them out in order too, whatever their records are numbered', () => {
  for (const next of [0, -2_048, 0x7fff_fc00]) {
    const queue = new TimerQueue()
    Object.assign(queue, { next, firstBlock: next >>> 10 })
    const keysOf = (id: number) => {
      const bytes = Buffer.from(`key ${id}`)
      return { bytes, starts: Int32Array.of(0), ends: Int32Array.of(bytes.length), hashes: Int32Array.of(id) }
    }
    const times: number[] = []
    let last = -1
    const pop = () => {
      const { timeMs, namespace, keys } = queue.pop()
      // Those of the same time come as they were pushed; what is shown outlives a push.
      const order = timeMs * 10_000 + namespace
      queue.push(49, times.push(49) - 1, keysOf(times.length - 1), 0)
      assert.ok(order > last, `${order} after ${last}`)
      last = order
      assert.equal(timeMs, times[namespace])
      assert.equal(Buffer.from(keys.bytes.subarray(keys.starts[0], keys.ends[0])).toString(), `key ${namespace}`)
    }
    for (let id = 0; id < 5_000; id++) {
      times.push((id * 7) % 50)
      queue.push(times[id]!, id, keysOf(id), 0)
    }
    for (let round = 0; round < 4_000; round++) pop()
    assert.equal(queue.size, 5_000)
    const { blocks } = queue as unknown as { blocks: unknown[] }
    assert.ok(blocks.length <= 10, `${blocks.length} blocks`)
  }
})
