/**
 * The coordinator as a state machine under random events, against its invariants; and the cases where a
 * request must not be forgotten.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { CheckpointCoordinator, type CoordinatorOptions, type Decision, PENDING_EPOCHS_MAX } from './coordinator.ts'

const make = (workers = 2, intervalMs: number | null = 100, other: Partial<CoordinatorOptions> = {}) =>
  new CheckpointCoordinator({
    workers,
    intervalMs,
    timeoutMs: 500,
    minPauseMs: 0,
    tolerableFailures: Number.POSITIVE_INFINITY,
    lastAttempt: 10,
    nowMs: 0,
    ...other,
  })

type Event =
  | { readonly do: 'tick'; readonly ms: number }
  | { readonly do: 'request'; readonly kind: 'savepoint' | 'final' }
  | { readonly do: 'ack' | 'abortDone'; readonly worker: number; readonly behind: number }
  | { readonly do: 'decline'; readonly behind: number }
  | { readonly do: 'manifest'; readonly ok: boolean; readonly hasOutput: boolean }
  | { readonly do: 'committed' }

const behind = fc.constantFrom(0, 0, 0, 1, -1)
const anyEvent: fc.Arbitrary<Event> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('tick' as const), ms: fc.integer({ min: 0, max: 300 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('request' as const),
      kind: fc.constantFrom('savepoint' as const, 'savepoint' as const, 'final' as const),
    }),
  },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('ack' as const), worker: fc.nat(2), behind }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('abortDone' as const), worker: fc.nat(2), behind }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('decline' as const), behind }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('manifest' as const), ok: fc.boolean(), hasOutput: fc.boolean() }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('committed' as const) }) },
)

interface Flight {
  readonly attempt: number
  readonly acked: Set<number>
  readonly done: Set<number>
  aborted: boolean
  whole: boolean
}

test('keeps its invariants under any events', () => {
  fc.assert(
    fc.property(fc.array(anyEvent, { maxLength: 150 }), (events) => {
      const coordinator = make(3)
      let now = 0
      let newest = 10
      /** Attempt in flight: what is known about it. */
      const inAir: { flight: Flight | null } = { flight: null }
      let pending = 0
      let final = false
      const observe = (decision: Decision): void => {
        if (decision.do === 'trigger') {
          assert.equal(inAir.flight, null, 'one attempt at a time, none before every abort is done')
          assert.ok(decision.attempt > newest, 'ids grow')
          assert.ok(pending < PENDING_EPOCHS_MAX, 'pending epochs are bounded')
          assert.ok(!final, 'nothing follows the final checkpoint')
          newest = decision.attempt
          inAir.flight = { attempt: newest, acked: new Set(), aborted: false, done: new Set(), whole: false }
        }
        if (decision.do === 'complete') {
          assert.equal(inAir.flight?.attempt, decision.attempt)
          assert.equal(inAir.flight?.acked.size, 3, 'every worker acked')
          assert.ok(!inAir.flight?.aborted)
          inAir.flight!.whole = true
        }
        if (decision.do === 'abort') {
          assert.equal(inAir.flight?.attempt, decision.attempt)
          assert.ok(!inAir.flight?.whole && !inAir.flight?.aborted)
          inAir.flight!.aborted = true
        }
      }
      for (const event of events) {
        switch (event.do) {
          case 'tick':
            now += event.ms
            observe(coordinator.tick(now))
            break
          case 'request':
            observe(coordinator.request(event.kind, now))
            break
          case 'ack':
            if (event.behind === 0 && inAir.flight !== null && !inAir.flight.aborted && !inAir.flight.whole)
              inAir.flight.acked.add(event.worker)
            observe(coordinator.acked(event.worker, newest - event.behind))
            break
          case 'abortDone': {
            observe(coordinator.abortDone(event.worker, newest - event.behind, now))
            if (event.behind !== 0 || inAir.flight === null || !inAir.flight.aborted) break
            inAir.flight.done.add(event.worker)
            if (inAir.flight.done.size === 3) inAir.flight = null
            break
          }
          case 'decline':
            observe(coordinator.declined(newest - event.behind, 'declined'))
            break
          case 'manifest': {
            const { current } = coordinator
            if (current.phase !== 'completing') break
            if (event.ok) {
              coordinator.completed(current.attempt, event.hasOutput, now)
              if (event.hasOutput) pending++
              if (current.kind === 'final') final = true
            } else coordinator.completionFailed(current.attempt, now)
            inAir.flight = null
            break
          }
          case 'committed':
            coordinator.committed()
            pending = Math.max(0, pending - 1)
        }
      }
    }),
    { numRuns: 300 },
  )
})

describe('requests', () => {
  const abortAll = (coordinator: CheckpointCoordinator, attempt: number, now: number): void => {
    for (const worker of [0, 1]) coordinator.abortDone(worker, attempt, now)
  }

  test('a final checkpoint asked for during a savepoint survives the abort of that savepoint', () => {
    const coordinator = make()
    assert.equal(coordinator.request('savepoint', 0).do, 'trigger')
    coordinator.request('final', 1)
    assert.equal(coordinator.declined(11, 'disk full').do, 'abort')
    abortAll(coordinator, 11, 2)
    assert.deepEqual(coordinator.tick(502), { do: 'trigger', attempt: 12, kind: 'final' })
  })

  test('of a plain checkpoint do not take the place of a savepoint', () => {
    const coordinator = make(2, null)
    assert.deepEqual(coordinator.request('checkpoint', 0), { do: 'trigger', attempt: 11, kind: 'checkpoint' })
    coordinator.request('savepoint', 1)
    coordinator.request('checkpoint', 2)
    coordinator.declined(11, 'disk full')
    abortAll(coordinator, 11, 3)
    assert.deepEqual(coordinator.tick(503), { do: 'trigger', attempt: 12, kind: 'savepoint' })
  })

  test('and the failure to write its manifest', () => {
    const coordinator = make()
    coordinator.request('savepoint', 0)
    coordinator.request('final', 1)
    for (const worker of [0, 1]) coordinator.acked(worker, 11)
    coordinator.completionFailed(11, 2)
    assert.deepEqual(coordinator.tick(502), { do: 'trigger', attempt: 12, kind: 'final' })
  })

  test('savepoints and final checkpoints are tried again, periodic ones wait for their time', () => {
    for (const kind of ['savepoint', 'final'] as const) {
      const coordinator = make(2, null)
      coordinator.request(kind, 0)
      coordinator.declined(11, 'disk full')
      abortAll(coordinator, 11, 5)
      assert.equal(coordinator.tick(504).do, 'nothing', 'not at once: a full disk stays full for a while')
      assert.deepEqual(coordinator.tick(505), { do: 'trigger', attempt: 12, kind })
    }
    const periodic = make()
    assert.equal(periodic.tick(100).do, 'trigger')
    periodic.declined(11, 'disk full')
    abortAll(periodic, 11, 150)
    assert.equal(periodic.tick(199).do, 'nothing')
    assert.equal(periodic.tick(200).do, 'trigger')
  })

  test('the interval is between starts; a slow checkpoint delays the next, and the pause is kept', () => {
    for (const minPauseMs of [0, 30, 250]) {
      const coordinator = make(1, 100, { minPauseMs })
      assert.equal(coordinator.tick(100).do, 'trigger')
      coordinator.acked(0, 11)
      coordinator.completed(11, false, 180)
      const next = Math.max(200, 180 + minPauseMs)
      assert.equal(coordinator.tick(next - 1).do, 'nothing')
      assert.equal(coordinator.tick(next).do, 'trigger')
      coordinator.acked(0, 12)
      coordinator.completed(12, false, next + 300)
      const late = next + 300 + minPauseMs
      if (minPauseMs > 0) assert.equal(coordinator.tick(late - 1).do, 'nothing')
      assert.equal(coordinator.tick(late).do, 'trigger')
    }
    const savepoint = make(1, 100, { minPauseMs: 1_000 })
    savepoint.tick(100)
    savepoint.acked(0, 11)
    savepoint.completed(11, false, 110)
    assert.equal(savepoint.request('savepoint', 111).do, 'trigger', 'what was asked for does not pause')
  })

  test('failures in a row are counted, those of savepoints are not, and success forgets them', () => {
    const coordinator = make(1, 100, { tolerableFailures: 1 })
    let attempt = 10
    const failAt = (now: number): boolean => {
      assert.equal(coordinator.tick(now).do, 'trigger')
      coordinator.declined(++attempt, 'disk full')
      coordinator.abortDone(0, attempt, now)
      return coordinator.hasFailedTooOften
    }
    const succeedAt = (now: number): void => {
      assert.equal(coordinator.tick(now).do, 'trigger')
      coordinator.acked(0, ++attempt)
      coordinator.completed(attempt, false, now)
    }
    assert.equal(failAt(100), false)
    succeedAt(700)
    assert.equal(failAt(1_300), false)
    coordinator.request('savepoint', 2_000)
    coordinator.declined(++attempt, 'disk full')
    coordinator.abortDone(0, attempt, 2_001)
    assert.equal(coordinator.hasFailedTooOften, false)
    coordinator.tick(2_600)
    coordinator.acked(0, ++attempt)
    coordinator.completionFailed(attempt, 2_601)
    assert.equal(coordinator.hasFailedTooOften, false, 'a savepoint again')
    succeedAt(3_200)
    assert.equal(failAt(4_000), false)
    assert.equal(failAt(5_000), true)
  })

  test('nothing follows the final checkpoint while its output is applied', () => {
    const coordinator = make(1)
    coordinator.request('final', 0)
    coordinator.acked(0, 11)
    coordinator.completed(11, true, 1)
    assert.equal(coordinator.tick(10_000).do, 'nothing')
  })

  test('epochs that wait for their commit hold the next one back, whoever asks for it', () => {
    const coordinator = make(1)
    for (let epoch = 1; epoch <= PENDING_EPOCHS_MAX; epoch++) {
      assert.equal(coordinator.tick(epoch * 100).do, 'trigger')
      coordinator.acked(0, 10 + epoch)
      coordinator.completed(10 + epoch, true, epoch * 100)
    }
    assert.equal(coordinator.tick(5_000).do, 'nothing')
    assert.equal(coordinator.request('savepoint', 5_000).do, 'nothing')
    coordinator.committed()
    assert.deepEqual(coordinator.tick(5_001), { do: 'trigger', attempt: 11 + PENDING_EPOCHS_MAX, kind: 'savepoint' })
  })

  test('a request alone starts nothing before the next tick', () => {
    const coordinator = make(1, null)
    coordinator.want('final')
    assert.equal(coordinator.current.phase, 'idle')
    assert.equal(coordinator.tick(1).do, 'trigger')
  })

  test('a time-out names the workers that are missing', () => {
    const coordinator = make()
    coordinator.tick(100)
    coordinator.acked(0, 11)
    const decision = coordinator.tick(600)
    assert.equal(decision.do, 'abort')
    assert.match((decision as { reason: string }).reason, /Workers 1 /)
  })
})

test('an abort that never ends is a failure again and again, and too many restart the job', () => {
  const coordinator = make(2, 100, { tolerableFailures: 1 })
  assert.equal(coordinator.tick(100).do, 'trigger')
  assert.equal(coordinator.tick(600).do, 'abort')
  coordinator.abortDone(0, 11, 610)
  assert.equal(coordinator.tick(620).do, 'nothing')
  assert.equal(coordinator.tick(1_119).do, 'nothing')
  assert.equal(coordinator.hasFailedTooOften, false)
  const decision = coordinator.tick(1_120)
  assert.deepEqual([decision.do, coordinator.hasFailedTooOften], ['report', true])
  assert.match((decision as { reason: string }).reason, /Workers 1 are still busy/)
  assert.equal(coordinator.tick(1_130).do, 'nothing')
  assert.equal(coordinator.tick(1_620).do, 'report')
  coordinator.abortDone(1, 11, 1_630)
  assert.equal(coordinator.tick(1_730).do, 'trigger')
})
