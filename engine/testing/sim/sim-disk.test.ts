/**
 * The simulated disk keeps what was synced, may lose the rest, and forgets its earlier users.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Disk } from '../../core/io.ts'
import { SeededRandom } from './seeded-random.ts'
import { SimDisk } from './sim-disk.ts'
import { Scope, SimScheduler } from './sim-scheduler.ts'

const CONTENT = Buffer.from('some bytes that belong together')

interface World {
  readonly disk: SimDisk
  readonly view: Disk
  readonly scope: Scope
  /** Runs the disk until `work` is done. */
  readonly finish: <T>(work: Promise<T>) => Promise<T>
  /** What a new process sees after a power cut. */
  readonly crash: () => void
}

function world(seed: number): World {
  const scheduler = new SimScheduler(new SeededRandom(seed))
  const disk = new SimDisk({ scheduler, random: new SeededRandom(seed + 1_000), root: '/disk', latencyMsMax: 5 })
  const scope = new Scope('test', null)
  return {
    disk,
    view: disk.view(scope, scope),
    scope,
    async finish(work) {
      let done = false
      const settled = work.finally(() => {
        done = true
      })
      settled.catch(() => {})
      // The first step would otherwise find an empty queue.
      await Promise.resolve()
      while (!done && (await scheduler.step())) {}
      return settled
    },
    crash() {
      scope.kill()
      disk.crash()
    },
  }
}

async function writeFile(disk: Disk, path: string, sync: boolean): Promise<void> {
  const file = await disk.create(path)
  await file.append(CONTENT)
  if (sync) await file.sync()
  await file.close()
}

/** How often something is so over 100 seeds. */
async function share(holds: (world: World) => Promise<boolean>): Promise<number> {
  let count = 0
  for (let seed = 0; seed < 100; seed++) if (await holds(world(seed))) count++
  return count
}

describe('simulated disk', () => {
  test('keeps what is synced, file and directory', async () => {
    const kept = await share(async ({ disk, view, finish, crash }) => {
      await finish(writeFile(view, '/disk/a', true))
      await finish(view.syncDirectory('/disk'))
      crash()
      return disk.readNow('/disk/a').equals(CONTENT)
    })
    assert.equal(kept, 100)
  })

  test('may tear what is not synced at any byte', async () => {
    const lengths = new Set<number>()
    await share(async ({ disk, view, finish, crash }) => {
      await finish(writeFile(view, '/disk/a', false))
      await finish(view.syncDirectory('/disk'))
      crash()
      const left = disk.readNow('/disk/a')
      assert.ok(left.equals(CONTENT.subarray(0, left.length)))
      lengths.add(left.length)
      return true
    })
    assert.ok(lengths.size > 15)
  })

  test('may lose entries, links and folders whose directory is not synced', async () => {
    for (const make of [
      (view: Disk) => writeFile(view, '/disk/a', true),
      (view: Disk) => writeFile(view, '/disk/b', true).then(() => view.link('/disk/b', '/disk/a')),
      (view: Disk) => view.makeDirectory('/disk/a'),
    ]) {
      const kept = await share(async ({ disk, view, finish, crash }) => {
        await finish(make(view))
        crash()
        return disk.exists('/disk/a')
      })
      assert.ok(kept > 10 && kept < 90, `kept ${kept} of 100`)
    }
  })

  test('createExclusive is whole or not there, and succeeds once', async () => {
    const kept = await share(async ({ disk, view, finish, crash }) => {
      assert.equal(await finish(view.createExclusive('/disk/a', CONTENT)), true)
      assert.equal(await finish(view.createExclusive('/disk/a', CONTENT)), false)
      view.createExclusive('/disk/b', CONTENT)
      crash()
      assert.ok(!disk.exists('/disk/b') || disk.readNow('/disk/b').equals(CONTENT))
      assert.ok(disk.readNow('/disk/a').equals(CONTENT))
      return disk.exists('/disk/b')
    })
    assert.ok(kept > 10 && kept < 90, `kept ${kept} of 100`)
  })

  test('a process that is gone changes nothing any more', async () => {
    const changed = await share(async ({ disk, view, finish, crash }) => {
      await finish(writeFile(view, '/disk/a', true))
      await finish(view.syncDirectory('/disk'))
      crash()
      const removing = view.remove('/disk/a')
      removing.catch(() => {})
      await finish(Promise.race([removing, disk.view(new Scope('next', null), new Scope('next', null)).list('/disk')]))
      return !disk.exists('/disk/a')
    })
    assert.equal(changed, 0)
  })

  test('errors come as Node gives them', async () => {
    const { view, finish, disk } = world(1)
    await assert.rejects(finish(view.read('/disk/none')), { code: 'ENOENT' })
    await assert.rejects(finish(view.create('/disk/none/a')), { code: 'ENOENT' })
    disk.errorRate = 1
    await assert.rejects(finish(view.read('/disk/none')), { code: 'EIO' })
  })
})

test('seeded random numbers are repeatable, uniform and independent after a fork', () => {
  const draw = (random: SeededRandom): number[] => Array.from({ length: 5 }, () => random.uint32())
  assert.deepEqual(draw(new SeededRandom(7)), draw(new SeededRandom(7)))
  assert.notDeepEqual(draw(new SeededRandom(7)), draw(new SeededRandom(8)))
  const parent = new SeededRandom(7)
  assert.notDeepEqual(draw(parent.fork()), draw(parent.fork()))
  const buckets = new Float64Array(10)
  const random = new SeededRandom(1)
  for (let i = 0; i < 100_000; i++) buckets[random.between(0, 9)]!++
  for (const count of buckets) assert.ok(Math.abs(count - 10_000) < 500, `${count} of 10,000`)
})
