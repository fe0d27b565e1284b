/**
 * siblingModule: in the repository, in the published package, and that what it names is there.
 */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { test } from 'node:test'
import { siblingModule } from './own-module.ts'

test('a sibling has the extension of its caller', () => {
  const cases = [
    ['file:///repo/engine/runtime/launcher.ts', './worker-entry', 'file:///repo/engine/runtime/worker-entry.ts'],
    [
      'file:///a.b/node_modules/millrace/state/x.js',
      '../native/install',
      'file:///a.b/node_modules/millrace/native/install.js',
    ],
    ['file:///repo/bench/engine.ts?fresh=1.5', './engine-job', 'file:///repo/bench/engine-job.ts'],
  ] as const
  for (const [caller, path, expected] of cases) assert.equal(siblingModule(caller, path).href, expected)
  assert.ok(existsSync(siblingModule(import.meta.url, './own-module')))
})
