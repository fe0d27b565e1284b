/**
 * When code counts as the top level of the entry file, told by recorded stacks. cli/run.test.ts does the same with
 * real processes.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { type EntryEvidence, entryModuleUrl } from './entry-detection.ts'

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'millrace-entry-')))
after(() => rmSync(folder, { recursive: true, force: true }))
const entry = join(folder, 'job.ts')
const link = join(folder, 'link.ts')
writeFileSync(entry, '')
symlinkSync(entry, link)
const url = pathToFileURL(entry).href

const HEAD = 'Error: stack\n    at StreamExecutionEnvironment.execute (file:///package/engine/api/environment.ts:1:1)\n'
const LOADER =
  '    at ModuleJob.run (node:internal/modules/esm/module_job:1:2)\n    at async node:internal/modules/esm/loader:3:4'

function found(frames: string, changes: Partial<EntryEvidence> = {}): string | null {
  return entryModuleUrl({ entryArgument: entry, stack: HEAD + frames, isMainThread: true, isTest: false, ...changes })
}

describe('entry detection', () => {
  test('sees the top level of a module, also through functions, awaits and links', () => {
    assert.equal(found(`    at ${url}:3:1\n${LOADER}`), url)
    assert.equal(found(`    at Setup.run (${url}:9:9)\n    at ${url}:3:1\n${LOADER}`), url)
    assert.equal(found(`    at Setup.run (${url}:9:9)\n    at async ${url}:3:1`), url)
    assert.equal(found(`    at ${url}:3:1`), url)
    assert.equal(found(`    at ${url}:3:1\n${LOADER}`, { entryArgument: link }), url)
  })

  test('sees the top level of a CommonJS bundle', () => {
    const frames = `    at Object.<anonymous> (${entry}:2:1)\n    at Module._compile (node:internal/modules/cjs/loader:1:1)`
    assert.equal(found(frames), url)
  })

  test('does not take callbacks for it', () => {
    const timers = '    at listOnTimeout (node:internal/timers:6:1)'
    assert.equal(found(`    at Timeout._onTimeout (${url}:9:18)\n${timers}`), null)
    assert.equal(found(`    at Server.<anonymous> (${url}:9:18)\n    at Server.emit (node:events:1:1)`), null)
    assert.equal(found(`    at ${url}:9:18\n    at Array.map (<anonymous>)\n    at handle (${url}:2:2)`), null)
  })

  test('does not take other files, threads, tests or prompts for it', () => {
    const top = `    at ${url}:3:1\n${LOADER}`
    assert.equal(found(`    at file:///other.ts:3:1\n${LOADER}`), null)
    assert.equal(found(top, { isMainThread: false }), null)
    assert.equal(found(top, { isTest: true }), null)
    assert.equal(found(top, { entryArgument: undefined }), null)
    assert.equal(found(top, { entryArgument: join(folder, 'gone.ts') }), null)
  })
})
