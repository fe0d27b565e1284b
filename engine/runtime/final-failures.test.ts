/**
 * Failures that no restart mends end the job at once, with the file and what to do; those that may heal do not.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { layout } from '../checkpoint/layout.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import type { SinkCommitter } from '../contract/sink.ts'
import { MillraceError } from '../core/errors.ts'
import type { Io } from '../core/io.ts'
import { type Delivered, type FixtureOptions, fixtureGraph } from './job.fixture.ts'
import { assertExact, optionsOf, withDirectory } from './job.testkit.ts'
import { launchJob } from './launcher.ts'
import { nodeIo } from './node-io.ts'

const SMALL: FixtureOptions = { splits: 2, rowsPerSplit: 1_000, keys: 50 }
const FOR_EVER = { kind: 'fixed-delay', attempts: Number.POSITIVE_INFINITY, delayMs: 1 } as const

/** Pauses between tries of a commit last seconds; here nobody waits for them. */
const HASTY: Io = {
  ...nodeIo,
  timers: { schedule: (delayMs, task) => nodeIo.timers.schedule(Math.min(delayMs, 5), task) },
}

/** The fixture's job, in which `before` comes before each commit. */
function withCommits(delivered: Delivered, before: () => void): JobGraph {
  const { nodes, edges } = fixtureGraph(SMALL, delivered)
  const spied = (committer: SinkCommitter): SinkCommitter => ({
    ...committer,
    async commit(epoch, committables) {
      before()
      await committer.commit(epoch, committables)
    },
  })
  return {
    edges,
    nodes: nodes.map((node) =>
      node.role === 'sink'
        ? { ...node, sink: { ...node.sink, createCommitter: (context) => spied(node.sink.createCommitter!(context)) } }
        : node,
    ),
  }
}

function flipBit(path: string): void {
  const bytes = readFileSync(path)
  bytes[bytes.length >> 1]! ^= 8
  writeFileSync(path, bytes)
}

describe('prepared output', () => {
  const harms: Record<string, (path: string) => () => void> = {
    'that rotted': (path) => {
      flipBit(path)
      return () => flipBit(path)
    },
    'that is gone': (path) => {
      renameSync(path, `${path}.elsewhere`)
      return () => renameSync(`${path}.elsewhere`, path)
    },
  }
  for (const [harm, inflict] of Object.entries(harms)) {
    test(`${harm} ends the job, and is applied once it is back`, () =>
      withDirectory(async (checkpointDirectory) => {
        const outbox = layout.outbox(checkpointDirectory)
        const delivered: Delivered = { rows: [], marker: 0 }
        let mend = (): void => {}
        const graph = withCommits(delivered, () => {
          mend = inflict(join(outbox, readdirSync(outbox)[0]!))
        })
        const options = optionsOf({ checkpointDirectory, restart: FOR_EVER })
        const job = await launchJob(graph, options)
        const message =
          /Sink delivered cannot apply epoch 1: .*outbox\/g1-.*\.seg (does not match|is gone).*--restore PATH/
        await assert.rejects(job.done, { code: 'OUTPUT_LOST', message })
        assert.equal(job.status().restarts, 0)
        assert.equal(delivered.rows.length, 0)
        const healthy = fixtureGraph(SMALL, delivered)
        await assert.rejects(launchJob(healthy, { ...options, restore: 'latest' }), { code: 'OUTPUT_LOST', message })
        mend()
        await (await launchJob(healthy, { ...options, restore: 'latest' })).done
        assertExact(delivered, SMALL)
      }))
  }

  test('that does not fit the disk of the sink for a while is applied after a restart', async () => {
    const delivered: Delivered = { rows: [], marker: 0 }
    let full = 6
    const graph = withCommits(delivered, () => {
      if (full-- > 0) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
    })
    const job = await launchJob(graph, optionsOf({ restart: FOR_EVER }), HASTY)
    await job.done
    assert.equal(job.status().restarts, 1)
    assertExact(delivered, SMALL)
  })
})

describe('a store that is found damaged', () => {
  /** Goes on from a checkpoint, and finds damage at the first row; `harm` did it. */
  const goOn = async (checkpointDirectory: string, harm: (shared: string) => void) => {
    const delivered: Delivered = { rows: [], marker: 0 }
    const first = Promise.withResolvers<void>()
    const options = optionsOf({ checkpointDirectory, restart: FOR_EVER })
    const begins = fixtureGraph({ ...SMALL, rowsAllowed: () => 100, onPoll: () => first.resolve() }, delivered)
    const stopped = await launchJob(begins, options)
    await first.promise
    await stopped.stop()
    harm(layout.shared(checkpointDirectory))
    let isFound = false
    const onPoll = (): void => {
      if (isFound) return
      isFound = true
      throw new MillraceError('STORE_CORRUPT', 'Cannot read state: a block does not match its checksum.')
    }
    const job = await launchJob(fixtureGraph({ ...SMALL, onPoll }, delivered), { ...options, restore: 'latest' })
    return { job, delivered }
  }

  test('ends the job when a file of the checkpoint is', () =>
    withDirectory(async (directory) => {
      const { job } = await goOn(directory, (shared) => {
        for (const name of readdirSync(shared)) flipBit(join(shared, name))
      })
      const message = /shared\/[0-9a-f]{64} is damaged: .*millrace checkpoints verify/
      await assert.rejects(job.done, { code: 'STATE_FILE_CORRUPT', message })
      assert.equal(job.status().restarts, 0)
    }))

  test('is made anew when the checkpoint is whole', () =>
    withDirectory(async (directory) => {
      const { job, delivered } = await goOn(directory, () => {})
      await job.done
      assert.equal(job.status().restarts, 1)
      assertExact(delivered, SMALL)
    }))
})
