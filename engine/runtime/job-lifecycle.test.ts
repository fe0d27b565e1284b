/**
 * Corners of a job's life: more workers than subtasks, sinks that hold output already, requests that cross
 * each other, commits that fail, and failures half-way through a deployment.
 */
import assert from 'node:assert/strict'
import { readdir, readFile, truncate, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { describe, test } from 'node:test'
import { CHECKPOINT_POLICY_DEFAULT } from '../checkpoint/checkpoint-policy.ts'
import { createManifest, listManifests, readManifest } from '../checkpoint/manifest-store.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import type { Sink, SinkCommitter, SinkWriter } from '../contract/sink.ts'
import type { Source, SourceReader } from '../contract/source.ts'
import { MillraceError } from '../core/errors.ts'
import type { Disk } from '../core/io.ts'
import { type Delivered, expectedTotals, type FixtureOptions, fixtureGraph } from './job.fixture.ts'
import { assertExact, optionsOf, until, withDirectory } from './job.testkit.ts'
import { launchJob } from './launcher.ts'
import { nodeIo } from './node-io.ts'

const SMALL: FixtureOptions = { splits: 4, rowsPerSplit: 1_000, keys: 50 }
/** Goes on until it is stopped. */
const ENDLESS: FixtureOptions = { ...SMALL, rowsPerSplit: 1e9, pauseMs: 10 }

const RETRYING = { kind: 'fixed-delay', attempts: 5, delayMs: 0 } as const

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** The fixture's graph with its sink's committer, writer or its source changed. */
function changed(
  graph: JobGraph,
  change: {
    readonly committer?: (committer: SinkCommitter) => SinkCommitter
    readonly writer?: (writer: SinkWriter) => SinkWriter
    readonly reader?: (reader: SourceReader) => SourceReader
  },
): JobGraph {
  const nodes = graph.nodes.map((node) => {
    if (node.role === 'sink') {
      const { sink } = node
      const committer = change.committer ?? ((same) => same)
      const writer = change.writer ?? ((same) => same)
      const other: Sink = {
        ...sink,
        createWriter: (context) => writer(sink.createWriter(context)),
        createCommitter: (context) => committer(sink.createCommitter!(context)),
      }
      return { ...node, sink: other }
    }
    if (node.role !== 'source' || change.reader === undefined) return node
    const { source } = node
    const { reader } = change
    const other: Source = { ...source, createReader: (context) => reader(source.createReader(context)) }
    return { ...node, source: other }
  })
  return { nodes, edges: graph.edges }
}

describe('a job', () => {
  test('says of each checkpoint where its time went, and of each state how large it is', async () => {
    const options = optionsOf({ parallelism: 2, stateBackend: 'rocksdb', checkpointIntervalMs: 20 })
    const job = await launchJob(fixtureGraph(ENDLESS, { rows: [], marker: 0 }), options)
    await until(() => job.status().checkpointsCompleted >= 2)
    const { checkpoints } = job.status()
    const last = checkpoints.findLast((checkpoint) => checkpoint.status === 'completed')!
    for (const part of ['barrierMsMax', 'syncMsMax', 'asyncMsMax', 'commitMs', 'alignmentMsMax'] as const) {
      assert.ok(last[part]! >= 0 && last[part]! <= last.durationMs! + 5, `${part} ${last[part]} of ${last.durationMs}`)
    }
    assert.ok(last.asyncMsMax! > 0 && last.commitMs! > 0, 'neither of these comes for free')
    assert.ok(last.barrierMsMax! >= last.alignmentMsMax!, 'alignment is part of it')
    const table = () => job.status().subtasks.flatMap(({ operators }) => operators.flatMap(({ tables }) => tables))
    await until(() => table().every(({ checkpointBytes }) => checkpointBytes !== null) && table().length === 2)
    for (const { name, entries, memoryBytes } of table()) {
      assert.equal(name, 'totals')
      assert.ok(
        entries! > 0 && entries! < ENDLESS.keys && memoryBytes > 0,
        `${entries} entries in ${memoryBytes} bytes`,
      )
    }
    const [numbers] = job.status().subtasks
    assert.deepEqual(
      numbers!.operators.map(({ name }) => name),
      ['numbers'],
    )
    await job.cancel()
  })

  test('with more workers than subtasks checkpoints and ends', async () => {
    const delivered: Delivered = { rows: [], marker: 0 }
    const job = await launchJob(
      fixtureGraph(SMALL, delivered),
      optionsOf({
        workers: 3,
        parallelism: 2,
        moduleUrl: new URL('./job.fixture.ts', import.meta.url).href,
        config: { fixture: JSON.stringify(SMALL) },
      }),
    )
    assert.equal((await job.done).state, 'finished')
    assert.equal(delivered.rows.length, expectedTotals(SMALL).size)
  })

  test('over a sink that holds output of another one is refused, or goes on above it', async () => {
    const delivered: Delivered = { rows: [], marker: 7 }
    await assert.rejects(launchJob(fixtureGraph(SMALL, delivered), optionsOf({})), { code: 'SINK_AHEAD' })
    assert.equal(delivered.rows.length, 0)
    const job = await launchJob(fixtureGraph(SMALL, delivered), optionsOf({ acceptDuplicates: true }))
    await job.done
    assert.equal(delivered.rows.length, expectedTotals(SMALL).size, 'nothing is skipped')
    assert.equal(delivered.marker, 8)
  })

  test('that starts makes who asks for a savepoint or a rescale wait until it runs', () =>
    withDirectory(async (checkpointDirectory) => {
      const options = optionsOf({ checkpointDirectory, restart: RETRYING })
      const delivered: Delivered = { rows: [], marker: 0 }
      const job = await launchJob(fixtureGraph(ENDLESS, delivered), options)
      assert.equal(job.status().state, 'starting')
      assert.match(await job.savepoint(), /manifests/)
      const again = await launchJob(fixtureGraph(ENDLESS, { rows: [], marker: 0 }), optionsOf({ parallelism: 1 }))
      await Promise.all([again.rescale(2), again.savepoint().catch(() => {})])
      await until(() => again.status().parallelism === 2 && again.status().state === 'running')
      await again.cancel()
      assert.match(await job.savepoint({ stop: true }), /manifests/)
      const { state, restarts, durationMs, netRuntimeMs } = await job.done
      assert.deepEqual([state, restarts], ['finished', 0])
      assert.ok(netRuntimeMs > 0 && netRuntimeMs <= durationMs + 1, `${netRuntimeMs} of ${durationMs} ms`)
      assert.throws(() => job.savepoint(), { code: 'JOB_NOT_RUNNING', message: /finished/ })
    }))

  test('that restarts makes who asks for a savepoint wait until it runs', () =>
    withDirectory(async (checkpointDirectory) => {
      for (const stop of [false, true]) {
        let polls = 0
        const failing: FixtureOptions = {
          ...ENDLESS,
          onPoll() {
            if (polls++ === 3) throw new Error('planned')
          },
        }
        const restart = { kind: 'fixed-delay', attempts: 1, delayMs: 20 } as const
        const directory = join(checkpointDirectory, String(stop))
        const options = optionsOf({ checkpointDirectory: directory, restart })
        const job = await launchJob(fixtureGraph(failing, { rows: [], marker: 0 }), options)
        await until(() => job.status().state === 'restarting')
        await assert.rejects(job.rescale(2), { code: 'JOB_NOT_RUNNING' })
        assert.match(await job.savepoint({ stop }), /manifests/)
        if (!stop) await job.stop()
        const { state, restarts } = await job.done
        assert.deepEqual([state, restarts], ['finished', 1])
      }
    }))

  test('that fails while it starts says so to who waits for its savepoint', async () => {
    const graph = changed(fixtureGraph(SMALL, { rows: [], marker: 0 }), {
      reader: (reader) => ({ ...reader, open: () => Promise.reject(new Error('no source')) }),
    })
    const job = await launchJob(graph, optionsOf({}))
    await assert.rejects(job.savepoint({ stop: true }), /no source/)
    await assert.rejects(job.done, /no source/)
  })

  test('that is stopped while it rescales ends', () =>
    withDirectory(async (checkpointDirectory) => {
      const job = await launchJob(fixtureGraph(ENDLESS, { rows: [], marker: 0 }), optionsOf({ checkpointDirectory }))
      await until(() => job.status().state === 'running')
      await job.rescale(2)
      await job.stop()
      assert.equal((await job.done).state, 'finished')
    }))

  test('that is cancelled while it restarts leaves nothing running', async () => {
    let polls = 0
    const failing: FixtureOptions = {
      ...ENDLESS,
      onPoll() {
        if (polls++ === 3) throw new Error('planned')
      },
    }
    // Recovery of the second run takes a while: it opens the sink again.
    let opened = 0
    const graph = changed(fixtureGraph(failing, { rows: [], marker: 0 }), {
      committer: (committer) => ({
        ...committer,
        async open() {
          if (opened++ > 0) await pause(50)
        },
      }),
    })
    const job = await launchJob(graph, optionsOf({ restart: { kind: 'fixed-delay', attempts: 3, delayMs: 0 } }))
    await until(() => opened === 2)
    await job.cancel()
    assert.equal((await job.done).state, 'cancelled')
    const before = polls
    await pause(80)
    assert.equal(polls, before)
  })

  test('whose commit is refused at first applies it once, without a restart', async () => {
    const delivered: Delivered = { rows: [], marker: 0 }
    const order: string[] = []
    let commits = 0
    const graph = changed(fixtureGraph(SMALL, delivered), {
      committer: (committer) => ({
        ...committer,
        async open() {
          order.push('open')
        },
        async commit(epoch, committables) {
          if (commits++ === 0) throw new Error('no connection')
          await pause(20)
          await committer.commit(epoch, committables)
          order.push('committed')
        },
      }),
    })
    const job = await launchJob(graph, optionsOf({ restart: { kind: 'fixed-delay', attempts: 3, delayMs: 0 } }))
    await job.done
    assert.deepEqual(order, ['open', 'committed'])
    assert.equal(delivered.rows.length, expectedTotals(SMALL).size)
  })

  test('closes whatever a failed deployment had opened', async () => {
    const closed: string[] = []
    const graph = changed(fixtureGraph(SMALL, { rows: [], marker: 0 }), {
      writer: (writer) => ({
        ...writer,
        open: () => Promise.reject(new Error('no connection')),
        async close() {
          closed.push('writer')
          await writer.close()
        },
      }),
      reader: (reader) => ({
        ...reader,
        async close() {
          closed.push('reader')
          await reader.close()
        },
      }),
    })
    const job = await launchJob(graph, optionsOf({ parallelism: 1 }))
    await assert.rejects(job.done, /no connection/)
    assert.deepEqual(closed.sort(), ['reader', 'writer'])
  })

  test('that is cancelled removes its checkpoints if asked to; savepoints and what they name stay', () =>
    withDirectory(async (checkpointDirectory) => {
      let allowed = 500
      const graph = (delivered: Delivered) => fixtureGraph({ ...SMALL, rowsAllowed: () => allowed }, delivered)
      const policy = { ...CHECKPOINT_POLICY_DEFAULT, deleteOnCancellation: true }
      const options = optionsOf({ checkpointDirectory, checkpointIntervalMs: 5, checkpointPolicy: policy })
      const delivered: Delivered = { rows: [], marker: 0 }
      const job = await launchJob(graph(delivered), options)
      await until(() => job.status().checkpointsCompleted > 0)
      const savepoint = await job.savepoint()
      await until(() => job.status().checkpoints.at(-1)?.kind !== 'savepoint')
      await job.cancel()
      assert.deepEqual(await readdir(join(checkpointDirectory, 'manifests')), [basename(savepoint)])
      allowed = SMALL.rowsPerSplit
      const resumed = await launchJob(graph(delivered), { ...options, restore: savepoint, checkpointIntervalMs: null })
      await resumed.done
      assertExact(delivered, SMALL)
    }))

  test('that may not go back behind its sink is as it was: its newest checkpoint is still the newest', () =>
    withDirectory(async (place) => {
      const checkpointDirectory = join(place, 'own')
      const options = optionsOf({ checkpointDirectory, checkpointIntervalMs: 5 })
      const delivered: Delivered = { rows: [], marker: 0 }
      let allowed = 500
      const graph = fixtureGraph({ ...SMALL, rowsAllowed: () => allowed }, delivered)
      const job = await launchJob(graph, options)
      const savepoint = await job.savepoint()
      allowed = SMALL.rowsPerSplit
      await job.done
      const folder = join(checkpointDirectory, 'manifests')
      const before = await readdir(folder)
      const refused = (restore: string, directory: string, message = /already holds epoch/) => {
        const start = launchJob(graph, { ...options, checkpointDirectory: directory, restore })
        return assert.rejects(start, { code: 'SINK_AHEAD', message })
      }

      await refused(savepoint, checkpointDirectory)
      await refused(savepoint, join(place, 'another'))
      assert.deepEqual([await readdir(folder), await readdir(join(place, 'another', 'manifests'))], [before, []])
      const continued: (string | null)[] = []
      const goOn = async () => {
        const onEvent: typeof options.onEvent = (event) => {
          if (event.type === 'started') continued.push(event.restoredFrom)
        }
        await (await launchJob(graph, { ...options, restore: 'latest', onEvent })).done
      }
      await goOn()
      assert.deepEqual(continued, [join(folder, before.at(-1)!)])

      const newest = join(folder, (await readdir(folder)).at(-1)!)
      const whole = await readFile(newest)
      // Its output is in the sink, but not in what is left of the checkpoints.
      const { number } = JSON.parse(whole.toString().slice(0, whole.lastIndexOf('}') + 1)) as { number: number }
      delivered.marker += number
      await truncate(newest, 100)
      for (let start = 1; start <= 2; start++)
        await refused('latest', checkpointDirectory, /Set aside as damaged: .*\d{12}\.corrupt.* \.json name back/)
      const left = (await readdir(folder)).filter((name) => name.endsWith('.json'))
      assert.ok(
        left.every((name) => name < basename(newest)),
        'a start that is refused adds no checkpoint',
      )
      delivered.marker -= number
      await writeFile(newest, whole)
      await goOn()
      assert.equal(continued.at(-1), newest)
    }))

  test('that was taken over ends, although no checkpoint of it comes as far as its manifest', () =>
    withDirectory(async (checkpointDirectory) => {
      const options = optionsOf({ checkpointDirectory, checkpointIntervalMs: 5, restart: RETRYING })
      const disk: Disk = {
        ...nodeIo.disk,
        async link() {
          throw Object.assign(new Error('the store is gone'), { code: 'ENOENT' })
        },
      }
      const job = await launchJob(fixtureGraph(ENDLESS, { rows: [], marker: 0 }), options, { ...nodeIo, disk })
      await until(() => job.status().checkpointsFailed > 2)
      assert.equal(job.status().state, 'running')
      const { manifest } = await readManifest(disk, checkpointDirectory, 1)
      // Of what the new owner wrote, only the newest is left.
      await createManifest(disk, checkpointDirectory, { ...manifest!, number: 9, generation: 2, owner: 'another' })
      await assert.rejects(job.done, { code: 'JOB_TAKEN_OVER' })
    }))

  test('that has the job opens its sinks anew when a process that was taken over opens them late', () =>
    withDirectory(async (checkpointDirectory) => {
      const fenced = new MillraceError('SINK_FENCED', 'Another owner has the sink.', { domain: 'external' })
      const delivered: Delivered = { rows: [], marker: 0 }
      let opened = 0
      /** Before the sink answers that it has another owner. */
      const fencing = (meanwhile: () => Promise<void>): JobGraph =>
        changed(fixtureGraph(SMALL, delivered), {
          committer: (committer) => ({
            ...committer,
            async open() {
              if (opened++ > 0) return
              await meanwhile()
              throw fenced
            },
          }),
        })
      const options = optionsOf({ checkpointDirectory })
      const job = await launchJob(
        fencing(async () => {}),
        options,
      )
      await job.done
      assert.equal(delivered.rows.length, expectedTotals(SMALL).size)
      assert.equal(job.status().restarts, 0)
      // Who was taken over in fact does not fence the new owner back.
      opened = 0
      const takenOver = async (): Promise<void> => {
        const { last } = await listManifests(nodeIo.disk, checkpointDirectory)
        const { manifest } = await readManifest(nodeIo.disk, checkpointDirectory, last)
        await createManifest(nodeIo.disk, checkpointDirectory, { ...manifest!, number: last + 1, owner: 'another' })
      }
      await assert.rejects(launchJob(fencing(takenOver), { ...options, restore: 'latest' }), { code: 'SINK_FENCED' })
      assert.equal(opened, 1)
    }))

  test('in a place that cannot be made does not start', () =>
    withDirectory(async (place) => {
      await writeFile(join(place, 'file'), '')
      const start = launchJob(
        fixtureGraph(SMALL, { rows: [], marker: 0 }),
        optionsOf({ checkpointDirectory: join(place, 'file', 'checkpoints') }),
      )
      await assert.rejects(start, { code: 'CHECKPOINT_DIRECTORY_UNUSABLE', message: /file.*permissions/ })
      const full = await nodeIo.disk.create('/dev/full')
      await assert.rejects(full.append(Buffer.from('x')), /ENOSPC.*\/dev\/full/)
      await full.close()
    }))

  test('keeps as many checkpoints as it is told', () =>
    withDirectory(async (checkpointDirectory) => {
      const policy = { ...CHECKPOINT_POLICY_DEFAULT, retained: 1 }
      const options = optionsOf({ checkpointDirectory, checkpointIntervalMs: 5, checkpointPolicy: policy })
      let allowed = 500
      const graph = fixtureGraph({ ...SMALL, rowsAllowed: () => allowed }, { rows: [], marker: 0 })
      const job = await launchJob(graph, options)
      await until(() => job.status().checkpointsCompleted > 2)
      allowed = SMALL.rowsPerSplit
      await job.done
      assert.equal((await readdir(join(checkpointDirectory, 'manifests'))).length, 1)
    }))

  test('restarts after more failed checkpoints in a row than it tolerates, else goes on', async () => {
    for (const tolerableFailures of [1, Number.POSITIVE_INFINITY]) {
      let full = 4
      const disk: Disk = {
        ...nodeIo.disk,
        async link(from, to) {
          if (full-- > 0) throw Object.assign(new Error('no space'), { code: 'ENOSPC' })
          return nodeIo.disk.link(from, to)
        },
      }
      const policy = { ...CHECKPOINT_POLICY_DEFAULT, tolerableFailures }
      const delivered: Delivered = { rows: [], marker: 0 }
      const options = { checkpointIntervalMs: 5, checkpointPolicy: policy, restart: RETRYING }
      // Its end waits for the failures.
      const graph = fixtureGraph({ ...SMALL, rowsAllowed: () => (full > 0 ? 500 : SMALL.rowsPerSplit) }, delivered)
      const job = await launchJob(graph, optionsOf(options), { ...nodeIo, disk })
      await job.done
      assert.equal(job.status().restarts, tolerableFailures === 1 ? 2 : 0)
      assertExact(delivered, SMALL)
    }
  })

  test('loses no output when a segment cannot be sealed', async () => {
    const delivered: Delivered = { rows: [], marker: 0 }
    let seals = 0
    const graph = changed(fixtureGraph(SMALL, delivered), {
      writer: (writer) => ({
        ...writer,
        async prepareCommit() {
          const sealed = await writer.prepareCommit()
          if (sealed !== null && seals++ === 0) throw new Error('no space')
          return sealed
        },
      }),
    })
    const job = await launchJob(graph, optionsOf({ restart: { kind: 'fixed-delay', attempts: 3, delayMs: 0 } }))
    await job.done
    assert.equal(job.status().restarts, 1)
    assert.equal(delivered.rows.length, expectedTotals(SMALL).size)
  })
})
