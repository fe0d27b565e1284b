/**
 * A job's checkpoints from the command line: an upgrade that changes state, what `--check` and `verify` say, and what
 * becomes of damage: a torn manifest, a bit flipped in a state file, a sink that is ahead.
 */
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { layout } from '../engine/checkpoint/layout.ts'
import { type Finished, fixture, millrace } from './command-testkit.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-checkpoints-cli-'))
const original = join(folder, 'original')
after(() => rmSync(folder, { recursive: true, force: true }))

const run = (place: string, ...args: readonly string[]): Promise<Finished> =>
  millrace(
    'run',
    fixture('evolving-job'),
    ...['--workers', '0', '--port', '0', '--checkpoint-dir', join(place, 'checkpoints'), '--set', `out=${place}/out`],
    ...args,
  )

/** A copy of the finished first run, to be damaged. */
function copy(name: string): { readonly place: string; readonly checkpoints: string } {
  const place = join(folder, name)
  cpSync(original, place, { recursive: true })
  return { place, checkpoints: join(place, 'checkpoints') }
}

function manifests(checkpoints: string): string[] {
  return readdirSync(layout.manifests(checkpoints))
    .filter((name) => name.endsWith('.json'))
    .sort()
    .map((name) => layout.manifest(checkpoints, name))
}

function output(place: string): string[] {
  const files = readdirSync(join(place, 'out')).filter((name) => name.endsWith('.jsonl'))
  return files.flatMap((name) =>
    readFileSync(join(place, 'out', name), 'utf8')
      .split('\n')
      .filter((line) => line !== ''),
  )
}

before(async () => {
  // Version 2 of the job writes a line a number, so its sink has a marker.
  const first = await run(original, '--set', 'shape=2', '--set', 'limit=30')
  assert.equal(first.code, 0, first.stderr)
  assert.equal(output(original).length, 30)
})

describe('an upgrade that changes state', { concurrency: 2 }, () => {
  test('values are taken to the new version, and nothing is lost', async () => {
    const place = join(folder, 'upgrade')
    const old = await run(place, '--set', 'shape=1', '--set', 'limit=30')
    assert.equal(old.code, 0, old.stderr)
    const [fits, misfits] = await Promise.all(
      ['2', 'bad'].map((shape) => run(place, '--check', '--set', `shape=${shape}`)),
    )
    assert.equal(fits!.code, 0, fits!.stdout)
    assert.match(fits!.stdout, /the job fits the checkpoint/)
    assert.equal(misfits!.code, 1)
    assert.match(
      misfits!.stdout,
      /uid totals.*total: number was added, count: number was added, sum: number was removed/,
    )
    const next = await run(place, '--restore', 'latest', '--set', 'shape=2', '--set', 'limit=33')
    assert.equal(next.code, 0, next.stderr)
    // 0+3+...+27 and so on, as version 1 summed them; counts begin at the template's value.
    assert.deepEqual(output(place).sort(), ['"0 165 1001"', '"1 176 1001"', '"2 187 1001"'])
  })

  test('another shape under the same version does not start', async () => {
    const { place } = copy('bad')
    const refused = await run(place, '--restore', 'latest', '--set', 'shape=1', '--set', 'limit=33')
    assert.equal(refused.code, 1)
    assert.match(refused.stderr, /State "totals" was saved as version 2: version 1 is declared, which is older/)
    assert.equal(output(place).length, 30)
  })
})

describe('damage', { concurrency: 2 }, () => {
  test('a torn newest manifest is set aside, and the one before is refused while the sink is ahead of it', async () => {
    const { place, checkpoints } = copy('torn')
    truncateSync(manifests(checkpoints).at(-1)!, 200)
    const check = await run(place, '--check', '--set', 'shape=2')
    assert.equal(check.code, 1)
    assert.match(check.stdout, /would set aside 0000\d+\.json/)
    assert.match(check.stdout, /problem: Sink lines already holds epoch 1, but the checkpoint ends at epoch 0/)
    const refused = await run(place, '--restore', 'latest', '--set', 'shape=2')
    assert.equal(refused.code, 1)
    assert.match(refused.stderr, /Sink lines already holds epoch 1, but the checkpoint ends at epoch 0/)
    assert.ok(readdirSync(layout.manifests(checkpoints)).some((name) => name.endsWith('.corrupt')))
    assert.equal(output(place).length, 30)
    const accepted = await run(place, '--restore', 'latest', '--accept-duplicates', '--set', 'shape=2')
    assert.equal(accepted.code, 0, accepted.stderr)
    assert.equal(output(place).length, 60)
  })

  test('a torn newest manifest falls back to the one before when no sink is ahead of that', async () => {
    const { place, checkpoints } = copy('behind')
    // Nothing was read since: its final checkpoint has no output.
    const again = await run(place, '--restore', 'latest', '--set', 'shape=2', '--set', 'limit=30')
    assert.equal(again.code, 0, again.stderr)
    truncateSync(manifests(checkpoints).at(-1)!, 200)
    const next = await run(place, '--restore', 'latest', '--set', 'shape=2', '--set', 'limit=33')
    assert.equal(next.code, 0, next.stderr)
    assert.equal(output(place).length, 33)
  })

  test('verify finds a flipped bit and a missing file; a fresh directory is well', async () => {
    const well = await millrace('checkpoints', 'verify', join(original, 'checkpoints'))
    assert.equal(well.code, 0, well.stdout)
    const { checkpoints } = copy('flipped')
    const shared = readdirSync(layout.shared(checkpoints))
    const victim = layout.sharedFile(checkpoints, shared[0]!)
    const bytes = readFileSync(victim)
    bytes[bytes.length >> 1]! ^= 1
    writeFileSync(victim, bytes)
    const flipped = await millrace('checkpoints', 'verify', checkpoints)
    assert.equal(flipped.code, 1)
    assert.match(flipped.stdout, new RegExp(`${shared[0]}: its content has hash`))
    rmSync(victim)
    const missing = await millrace('checkpoints', 'verify', checkpoints)
    assert.equal(missing.code, 1)
    assert.match(missing.stdout, /state file .* is missing/)
  })
})
