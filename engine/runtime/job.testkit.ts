/** What tests of whole jobs share: options, a directory, how to wait, and the exact answer of the fixture's job. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CHECKPOINT_POLICY_DEFAULT } from '../checkpoint/checkpoint-policy.ts'
import { type Delivered, expectedTotals, type FixtureOptions } from './job.fixture.ts'
import type { JobOptions } from './launcher-types.ts'

export function optionsOf(overrides: Partial<JobOptions>): JobOptions {
  return {
    name: 'fixture',
    parallelism: 1,
    workers: 0,
    moduleUrl: null,
    checkpointIntervalMs: null,
    checkpointTimeoutMs: 10_000,
    runtimeMode: 'streaming',
    checkpointPolicy: CHECKPOINT_POLICY_DEFAULT,
    checkpointDirectory: null,
    stateBackend: 'memory',
    restore: null,
    allowNonRestoredState: false,
    acceptDuplicates: false,
    restart: { kind: 'none' },
    keyGroups: 128,
    stateMemoryBytes: 64 << 20,
    config: {},
    onEvent: () => {},
    ...overrides,
  }
}

export async function withDirectory(body: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-job-'))
  try {
    await body(directory)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** No machine is so busy for so long: who waits until then has found a job that hangs. */
const WAIT_MS_MAX = 120_000

/** Waits for a condition that comes about by itself, however long a busy machine takes for it. */
export async function until(condition: () => boolean, what = String(condition)): Promise<void> {
  const limitMs = performance.now() + WAIT_MS_MAX
  while (!condition()) {
    assert.ok(performance.now() < limitMs, `does not come about: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** Each key's total is there once and right. */
export function assertExact(delivered: Delivered, options: FixtureOptions): void {
  const totals = expectedTotals(options)
  assert.equal(delivered.rows.length, totals.size, 'each key once')
  for (const row of delivered.rows) {
    assert.deepEqual({ count: row.count, sum: row.sum }, totals.get(row.name), `totals of ${row.name}`)
  }
}
