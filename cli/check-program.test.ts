/**
 * `--check`'s comparison of a job with a manifest.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StreamExecutionEnvironment } from '../engine/api/index.ts'
import type { Manifest } from '../engine/checkpoint/manifest.ts'
import { compareWithManifest } from './check-program.ts'

const manifest: Manifest = {
  format: 1,
  kind: 'final',
  number: 3,
  parent: 2,
  generation: 1,
  epoch: 2,
  attempt: 1,
  createdAtMs: 0,
  jobName: 'j',
  keyGroups: 128,
  workers: 1,
  stateBackend: 'memory',
  operators: [
    { uid: 'sums', name: 'Reduce', operatorId: 1, parallelism: 1, isKeyed: true, states: [], tables: [] },
    { uid: 'gone', name: 'Window', operatorId: 2, parallelism: 1, isKeyed: true, states: [], tables: [] },
    { uid: 'stateless', name: 'Map', operatorId: 3, parallelism: 1, isKeyed: false, states: [null], tables: [] },
  ],
  sources: [{ uid: 'numbers', splits: [] }],
  stores: [],
  sinks: [],
  pending: [],
}

function graph(sumsAreKeyed = true) {
  const env = StreamExecutionEnvironment.createEnvironment()
  const keyed = env
    .fromElements(1)
    .uid('numbers')
    .keyBy((n) => n)
  const sums = sumsAreKeyed ? keyed.reduce((a, b) => a + b) : keyed.map((n) => n)
  sums.uid('sums').print().uid('out')
  return env.getGraph()
}

test('operators are restored, new, or left behind', () => {
  const { lines, problems } = compareWithManifest(graph(), manifest, { keyGroups: 128, allowNonRestoredState: true })
  assert.deepEqual(
    lines.map(({ uid, verdict }) => `${uid} ${verdict}`),
    ['numbers restored', 'sums restored', 'out new', 'gone left behind'],
  )
  assert.deepEqual(problems, [])
})

test('what keeps the job from starting is said', () => {
  const left = compareWithManifest(graph(), manifest, { keyGroups: 128, allowNonRestoredState: false })
  assert.match(left.problems.join(), /"Window" \(uid gone\).*--allow-non-restored-state/)
  const groups = compareWithManifest(graph(), manifest, { keyGroups: 64, allowNonRestoredState: true })
  assert.match(groups.problems.join(), /128 key groups, the job 64/)
  const unkeyed = compareWithManifest(graph(false), manifest, { keyGroups: 128, allowNonRestoredState: true })
  assert.match(unkeyed.problems.join(), /was keyed in the checkpoint/)
})
