/** `millrace state` on checkpoints of real jobs, on both backends, against a model. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { collectSink } from '../connectors/collect/index.ts'
import { collectionSource } from '../connectors/collection/index.ts'
import { StreamExecutionEnvironment, schema, t } from '../engine/api/index.ts'
import { millrace } from './command-testkit.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-state-test-'))
after(() => rmSync(folder, { recursive: true }))

const reading = schema({ sensor: t.string(), value: t.float64() })
const rows = Array.from({ length: 200 }, (_, i) => ({ sensor: `s${i % 7}`, value: i }))

/** Runs a job to its end; the final checkpoint holds a total for each sensor. */
async function runJob(backend: 'memory' | 'rocksdb', directory: string): Promise<void> {
  const env = StreamExecutionEnvironment.getExecutionEnvironment()
  env.setParallelism(2)
  env.setStateBackend(backend)
  env.getCheckpointConfig().setCheckpointStorage(directory)
  env
    .fromSource(collectionSource(rows, reading))
    .keyBy('sensor')
    .reduce((a, b) => ({ ...b, value: a.value + b.value }))
    .uid('running')
    .sinkTo(collectSink())
  await env.execute('readings')
}

for (const backend of ['memory', 'rocksdb'] as const) {
  describe(`state on ${backend}`, () => {
    const directory = join(folder, backend)

    test('objects and their keys', async () => {
      await runJob(backend, directory)
      const shown = await millrace('state', directory, '--operator', 'running', '--json', '--limit', '0')
      assert.equal(shown.code, 0, shown.stderr)
      const entries = shown.stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { key: string; value: { value: number } })
      const totals = new Map<string, number>()
      for (const { sensor, value } of rows) totals.set(sensor, (totals.get(sensor) ?? 0) + value)
      assert.deepEqual(new Map(entries.map(({ key, value }) => [key, value.value])), totals)
      assert.equal(entries.length, totals.size)
    })

    test('the operators, a limit, and an unknown operator', async () => {
      const listed = await millrace('state', directory)
      assert.match(listed.stdout, /^running .*7 entries/m)
      const some = await millrace('state', directory, '--operator', 'running', '--limit', '3')
      assert.equal(some.stdout.trim().split('\n').length, 3)
      const unknown = await millrace('state', directory, '--operator', 'walking')
      assert.equal(unknown.code, 1)
      assert.match(unknown.stderr, /running/)
      assert.equal((await millrace('state')).code, 2)
    })
  })
}
