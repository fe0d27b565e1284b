/** A folder that is watched: files that appear while a job runs, over failures and restarts, none twice and none missed. */
import assert from 'node:assert/strict'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  milliseconds,
  RestartStrategies,
  StreamExecutionEnvironment,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from '../../engine/api/index.ts'
import { until } from '../../engine/runtime/job.testkit.ts'
import { collectSink } from '../collect/index.ts'
import { withDirectory } from '../testing-context.ts'
import { filesSource } from './index.ts'

const ROW = schema({ id: t.int32(), at: t.timestamp() })
const ROWS_A_FILE = 50

/** Writes a file under a hidden name first, as the source asks. */
async function appear(directory: string, number: number): Promise<void> {
  const lines = Array.from({ length: ROWS_A_FILE }, (_, i) => {
    const id = number * ROWS_A_FILE + i
    return `${JSON.stringify({ id, at: id * 100 })}\n`
  })
  await writeFile(join(directory, '.incoming'), lines.join(''))
  await rename(join(directory, '.incoming'), join(directory, `file-${String(number).padStart(3, '0')}.jsonl`))
}

test('files are found while the job runs, over failures and a restart from its checkpoint', () =>
  withDirectory(async (directory) => {
    const folder = join(directory, 'in')
    await mkdir(folder)
    await appear(folder, 0)
    const sink = collectSink<number>({ exactlyOnce: true })
    let failAt = 120
    const start = (restore: string | null) => {
      const env = StreamExecutionEnvironment.createEnvironment()
      env.setParallelism(2)
      env.enableCheckpointing(milliseconds(20))
      env.getCheckpointConfig().setCheckpointStorage(join(directory, 'checkpoints'))
      env.setRestartStrategy(RestartStrategies.fixedDelayRestart(10, milliseconds(1)))
      env
        .fromSource(filesSource({ path: folder, schema: ROW, monitorContinuously: milliseconds(15) }))
        .uid('files')
        .map((row) => {
          if (row.id >= failAt) {
            failAt = Number.POSITIVE_INFINITY
            throw new Error('once')
          }
          return row.id
        })
        .uid('ids')
        .sinkTo(sink)
        .uid('collected')
      return env.executeAsync('watch', restore === null ? {} : { args: ['--restore', restore] })
    }
    const first = await start(null)
    for (let number = 1; number < 6; number++) {
      await appear(folder, number)
      await new Promise((resolve) => setTimeout(resolve, 25))
    }
    await until(() => sink.rows().length >= 6 * ROWS_A_FILE, 'output of six files')
    await first.stop()
    await appear(folder, 6)
    const second = await start('latest')
    await appear(folder, 7)
    await until(() => sink.rows().length >= 8 * ROWS_A_FILE, 'output of eight files')
    await second.stop()
    const ids = [...sink.rows()].sort((a, b) => a - b)
    assert.deepEqual(
      ids,
      Array.from({ length: 8 * ROWS_A_FILE }, (_, i) => i),
    )
  }))

test('a finished file does not hold time back', () =>
  withDirectory(async (directory) => {
    const env = StreamExecutionEnvironment.createEnvironment()
    const sink = collectSink<number>()
    env.setParallelism(1)
    env
      .fromSource(
        filesSource({ path: directory, schema: ROW, monitorContinuously: milliseconds(10) }),
        WatermarkStrategy.forBoundedOutOfOrderness<{ id: number; at: number }>(0).withTimestampAssigner('at'),
      )
      .keyBy(() => 'all')
      .window(TumblingEventTimeWindows.of(seconds(1)))
      .aggregate({ createAccumulator: () => 0, add: (_, n) => n + 1, getResult: (n) => n, merge: (a, b) => a + b })
      .sinkTo(sink)
    const running = await env.executeAsync('watch')
    await appear(directory, 0)
    await new Promise((resolve) => setTimeout(resolve, 60))
    await appear(directory, 1)
    // Windows of the second file can only fire when the first one, which ended before them, is left out.
    await until(() => sink.rows().length >= 9, 'windows of the second file')
    await running.cancel()
    assert.ok(sink.rows().every((n) => n === 10))
  }))
