/**
 * Rings between threads: order and nothing lost under any interleaving, pages conserved, counters that
 * wrap, large messages, a real second thread, and a model of the wake-up steps explored exhaustively.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import { batchOfRows, rowReader } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import type { ControlMessage, Message } from './channel.ts'
import { LocalChannel } from './channel.ts'
import { RingReader, RingWriter } from './ring-channel.ts'
import { createRingMemory, PAGE_BYTES, RING_SLOTS, RingMemory, type RingMemoryBuffers } from './ring-memory.ts'
import { BatchEncoder } from './wire.ts'

const ROW = schema({ n: t.int32(), s: t.string() })
const read = rowReader(ROW, new StringInterner(), 'ring test')

function pair(buffers: RingMemoryBuffers, channel = 0): { writer: RingWriter; reader: RingReader; memory: RingMemory } {
  const memory = new RingMemory(buffers)
  const writer = new RingWriter(memory, channel, 1, new BatchEncoder())
  return { writer, reader: new RingReader(new RingMemory(buffers), channel, 0, ROW), memory }
}

function show(message: Message): unknown {
  if (message.kind !== 'batch') return message
  return Array.from({ length: message.batch.length }, (_, i) => read(message.batch, i))
}

const rowsOf = (n: number, bytes: number) => [
  { n, s: 'x' },
  { n: n + 1, s: String(n % 10).repeat(bytes) },
]

/** Pages that a channel can get when nothing is under way. */
function freePages(memory: RingMemory, channel: number): number {
  const pages: number[] = []
  for (let page = memory.acquirePage(channel); page >= 0; page = memory.acquirePage(channel)) pages.push(page)
  assert.equal(new Set(pages).size, pages.length, 'no page is handed out twice')
  for (const page of pages) memory.releasePage(channel, page)
  return pages.length
}

/** Sets head and tail of every ring, as if so many messages had gone through. */
function setCounters(buffers: RingMemoryBuffers, value: number): void {
  const control = new Int32Array(buffers.control)
  const channelInts = 48 + RING_SLOTS * 8
  for (let c = 0; c < buffers.channels; c++) {
    const base = buffers.workers * 16 + c * channelInts
    control[base] = value
    control[base + 16] = value
  }
}

type Step =
  | { readonly do: 'batch'; readonly bytes: number }
  | { readonly do: 'control'; readonly message: ControlMessage }
  | { readonly do: 'settle' }
  | { readonly do: 'read' }

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('batch' as const), bytes: fc.nat(300) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('batch' as const),
      bytes: fc.constantFrom(PAGE_BYTES - 200, PAGE_BYTES, PAGE_BYTES * 3, PAGE_BYTES * 12),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('control' as const),
      message: fc.constantFrom<ControlMessage>(
        { kind: 'watermark', value: 12.5 },
        { kind: 'watermark', value: Number.POSITIVE_INFINITY },
        { kind: 'barrier', attempt: 3_000_000_001 },
        { kind: 'idle' },
        { kind: 'active' },
      ),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('settle' as const) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('read' as const) }) },
)

describe('a ring channel', () => {
  test('is a queue under any interleaving, and gives every page back', () => {
    fc.assert(
      fc.property(
        fc.array(anyStep, { maxLength: 200 }),
        fc.constantFrom(0, 2 ** 31 - 5, -3),
        fc.boolean(),
        (steps, counter, scarce) => {
          const buffers = createRingMemory(2, 2)
          setCounters(buffers, counter)
          const { writer, reader, memory } = pair(buffers)
          // Another channel holds all the floating pages: only the channel's own two are left.
          const taken: number[] = []
          if (scarce) for (let p = memory.acquirePage(1); p >= 0; p = memory.acquirePage(1)) taken.push(p)
          const before = freePages(memory, 0)
          const model: unknown[] = []
          let n = 0
          const readOne = (): boolean => {
            const message = reader.peek()
            if (message === null) return false
            assert.equal(reader.peek(), message, 'peek does not move')
            assert.deepEqual(show(message), model.shift())
            reader.pop()
            return true
          }
          for (const step of steps) {
            if (step.do === 'read') readOne()
            else if (step.do === 'settle') writer.settle()
            else if (step.do === 'control') {
              if (writer.writeControl(step.message)) model.push(step.message)
            } else {
              const rows = rowsOf(n, step.bytes)
              if (writer.writeBatch(batchOfRows(ROW, rows), null, 2)) model.push(rows)
              n += 2
            }
          }
          for (let rounds = 0; model.length > 0; rounds++) {
            writer.settle()
            readOne()
            assert.ok(rounds < 1_000, 'writer or reader can go on')
          }
          assert.ok(writer.settle())
          assert.equal(reader.peek(), null)
          assert.equal(freePages(memory, 0), before, 'every page is free again')
          for (const page of taken) memory.releasePage(1, page)
        },
      ),
      { numRuns: 60 },
    )
  })

  test('carries a message larger than all its pages', () => {
    const buffers = createRingMemory(1, 2)
    const { writer, reader, memory } = pair(buffers)
    const before = freePages(memory, 0)
    const rows = rowsOf(7, PAGE_BYTES * 40)
    assert.ok(writer.writeBatch(batchOfRows(ROW, rows), null, 2))
    assert.ok(!writer.writeControl({ kind: 'idle' }), 'nothing overtakes the rest of a message')
    let rounds = 0
    while (reader.peek() === null) {
      writer.settle()
      assert.ok(++rounds < 100)
    }
    assert.deepEqual(show(reader.peek()!), rows)
    reader.pop()
    assert.equal(freePages(memory, 0), before)
  })

  test('refuses control messages while every slot is taken, and wakes the writer afterwards', () => {
    const buffers = createRingMemory(1, 2)
    const { writer, reader, memory } = pair(buffers)
    for (let i = 0; i < RING_SLOTS; i++) assert.ok(writer.writeControl({ kind: 'watermark', value: i }))
    assert.ok(!writer.writeControl({ kind: 'barrier', attempt: 1 }))
    assert.ok(!writer.writeBatch(batchOfRows(ROW, rowsOf(0, 1)), null, 2))
    memory.setSleeping(0, true)
    const seen = memory.sequence(0)
    assert.deepEqual(reader.peek(), { kind: 'watermark', value: 0 })
    reader.pop()
    assert.notEqual(memory.sequence(0), seen, 'the pop woke the writer')
    assert.ok(writer.writeControl({ kind: 'barrier', attempt: 1 }))
  })
})

test('a local channel is a bounded queue that keeps nothing it has handed out', () => {
  let room = 0
  const channel = new LocalChannel(
    2,
    () => {},
    () => room++,
  )
  const batch = batchOfRows(ROW, rowsOf(1, 1))
  for (let round = 0; round < 200; round++) {
    assert.ok(channel.writeBatch(batch, null, 2))
    assert.ok(channel.writeControl({ kind: 'watermark', value: round }))
    assert.ok(channel.writeBatch(batch, Int32Array.of(1), 1))
    assert.ok(!channel.writeBatch(batch, null, 2))
    assert.deepEqual(show(channel.peek()!), rowsOf(1, 1))
    channel.pop()
    assert.equal(room, round + 1)
    assert.deepEqual(channel.peek(), { kind: 'watermark', value: round })
    channel.pop()
    assert.deepEqual(show(channel.peek()!), rowsOf(1, 1).slice(1))
    channel.pop()
    assert.equal(channel.peek(), null)
    const { queue } = channel as unknown as { queue: unknown[] }
    assert.ok(
      queue.every((place) => place === undefined),
      'popped batches can be collected',
    )
  }
})

const WRITER_THREAD = `
const { workerData } = require('node:worker_threads')
;(async () => {
  const at = (file) => import(new URL(file, workerData.base).href)
  const { RingMemory } = await at('./ring-memory.ts')
  const { RingWriter } = await at('./ring-channel.ts')
  const { BatchEncoder } = await at('./wire.ts')
  const { batchOfRows } = await at('../core/rows.ts')
  const { schema, t } = await at('../core/schema.ts')
  const ROW = schema({ n: t.int32(), s: t.string() })
  const memory = new RingMemory(workerData.buffers)
  const writer = new RingWriter(memory, 0, 1, new BatchEncoder())
  const keep = setInterval(() => {}, 1000)
  // The worker loop in small: try, say that it sleeps, try again, sleep. No timer helps out.
  const until = async (attempt) => {
    for (;;) {
      memory.setSleeping(0, false)
      if (attempt()) return
      memory.setSleeping(0, true)
      const seen = memory.sequence(0)
      if (attempt()) return
      await memory.waitForChange(0, seen)
    }
  }
  let n = 0
  while (n < workerData.rows) {
    const rows = Array.from({ length: 1000 }, () => ({ n: n++, s: n % 40_000 === 0 ? 'y'.repeat(300_000) : 'row ' + n }))
    const batch = batchOfRows(ROW, rows)
    await until(() => writer.writeBatch(batch, null, 1000))
    if (n % 3000 === 0) await until(() => writer.writeControl({ kind: 'watermark', value: n }))
  }
  await until(() => writer.writeControl({ kind: 'barrier', attempt: 1 }))
  clearInterval(keep)
})()
`

test('200,000 rows cross between two threads, in order, with sleeping on both sides', async () => {
  const buffers = createRingMemory(1, 2)
  const rows = 200_000
  const worker = new Worker(WRITER_THREAD, {
    eval: true,
    workerData: { buffers, rows, base: import.meta.url },
  })
  const failed = new Promise<never>((_, reject) => worker.on('error', reject))
  const exited = new Promise((resolve) => worker.on('exit', resolve))
  const keep = setInterval(() => {}, 1_000)
  try {
    const memory = new RingMemory(buffers)
    const reader = new RingReader(memory, 0, 0, ROW)
    let next = 0
    let bytes = 0
    const drain = (): 'end' | boolean => {
      let moved = false
      for (let message = reader.peek(); message !== null; message = reader.peek()) {
        moved = true
        if (message.kind === 'batch') {
          const { values } = message.batch.columns[0] as { values: Int32Array }
          for (const value of values) if (value !== next++) assert.fail(`row ${value} at ${next - 1}`)
          const strings = message.batch.columns[1] as { starts: Int32Array; ends: Int32Array }
          for (let i = 0; i < message.batch.length; i++) bytes += strings.ends[i]! - strings.starts[i]!
        }
        if (message.kind === 'watermark') assert.equal(message.value, next)
        reader.pop()
        if (message.kind === 'barrier') return 'end'
      }
      return moved
    }
    const readAll = async () => {
      for (;;) {
        memory.setSleeping(1, false)
        const first = drain()
        if (first === 'end') return
        if (first) continue
        memory.setSleeping(1, true)
        const seen = memory.sequence(1)
        const second = drain()
        if (second === 'end') return
        if (!second) await memory.waitForChange(1, seen)
      }
    }
    await Promise.race([readAll(), failed])
    assert.equal(next, rows)
    assert.ok(bytes > 5 * 300_000)
    await exited
    assert.equal(freePages(memory, 0), 6)
  } finally {
    clearInterval(keep)
    await worker.terminate()
  }
})

/**
 * The wake-up steps of two workers, each atomic access a step of its own: a writer that publishes
 * `messages` over a ring of one slot, and a reader. Explored exhaustively; a state where both sleep, or
 * one sleeps with nobody left to wake it, while work is left, is a lost wake-up.
 *
 * Steps as in ring-channel.ts (acquire, publish, pop), ring-memory.ts (wake) and worker-runtime.ts
 * (awake, pass, fallAsleep, pass, sleep).
 */
interface Model {
  readonly published: number
  readonly popped: number
  readonly waits: boolean
  readonly sleeping: readonly [boolean, boolean]
  readonly sequence: readonly [number, number]
  /** Program counters: 0 writer, 1 reader. */
  readonly at: readonly [string, string]
  readonly seen: readonly [number, number]
  readonly second: readonly [boolean, boolean]
}

interface Variation {
  /** Looks at the rings again after saying that it sleeps. */
  readonly looksAgain: boolean
  /** The writer tries again after saying that it waits. */
  readonly triesAgain: boolean
}

const SOUND: Variation = { looksAgain: true, triesAgain: true }

function replace<T>(two: readonly [T, T], side: number, value: T): readonly [T, T] {
  return side === 0 ? [value, two[1]] : [two[0], value]
}

/** The next state when `side` makes its step, or null when it cannot. */
function step(state: Model, side: 0 | 1, messages: number, variation: Variation): Model | null {
  const go = (at: string, change: Partial<Model> = {}): Model => ({
    ...state,
    ...change,
    at: replace(change.at ?? state.at, side, at),
  })
  const peer = 1 - side
  const idle = (): Model => {
    if (state.second[side]) return go('sleep')
    return go('flag')
  }
  switch (state.at[side]) {
    case 'awake':
      return go('work', { sleeping: replace(state.sleeping, side, false), second: replace(state.second, side, false) })
    case 'work':
      if (side === 1) {
        if (state.popped === messages) return go('done')
        if (state.published === state.popped) return idle()
        return go('free')
      }
      if (state.published === messages) return go('done')
      return state.published - state.popped < 1 ? go('publish') : go('sayWaits')
    case 'publish':
      return go('wakePeer', { published: state.published + 1 })
    case 'sayWaits':
      return variation.triesAgain ? go('tryAgain', { waits: true }) : { ...idle(), waits: true }
    case 'tryAgain':
      return state.published - state.popped < 1 ? go('publish') : idle()
    case 'free':
      return go('lookWaits', { popped: state.popped + 1 })
    case 'lookWaits':
      return state.waits ? go('clearWaits') : go('awake')
    case 'clearWaits':
      return go('wakePeer', { waits: false })
    case 'wakePeer':
      return state.sleeping[peer] ? go('notify') : go('awake')
    case 'notify': {
      // add and notify: a peer that waits on an older sequence goes on.
      const sequence = replace(state.sequence, peer, state.sequence[peer]! + 1)
      const at = state.at[peer] === 'asleep' ? replace(state.at, peer, 'awake') : state.at
      return { ...state, sequence, at: replace(at, side, 'awake') }
    }
    case 'flag':
      return go('sequence', { sleeping: replace(state.sleeping, side, true) })
    case 'sequence': {
      const seen = replace(state.seen, side, state.sequence[side])
      return go('again', { seen })
    }
    case 'again':
      if (!variation.looksAgain) return go('sleep')
      return go('work', { second: replace(state.second, side, true) })
    case 'sleep':
      return state.sequence[side] === state.seen[side] ? go('asleep') : go('awake')
    default:
      return null
  }
}

function explore(messages: number, variation: Variation): { states: number; lost: Model | null } {
  const start: Model = {
    published: 0,
    popped: 0,
    waits: false,
    sleeping: [false, false],
    sequence: [0, 0],
    at: ['awake', 'awake'],
    seen: [0, 0],
    second: [false, false],
  }
  const seen = new Set([JSON.stringify(start)])
  const queue = [start]
  for (let state = queue.pop(); state !== undefined; state = queue.pop()) {
    const next = ([0, 1] as const).map((side) => step(state, side, messages, variation)).filter((s) => s !== null)
    if (next.length === 0 && !state.at.every((at) => at === 'done')) return { states: seen.size, lost: state }
    for (const s of next) {
      const key = JSON.stringify(s)
      if (seen.has(key)) continue
      seen.add(key)
      queue.push(s)
    }
  }
  return { states: seen.size, lost: null }
}

describe('wake-up', () => {
  test('is never lost, whatever the interleaving', () => {
    for (const messages of [1, 2, 3, 4]) {
      const { states, lost } = explore(messages, SOUND)
      assert.equal(lost, null)
      assert.ok(states > 30 * messages, 'the model moves')
    }
  })

  test('would be lost without looking again: the model can tell', () => {
    assert.notEqual(explore(3, { ...SOUND, looksAgain: false }).lost, null)
  })

  test('would be lost by a writer that does not try again after saying that it waits', () => {
    assert.notEqual(explore(3, { ...SOUND, triesAgain: false }).lost, null)
  })
})
