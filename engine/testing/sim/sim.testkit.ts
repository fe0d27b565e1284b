/**
 * What the simulator's tests share.
 */
import assert from 'node:assert/strict'
import { DRAW_NEWEST } from './sim-draws.ts'
import { runSeed, type SimResult } from './sim-run.ts'

export function replayOf(result: SimResult): string {
  const { violation, seed, shape } = result
  const draw = shape.draw === DRAW_NEWEST ? '' : ` --draw ${shape.draw}`
  return `${violation?.invariant}: ${violation?.message}\nreplay: npm run sim -- --seed ${seed}${draw} --trace`
}

/** Runs the seeds of [from, to], and makes sure that something happened in them. */
export async function assertSeedsHold(from: number, to: number): Promise<void> {
  const sums = { checkpoints: 0, furtherProcesses: 0, restarts: 0, spilled: 0, refusedDamage: 0 }
  for (let seed = from; seed <= to; seed++) {
    const result = await runSeed(seed)
    assert.equal(result.violation, null, replayOf(result))
    sums.checkpoints += result.checkpoints
    sums.furtherProcesses += result.processes - 1
    sums.restarts += result.restarts
    sums.spilled += result.spilled
    sums.refusedDamage += result.refusedDamage
  }
  // A simulation in which nothing happens would pass as well.
  const seeds = to - from + 1
  assert.ok(sums.checkpoints > seeds, `only ${sums.checkpoints} checkpoints`)
  assert.ok(sums.furtherProcesses > seeds, `only ${sums.furtherProcesses} further processes`)
  assert.ok(sums.restarts > seeds / 2, `only ${sums.restarts} restarts`)
  assert.ok(sums.spilled > seeds, `only ${sums.spilled} batches in spill files`)
  assert.ok(sums.refusedDamage > seeds / 25, `only ${sums.refusedDamage} damaged files refused`)
}
