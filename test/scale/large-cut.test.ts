/**
 * Decision 4: one cut that has changed millions of keys, while rows go on changing them. It holds no input back for long,
 * and what is restored from it is the state at the cut, for every key.
 *
 * How long barriers take is measured by the clock, so what the workers waited for a processor between the trigger and
 * their cut is allowed on top: it is the machine's part.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { test } from 'node:test'
import { decodeManifest } from '../../engine/checkpoint/manifest.ts'
import { optionsOf, withDirectory } from '../../engine/runtime/job.testkit.ts'
import { launchJob } from '../../engine/runtime/launcher.ts'
import type { JobOptions, RunningJob } from '../../engine/runtime/launcher-types.ts'
import { tryLoadRocksdbAddon } from '../../state/rocksdb-addon.ts'
import { assertTotals, type TotalsOptions, type TotalsSink, totalsAfter, totalsJob } from './keyed-totals.fixture.ts'
import { ProcessorWait } from './processor-wait.testkit.ts'
import { isLong, sized, until } from './scale.testkit.ts'

const KEYS = sized(5_000, 10_000_000)
const CUTS = 3
/** What a barrier may hold an input back, and what a cut may keep a subtask from processing. */
const ALIGNMENT_MS_MAX = 50
/** A changed entry has at least its place in the store, the key and two numbers, packed. */
const ENTRY_BYTES_MIN = 20

const JOB: TotalsOptions = { keys: KEYS, splits: 2, rowsPerSplit: Number.MAX_SAFE_INTEGER, kind: 'columns' }

const skip = tryLoadRocksdbAddon() === null && 'the RocksDB addon is not built'

test('a cut of ten million changed keys holds nobody up, and is restored as it was', { skip }, async (t) => {
  await withDirectory(async (directory) => {
    let positions = [0, 0]
    let savepoint = ''
    const { job, sink } = await launched(JOB, directory)
    for (let cut = 0; cut < CUTS; cut++) {
      const wanted = positions.map((position) => position + KEYS / JOB.splits)
      // Both splits together have changed every key since the last cut.
      await until(() => job.status().splitWatermarks.every(({ split, records }) => records >= wanted[Number(split)]!))
      const waitedMs = waitsOf(sink)
      savepoint = await job.savepoint()
      positions = positionsOf(savepoint)
      const { alignmentMsMax, syncMsMax, barrierMsMax } = job.status().checkpoints.at(-1)!
      const allowedMs = ALIGNMENT_MS_MAX + waitedMs()
      t.diagnostic(
        `alignment ${alignmentMsMax!.toFixed(1)} ms, cut ${syncMsMax!.toFixed(1)} ms, trigger to last cut ` +
          `${barrierMsMax!.toFixed(1)} ms, of which ${waitedMs().toFixed(1)} ms waiting for a processor`,
      )
      assert.ok(alignmentMsMax! <= allowedMs, `alignment took ${alignmentMsMax} ms, allowed are ${allowedMs}`)
      assert.ok(syncMsMax! <= allowedMs, `the cut took ${syncMsMax} ms, allowed are ${allowedMs}`)
    }
    const captured = () =>
      job.status().subtasks.reduce((sum, { operators }) => sum + (operators.at(-2)?.tables[0]?.checkpointBytes ?? 0), 0)
    await until(() => captured() >= KEYS * ENTRY_BYTES_MIN)
    await job.cancel()

    const restored = await launched({ ...JOB, endsAtOnce: true }, directory, savepoint)
    await restored.job.done
    assertTotals(restored.sink, totalsAfter(JOB, positions))
  })
})

async function launched(
  options: TotalsOptions,
  checkpointDirectory: string,
  restore: JobOptions['restore'] = null,
): Promise<{ job: RunningJob; sink: TotalsSink }> {
  const { graph, sink } = totalsJob(options)
  const job = await launchJob(
    graph,
    optionsOf({
      parallelism: 2,
      workers: isLong ? 2 : 0,
      moduleUrl: new URL('./keyed-totals.fixture.ts', import.meta.url).href,
      config: { totals: JSON.stringify(options) },
      stateBackend: 'rocksdb',
      // All changes stay in memory until the cut.
      stateMemoryBytes: sized(64, 1_024) * 2 ** 20,
      checkpointDirectory,
      checkpointTimeoutMs: 600_000,
      restore,
    }),
  )
  await until(() => job.status().state !== 'starting')
  return { job, sink }
}

/** From now on until the sinks' next cut: what the workers' threads wait for a processor, added up. */
function waitsOf({ waitedMs }: TotalsSink): () => number {
  const before = new Map([...waitedMs.keys()].map((thread) => [thread, new ProcessorWait(thread).ms()]))
  return () => [...before].reduce((sum, [thread, ms]) => sum + Math.max(0, waitedMs.get(thread)! - ms), 0)
}

function positionsOf(savepoint: string): number[] {
  const { sources } = decodeManifest(readFileSync(savepoint), basename(savepoint))
  return sources
    .flatMap(({ splits }) => splits)
    .sort((a, b) => Number(a.id) - Number(b.id))
    .map(({ position }) => position as number)
}
