/**
 * When code counts as the top level of the entry file, told by made-up stacks; cli/run.test.ts does the same
 * with real processes.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { currentFrames, type EntryEvidence, entryModuleUrl, type StackFrame } from './entry-detection.ts'

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'millrace-entry-')))
after(() => rmSync(folder, { recursive: true, force: true }))
const entry = join(folder, 'job.ts')
const link = join(folder, 'link.ts')
writeFileSync(entry, '')
symlinkSync(entry, link)
const url = pathToFileURL(entry).href

/** `execute` and what the module calls it through. */
const below: StackFrame[] = [
  { functionName: 'execute', file: 'file:///package/engine/api/environment.ts', functionLine: 150, functionColumn: 3 },
  { functionName: 'setup', file: url, functionLine: 9, functionColumn: 1 },
]
const module: StackFrame = { functionName: null, file: url, functionLine: 1, functionColumn: 1 }
const loader: StackFrame = {
  functionName: 'run',
  file: 'node:internal/modules/esm/module_job',
  functionLine: 550,
  functionColumn: 3,
}

function found(frames: readonly StackFrame[], changes: Partial<EntryEvidence> = {}): string | null {
  return entryModuleUrl({ entryArgument: entry, frames, isMainThread: true, isTest: false, ...changes })
}

describe('entry detection', () => {
  test('sees the top level of a module, also through functions, after awaits and through links', () => {
    assert.equal(found([...below, module, loader]), url)
    assert.equal(found([below[0]!, module]), url)
    assert.equal(found([...below, module], { entryArgument: link }), url)
    assert.equal(found([...below, { ...module, file: entry }]), url)
  })

  test('does not take a module for it that the entry file imports while it runs', () => {
    const lazy = join(folder, 'lazy.ts')
    writeFileSync(lazy, '')
    const imported: StackFrame = { ...module, file: pathToFileURL(lazy).href }
    assert.equal(found([below[0]!, imported, loader, module]), null)
    assert.equal(found([below[0]!, module, loader, imported]), url)
  })

  test('does not take callbacks for it', () => {
    assert.equal(found(below), null)
    assert.equal(found([...below, { ...module, functionLine: 9, functionColumn: 24 }]), null)
    assert.equal(found([...below, { ...module, functionName: 'main' }]), null)
  })

  test('does not take other files, threads, tests or prompts for it', () => {
    const top = [...below, module]
    assert.equal(found([...below, { ...module, file: 'file:///other.ts' }, loader]), null)
    assert.equal(found(top, { isMainThread: false }), null)
    assert.equal(found(top, { isTest: true }), null)
    assert.equal(found(top, { entryArgument: undefined }), null)
    assert.equal(found(top, { entryArgument: join(folder, 'gone.ts') }), null)
  })

  test('real frames say where functions begin, and the process is left as it was', () => {
    const before = [Error.stackTraceLimit, Error.prepareStackTrace]
    const frames = (() => currentFrames())()
    const own = frames.filter((frame) => frame.file === import.meta.url)
    assert.ok(own.length > 0)
    assert.ok(own.every((frame) => frame.functionLine > 1))
    assert.deepEqual([Error.stackTraceLimit, Error.prepareStackTrace], before)
  })
})
