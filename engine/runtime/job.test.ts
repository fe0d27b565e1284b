/**
 * Whole runs of the runtime on a small job: on the calling thread and on worker threads, with failures,
 * restarts, stops and rescales, against a model.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Io } from '../core/io.ts'
import { type Delivered, type FixtureOptions, fixtureGraph } from './job.fixture.ts'
import { assertExact, optionsOf, until, withDirectory } from './job.testkit.ts'
import { launchJob } from './launcher.ts'
import { nodeIo } from './node-io.ts'
import type { JobEvent } from './status.ts'

const SMALL: FixtureOptions = { splits: 4, rowsPerSplit: 5_000, keys: 500 }

for (const stateBackend of ['memory', 'rocksdb'] as const) {
  describe(`a job on ${stateBackend}`, () => {
    for (const parallelism of [1, 3]) {
      test(`runs to the end with parallelism ${parallelism} on the calling thread`, async () => {
        const delivered: Delivered = { rows: [], marker: 0 }
        const job = await launchJob(fixtureGraph(SMALL, delivered), optionsOf({ parallelism, stateBackend }))
        const result = await job.done
        assert.equal(result.state, 'finished')
        assert.equal(result.recordsIn, SMALL.splits * SMALL.rowsPerSplit)
        assertExact(delivered, SMALL)
      })
    }

    test('runs on worker threads', async () => {
      const delivered: Delivered = { rows: [], marker: 0 }
      const job = await launchJob(
        fixtureGraph(SMALL, delivered),
        optionsOf({
          parallelism: 3,
          workers: 2,
          stateBackend,
          moduleUrl: new URL('./job.fixture.ts', import.meta.url).href,
          config: { fixture: JSON.stringify(SMALL) },
          checkpointIntervalMs: 20,
        }),
      )
      const result = await job.done
      assert.equal(result.recordsIn, SMALL.splits * SMALL.rowsPerSplit)
      assertExact(delivered, SMALL)
    })

    test('goes on from the last checkpoint after failures', async () => {
      const delivered: Delivered = { rows: [], marker: 0 }
      let failures = 0
      const events: JobEvent[] = []
      const failing: FixtureOptions = {
        ...SMALL,
        pauseMs: 1,
        onPoll(split, row) {
          if (failures < 3 && split === 1 && row === 1_000 * (failures + 1)) {
            failures++
            throw new Error(`planned failure ${failures}`)
          }
        },
      }
      const job = await launchJob(
        fixtureGraph(failing, delivered),
        optionsOf({
          parallelism: 2,
          stateBackend,
          checkpointIntervalMs: 10,
          restart: { kind: 'fixed-delay', attempts: 5, delayMs: 1 },
          onEvent: (event) => events.push(event),
        }),
      )
      await job.done
      assert.equal(events.filter((event) => event.type === 'restart').length, 3)
      assert.ok(events.some((event) => event.type === 'checkpoint'))
      assertExact(delivered, SMALL)
    })

    test('stops with a checkpoint and continues at other parallelisms', async () => {
      await withDirectory(async (directory) => {
        const delivered: Delivered = { rows: [], marker: 0 }
        let allowed = 0
        let read = 0
        const graph = fixtureGraph({ ...SMALL, rowsAllowed: () => allowed, onPoll: () => read++ }, delivered)
        for (const parallelism of [2, 3, 1]) {
          allowed += 1_000
          const job = await launchJob(
            graph,
            optionsOf({
              parallelism,
              stateBackend,
              checkpointDirectory: directory,
              checkpointIntervalMs: 15,
              restore: parallelism === 2 ? null : 'latest',
            }),
          )
          await until(() => read === SMALL.splits * allowed)
          await job.stop()
          assert.equal(delivered.rows.length, 0)
          assert.equal((await job.done).state, 'finished')
        }
        const job = await launchJob(
          fixtureGraph(SMALL, delivered),
          optionsOf({ parallelism: 4, stateBackend, checkpointDirectory: directory, restore: 'latest' }),
        )
        await job.done
        assertExact(delivered, SMALL)
      })
    })
  })
}

/** The real disk, which says that it is full while `isFull()`. */
function fillableIo(isFull: () => boolean): Io {
  const refuse = async <R>(action: () => Promise<R>): Promise<R> => {
    if (isFull()) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
    return action()
  }
  const { disk } = nodeIo
  return {
    ...nodeIo,
    disk: {
      ...disk,
      create: (path) => refuse(() => disk.create(path)),
      createExclusive: (path, bytes) => refuse(() => disk.createExclusive(path, bytes)),
      link: (from, to) => refuse(() => disk.link(from, to)),
    },
  }
}

test('a full disk fails checkpoints, and the job goes on and checkpoints again', async () => {
  const delivered: Delivered = { rows: [], marker: 0 }
  const events: string[] = []
  let full = false
  const failures = () => events.filter((type) => type === 'checkpoint-failed').length
  const job = await launchJob(
    // Its end waits for what happens before.
    fixtureGraph({ ...SMALL, rowsAllowed: () => (failures() < 3 ? 1_000 : SMALL.rowsPerSplit) }, delivered),
    optionsOf({
      parallelism: 2,
      checkpointIntervalMs: 20,
      onEvent(event) {
        events.push(event.type)
        // Full from the first checkpoint until three failed, then there is room again.
        if (event.type === 'checkpoint' && events.filter((type) => type === 'checkpoint').length === 1) full = true
        if (failures() >= 3) full = false
      },
    }),
    fillableIo(() => full),
  )
  await job.done
  const failedAt = events.lastIndexOf('checkpoint-failed')
  assert.equal(failures(), 3)
  assert.ok(events.indexOf('checkpoint', failedAt) > failedAt, 'a checkpoint after the last failure')
  assert.ok(!events.includes('restart'))
  assertExact(delivered, SMALL)
})

test('refuses a directory that holds checkpoints, and a second owner', async () => {
  await withDirectory(async (checkpointDirectory) => {
    const delivered: Delivered = { rows: [], marker: 0 }
    const held = fixtureGraph({ ...SMALL, rowsAllowed: () => 100 }, delivered)
    const first = await launchJob(held, optionsOf({ checkpointDirectory }))
    await assert.rejects(launchJob(held, optionsOf({ checkpointDirectory })), {
      code: 'LOCK_HELD',
      message: new RegExp(`process ${process.pid}`),
    })
    await first.stop()
    await assert.rejects(launchJob(held, optionsOf({ checkpointDirectory })), {
      code: 'CHECKPOINT_DIRECTORY_NOT_EMPTY',
    })
  })
})

test('fails with the cause when restarts are used up', async () => {
  const failing: FixtureOptions = {
    ...SMALL,
    onPoll() {
      throw new Error('always')
    },
  }
  const job = await launchJob(
    fixtureGraph(failing, { rows: [], marker: 0 }),
    optionsOf({ restart: { kind: 'fixed-delay', attempts: 2, delayMs: 1 } }),
  )
  await assert.rejects(job.done, /numbers.*always/)
  assert.equal(job.status().restarts, 2)
  assert.equal(job.status().state, 'failed')
})
