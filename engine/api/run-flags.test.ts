/**
 * The flags of `millrace run`: what they become, and what wrong ones say.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { CHECKPOINT_POLICY_DEFAULT } from '../checkpoint/checkpoint-policy.ts'
import { MillraceError } from '../core/errors.ts'
import { defaultStateBackend } from '../runtime/store-factories.ts'
import { type JobSettings, threadsPlacement, toJobOptions } from './job-settings.ts'
import { closest, parseRunFlags } from './run-flags.ts'

function usage(args: readonly string[]): string {
  try {
    parseRunFlags(args)
  } catch (error) {
    assert.ok(error instanceof MillraceError)
    assert.equal(error.code, 'USAGE')
    return error.message
  }
  return assert.fail(`${args.join(' ')} was accepted`)
}

describe('run flags', () => {
  test('all of them', () => {
    const args =
      '--parallelism 4 --workers 2 --checkpoint-dir d --checkpoint-interval 100 --state-backend rocksdb --restore latest ' +
      '--runtime-mode batch --allow-non-restored-state --accept-duplicates --port 0 --set a=1 --set=b=x=y --json --check'
    assert.deepEqual(parseRunFlags(args.split(' ')), {
      parallelism: 4,
      workers: 2,
      runtimeMode: 'batch',
      checkpointDirectory: 'd',
      checkpointIntervalMs: 100,
      stateBackend: 'rocksdb',
      stateMemoryBytes: null,
      restore: 'latest',
      allowNonRestoredState: true,
      acceptDuplicates: true,
      port: 0,
      config: { a: '1', b: 'x=y' },
      json: true,
      check: true,
      help: false,
    })
  })

  test('none of them', () => {
    const flags = parseRunFlags([])
    assert.equal(flags.parallelism, null)
    assert.equal(flags.json, false)
    assert.deepEqual(flags.config, {})
  })

  test('an empty value of --set is kept', () => {
    assert.deepEqual(parseRunFlags(['--set', 'a=']).config, { a: '' })
  })

  test('wrong ones are named, with the closest right one', () => {
    assert.match(usage(['--paralelism', '3']), /--paralelism.*--parallelism/)
    assert.match(usage(['--checkpoint-directory', 'x']), /--checkpoint-directory.*--checkpoint-dir\b/)
    assert.match(usage(['--zzzzzz']), /--zzzzzz.*--help/)
    assert.match(usage(['--parallelism']), /--parallelism needs a value/)
    assert.match(usage(['--restore', '--json']), /--restore needs a value/)
    assert.match(usage(['--json=yes']), /--json takes no value/)
    assert.match(usage(['--parallelism', '0']), /--parallelism 0/)
    assert.match(usage(['--workers', '2.5']), /--workers 2\.5/)
    assert.match(usage(['--port', '70000']), /--port 70000/)
    assert.match(usage(['--state-backend', 'disk']), /memory or rocksdb/)
    assert.match(usage(['--runtime-mode', 'stream']), /streaming, batch or automatic/)
    assert.match(usage(['--set', 'a']), /--set a.*KEY=VALUE/)
    assert.match(usage(['--set', '__proto__=1']), /__proto__/)
    assert.match(usage(['--checkpoint-dir=']), /--checkpoint-dir is empty/)
    assert.match(usage(['other']), /"other"/)
    assert.match(usage(['--constructor']), /--constructor/)
  })

  test('closest prefers small distances and gives up on strangers', () => {
    assert.equal(closest('workes', ['workers', 'work']), 'workers')
    assert.equal(closest('qqqqq', ['workers', 'port']), null)
  })
})

describe('job options', () => {
  const settings = {
    parallelism: 3,
    checkpointIntervalMs: 500,
    maxParallelism: null,
    runtimeMode: 'streaming',
    unboundedSources: [] as readonly string[],
    checkpointTimeoutMs: 9,
    checkpointPolicy: CHECKPOINT_POLICY_DEFAULT,
    checkpointDirectory: 'program',
    stateBackend: 'rocksdb',
    stateMemoryBytes: null,
    restart: null,
  } as const
  const unset = { ...settings, parallelism: null, checkpointIntervalMs: null, stateBackend: null } as const
  const options = (args: readonly string[], from: JobSettings = settings) => {
    const flags = parseRunFlags(args)
    return toJobOptions('j', from, flags, threadsPlacement(flags, 'file:///job.ts', 8), () => {})
  }

  test('flags go over the program, the program over defaults', () => {
    assert.equal(options([]).parallelism, 3)
    assert.equal(options(['--parallelism', '5']).parallelism, 5)
    assert.equal(options([], unset).parallelism, 8)
    assert.equal(options(['--workers', '2'], unset).parallelism, 2)
    assert.equal(options(['--checkpoint-interval', '7']).checkpointIntervalMs, 7)
    assert.equal(options(['--checkpoint-dir', 'flag']).checkpointDirectory, 'flag')
    assert.equal(options([]).checkpointDirectory, 'program')
    assert.equal(options(['--state-backend', 'memory']).stateBackend, 'memory')
    assert.equal(options([], unset).stateBackend, defaultStateBackend())
  })

  test('a runtime mode over the program’s knows which sources never end', () => {
    const batch = options(['--runtime-mode', 'batch'])
    assert.deepEqual([batch.runtimeMode, batch.checkpointIntervalMs], ['batch', null])
    const endless = { ...settings, unboundedSources: ['clicks'] as readonly string[] }
    assert.equal(options(['--runtime-mode', 'automatic'], endless).runtimeMode, 'streaming')
    assert.throws(() => options(['--runtime-mode=batch'], endless), { code: 'BATCH_UNBOUNDED', message: /"clicks"/ })
  })

  test('threads need the module, the calling thread does not', () => {
    assert.deepEqual([options([]).workers, options([]).moduleUrl], [8, 'file:///job.ts'])
    const none = options(['--workers', '0'])
    assert.deepEqual([none.workers, none.moduleUrl, none.parallelism], [0, null, 3])
  })

  test('the last checkpoint has to be somewhere', () => {
    const nowhere = { ...settings, checkpointDirectory: null }
    const restore = ['--restore', 'latest']
    assert.equal(options(restore).restore, 'latest')
    assert.equal(options([...restore, '--checkpoint-dir', 'flag'], nowhere).restore, 'latest')
    assert.throws(() => options(restore, nowhere), { code: 'USAGE', message: /Add --checkpoint-dir DIR/ })
  })

  test('only jobs with checkpoints restart by default', () => {
    assert.equal(options([], unset).restart.kind, 'none')
    assert.deepEqual(options([]).restart, { kind: 'fixed-delay', attempts: 10, delayMs: 1_000 })
  })
})

test('state memory is a size', () => {
  assert.equal(parseRunFlags(['--state-memory', '512m']).stateMemoryBytes, 512 * 2 ** 20)
  assert.equal(parseRunFlags(['--state-memory=1.5GiB']).stateMemoryBytes, 1.5 * 2 ** 30)
  assert.equal(parseRunFlags([]).stateMemoryBytes, null)
  for (const text of ['', 'much', '12k', '-1g']) {
    assert.throws(() => parseRunFlags([`--state-memory=${text}`]), { code: 'USAGE' })
  }
})
