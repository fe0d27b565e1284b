/**
 * How failures are shown, and where tokens lie.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { usageError } from '../engine/api/run-flags.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { exitCodeForError, formatFailure, userFrame } from './failure.ts'
import { readToken, storeToken, tokenPath } from './rest-token.ts'

test('a failure shows code, hint, causes once, and the innermost line of the user', () => {
  const cause = new RangeError('too many')
  cause.stack = `RangeError: too many
    at BatchBuilder.append (${new URL('../engine/core/rows.ts', import.meta.url).href}:1:1)
    at async ${new URL('../engine/api/execution.ts', import.meta.url).href}:2:5
    at explode (file:///project/job.ts:5:9)
    at ModuleJob.run (node:internal/modules/esm/module_job:1:1)`
  const error = new MillraceError('USER_FUNCTION_FAILED', 'The function failed.', { cause, hint: 'Mend it.' })
  assert.equal(userFrame(error), '/project/job.ts:5:9')
  assert.equal(
    formatFailure(error),
    'millrace: USER_FUNCTION_FAILED: The function failed. Mend it.\n  caused by: too many\n  at /project/job.ts:5:9',
  )
  assert.equal(exitCodeForError(error), 1)
})

test('usage is 2 and plain; anything can be thrown', () => {
  assert.equal(exitCodeForError(usageError('No.')), 2)
  assert.equal(formatFailure(usageError('No.', 'Yes.')), 'millrace: No. Yes.')
  assert.equal(formatFailure('text'), 'millrace: text')
  assert.equal(formatFailure(undefined), 'millrace: undefined')
})

test('tokens are private files that go with their process', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-token-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  // No real port has this number.
  const port = 1_000_000 + process.pid
  writeFileSync(join(folder, 'rest-token'), 'old', { mode: 0o644 })
  const forget = storeToken(port, 'secret', folder)
  assert.equal(readToken(port), 'secret')
  assert.equal(readFileSync(join(folder, 'rest-token'), 'utf8').trim(), 'secret')
  for (const path of [tokenPath(port), join(folder, 'rest-token')]) assert.equal(statSync(path).mode & 0o777, 0o600)
  forget()
  assert.throws(() => readToken(port), /no token for port/)
})
