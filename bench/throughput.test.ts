/** The throughput benchmarks on tiny inputs, so that they cannot rot; they check their own sums. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { measureThroughput, PIPELINES, type PipelineName } from './throughput.ts'

for (const pipeline of Object.keys(PIPELINES) as PipelineName[]) {
  for (const parallelism of pipeline === 'engine' ? [1, 2] : [2]) {
    test(`${pipeline} counts every event with parallelism ${parallelism}`, async () => {
      const options = { events: 50_000, parallelism, keys: 1_000, checkpointIntervalMs: 50, rate: 10_000 }
      const result = await measureThroughput(pipeline, options)
      assert.ok(result.rowsOut >= 4_000, 'a row for each key and window')
      assert.ok(result.eventsPerCpuSecond > 0)
    })
  }
}
