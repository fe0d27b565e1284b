/**
 * Decision 11: state of ten times its memory, whose keys come in an order in which hardly any is in memory. Every key's
 * result is right, and reading them does not make the worker's turns long.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { optionsOf } from '../../engine/runtime/job.testkit.ts'
import { launchJob } from '../../engine/runtime/launcher.ts'
import type { RunningJob } from '../../engine/runtime/launcher-types.ts'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import { assertTotals, totalsAfter, totalsJob } from './keyed-totals.fixture.ts'
import { LoopPauses } from './pauses.testkit.ts'
import { Cuts, sized } from './scale.testkit.ts'

const KEYS = sized(10_000, 2_000_000)
const ROWS = KEYS * 2
/** What a key takes in memory with its two numbers, at least. */
const KEY_BYTES = 50
const STATE_BYTES = (KEYS * KEY_BYTES) / 10
const CUTS = Array.from({ length: 8 }, (_, i) => ((i + 1) * ROWS) / 9)
const TURN_MS_MAX = sized(100, 12)

const skip = tryLoadRocksdbAddon() === null && 'the RocksDB addon is not built'

test('state of ten times its memory is right, and turns stay short', { skip }, async (t) => {
  const pauses = new LoopPauses()
  const cuts = new Cuts(CUTS)
  let job: RunningJob | null = null
  let isRunning = false
  const options = {
    keys: KEYS,
    splits: 1,
    rowsPerSplit: ROWS,
    kind: 'columns',
    onPoll(position: number) {
      if (job === null) return true
      if (!isRunning) pauses.begin()
      isRunning = true
      cuts.passed(position, job)
      return false
    },
  } as const
  const { graph, sink } = totalsJob(options)
  job = await launchJob(
    graph,
    optionsOf({
      stateBackend: 'rocksdb',
      stateMemoryBytes: STATE_BYTES,
      checkpointTimeoutMs: 600_000,
    }),
  )
  await job.done
  pauses.end()
  const coldReads = job.status().subtasks.flatMap(({ operators }) => operators.map((operator) => operator.coldReads))
  const cold = coldReads.reduce((sum, reads) => sum + reads, 0)
  t.diagnostic(`${pauses}; ${cold} keys were read from the store`)
  assert.ok(cold > KEYS * 0.8, `${cold} of ${KEYS} keys were read from the store when they came again`)
  assertTotals(sink, totalsAfter(options, [ROWS]))
  const p99 = pauses.turns.quantileMs(0.99)
  assert.ok(p99 <= TURN_MS_MAX, `a turn in a hundred took more than ${p99} ms of CPU time: ${pauses}`)
})
