/**
 * Some planted bugs are found; all of them by `npm run sim:mutants`.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { huntMutant } from './sim-hunt.ts'
import type { MutantName } from './sim-mutants.ts'

const SEEDS_MAX = 100

const QUICK: readonly MutantName[] = [
  'at-least-once-loses',
  'barrier-overtakes',
  'cleared-map-comes-back',
  'clock-timers-early',
  'drift-too-wide',
  'found-splits-forgotten',
  'lives-too-long',
  'live-store-reopened',
  'marker-ignored',
  'offsets-late',
  'outbox-removed-early',
  'restored-hashed-anew',
  'shared-file-deleted',
  'stale-ack',
  'state-outlives-key',
  'state-rot-unnoticed',
  'sync-does-nothing',
  'watermark-forgotten',
]

for (const name of QUICK) {
  test(`finds a planted bug: ${name}`, async () => {
    assert.notEqual(await huntMutant(name, SEEDS_MAX), null, `${SEEDS_MAX} seeds did not find it`)
  })
}
