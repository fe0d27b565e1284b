/**
 * Commits: markers against a manifest, order, retries, and what happens after a failure.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { outputLost, type SinkCommitter } from '../contract/sink.ts'
import { MillraceError } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { nodeIo } from '../runtime/node-io.ts'
import { CommitQueue } from './commits.ts'
import type { PendingCommit } from './manifest.ts'

/** Timers fire at once; their delays are noted. */
function quickIo(delays: number[] = []): Io {
  const schedule = (delayMs: number, task: () => void) => {
    delays.push(delayMs)
    const immediate = setImmediate(task)
    return () => clearImmediate(immediate)
  }
  return { ...nodeIo, timers: { schedule } }
}

interface FakeSink {
  marker: number
  readonly applied: number[]
  /** Errors of the next commits, in order. */
  readonly errors: unknown[]
  closed: boolean
}

function sinkAt(marker: number, ...errors: unknown[]): FakeSink & SinkCommitter {
  return {
    marker,
    applied: [],
    errors,
    closed: false,
    async open() {},
    async readMarker() {
      return this.marker
    },
    async commit(epoch) {
      const error = this.errors.shift()
      if (error !== undefined) throw error
      this.applied.push(epoch)
      this.marker = epoch
    },
    async close() {
      this.closed = true
    },
  }
}

const commitOf = (sink: string, epoch: number): PendingCommit => ({ sink, epoch, committables: [] })

async function queueOf(
  sinks: Record<string, SinkCommitter>,
  io = quickIo(),
  onApplied: (c: PendingCommit) => void = () => {},
) {
  const queue = new CommitQueue(io, async (commit) => onApplied(commit))
  for (const [id, sink] of Object.entries(sinks)) await queue.add(id, 'test', sink)
  return queue
}

describe('markers', () => {
  const verify = async (marker: number, expected: number | null, pending: number[], accept = false) => {
    const queue = await queueOf({ a: sinkAt(marker) })
    queue.verifyMarkers(
      expected === null ? [] : [{ id: 'a', marker: expected }],
      pending.map((epoch) => commitOf('a', epoch)),
      accept,
    )
  }

  test('between the manifest and its pending epochs are right', async () => {
    await verify(4, 4, [])
    await verify(4, 4, [5, 6])
    await verify(5, 4, [5, 6])
    await verify(6, 4, [5, 6])
    await verify(0, null, [])
  })

  test('ahead or behind are refused, unless duplicates are accepted', async () => {
    for (const [marker, expected, pending, code] of [
      [7, 4, [5, 6], 'SINK_AHEAD'],
      [5, 4, [], 'SINK_AHEAD'],
      [3, 4, [5], 'SINK_BEHIND'],
      // A fresh job, or a new sink of an old one, over output that is there already.
      [2, null, [], 'SINK_AHEAD'],
    ] as const) {
      await assert.rejects(verify(marker, expected, [...pending]), { code, message: /a/ })
      await verify(marker, expected, [...pending], true)
    }
  })
})

describe('commits', () => {
  test('are applied in order and skip what the sink has', async () => {
    const a = sinkAt(2)
    const b = sinkAt(0)
    const done: string[] = []
    const queue = await queueOf({ a, b }, quickIo(), (commit) => done.push(`${commit.sink}${commit.epoch}`))
    for (const commit of [commitOf('a', 2), commitOf('b', 2), commitOf('a', 3), commitOf('a', 4)]) {
      queue.enqueue(commit).catch(() => {})
    }
    assert.equal(queue.pending.length, 4)
    await queue.drained()
    assert.deepEqual(a.applied, [3, 4])
    assert.deepEqual(b.applied, [2])
    assert.deepEqual(done, ['a2', 'b2', 'a3', 'a4'])
    assert.deepEqual(queue.pending, [])
    assert.deepEqual(
      queue.markers.map(({ id, marker }) => [id, marker]),
      [
        ['a', 4],
        ['b', 2],
      ],
    )
  })

  test('are tried again with growing pauses', async () => {
    const delays: number[] = []
    const a = sinkAt(0, new Error('one'), new Error('two'))
    const queue = await queueOf({ a }, quickIo(delays))
    await queue.enqueue(commitOf('a', 1))
    assert.deepEqual(a.applied, [1])
    assert.equal(delays.length, 2)
    assert.ok(delays[1]! > delays[0]!)
  })

  test('that fail stay pending, and nothing later is applied', async () => {
    const a = sinkAt(0, ...Array.from({ length: 20 }, () => new Error('down')))
    const b = sinkAt(0)
    const queue = await queueOf({ a, b })
    const first = queue.enqueue(commitOf('a', 1))
    const second = queue.enqueue(commitOf('b', 1))
    await assert.rejects(first, { code: 'COMMIT_FAILED', retryable: true, message: /a.*epoch 1.*down/ })
    await assert.rejects(second)
    assert.deepEqual(b.applied, [])
    assert.equal(queue.pending.length, 2)
    await assert.rejects(queue.drained())
    await queue.close()
    assert.ok(a.closed && b.closed)
  })

  test('that cannot succeed are not tried again; a fenced owner says so', async () => {
    const delays: number[] = []
    const queue = await queueOf({ a: sinkAt(0, new MillraceError('BAD_ROW', 'no')) }, quickIo(delays))
    await assert.rejects(queue.enqueue(commitOf('a', 1)), { code: 'COMMIT_FAILED', retryable: false })
    const fenced = await queueOf({ a: sinkAt(0, new MillraceError('SINK_FENCED', 'another')) }, quickIo(delays))
    await assert.rejects(fenced.enqueue(commitOf('a', 1)), { code: 'SINK_FENCED' })
    assert.deepEqual(delays, [])
  })

  test('whose output is lost end the job, unless the sink has the epoch or cannot say', async () => {
    const delays: number[] = []
    const lost = () => outputLost('outbox/a.seg', 'is gone')
    const queue = await queueOf({ a: sinkAt(0, lost()) }, quickIo(delays))
    const message = /^Sink a cannot apply epoch 1: outbox\/a\.seg is gone\. .*before epoch 1 with --restore PATH/
    await assert.rejects(queue.enqueue(commitOf('a', 1)), { code: 'OUTPUT_LOST', retryable: false, message })
    const broken = { ...sinkAt(0), readMarker: () => Promise.reject(outputLost('marker', 'is damaged', 'Mend it.')) }
    const opening = { code: 'OUTPUT_LOST', message: 'Sink a cannot be opened: marker is damaged. Mend it.' }
    await assert.rejects(queueOf({ a: broken }), opening)
    const peeked = { ...sinkAt(0, lost()), peekMarker: async () => 1 }
    await (await queueOf({ a: peeked }, quickIo(delays))).enqueue(commitOf('a', 1))
    const mute = { ...sinkAt(0, lost()), peekMarker: () => Promise.reject(new Error('down')) }
    const asked = (await queueOf({ a: mute }, quickIo(delays))).enqueue(commitOf('a', 1))
    await assert.rejects(asked, { code: 'COMMIT_FAILED', retryable: true, message: /down/ })
    assert.deepEqual(delays, [])
  })

  test('for a sink that the job lacks are refused', async () => {
    const queue = await queueOf({})
    await assert.rejects(queue.enqueue(commitOf('a', 1)), { code: 'SINK_MISSING' })
  })

  test('close ends every committer, though one fails to', async () => {
    const bad = { ...sinkAt(0), close: () => Promise.reject(new Error('stuck')) }
    const good = sinkAt(0)
    const queue = await queueOf({ bad, good })
    await queue.close()
    assert.ok(good.closed)
  })
})
