/**
 * A job with every operator of two inputs, whole: on worker threads with failures and restarts, and stopped and
 * continued at other parallelisms; each result once, against plain loops over the same rows.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { optionsOf, withDirectory } from '../engine/runtime/job.testkit.ts'
import { launchJob } from '../engine/runtime/launcher.ts'
import type { JobEvent } from '../engine/runtime/status.ts'
import {
  type Click,
  clickOf,
  type JointOptions,
  jointGraph,
  LOWER_MS,
  type Order,
  orderOf,
  RULES,
  ruleOf,
  UPPER_MS,
  WINDOW_MS,
} from './joint-job.fixture.ts'

const COUNT = 1_000
const all = <T>(of: (i: number) => T, count: number): T[] => Array.from({ length: count }, (_, i) => of(i))

function groupsOf(orders: readonly Order[], clicks: readonly Click[]): string[] {
  const groups = new Map<string, [number[], number[]]>()
  const groupOf = ({ user, at }: Order | Click) => {
    const name = `${user} ${Math.floor(at / WINDOW_MS)}`
    const group = groups.get(name) ?? [[], []]
    groups.set(name, group)
    return group
  }
  for (const order of orders) groupOf(order)[0].push(order.item)
  for (const click of clicks) groupOf(click)[1].push(click.page)
  return [...groups.values()].map(([items, pages]) => `group ${items} ${pages}`)
}

function expectedRows(): string[] {
  const orders = all(orderOf, COUNT)
  const clicks = all(clickOf, COUNT)
  const near = orders.flatMap((order) =>
    clicks
      .filter(({ user, at }) => user === order.user && at >= order.at + LOWER_MS && at <= order.at + UPPER_MS)
      .map((click) => `near ${order.item} ${click.page}`),
  )
  const users = [...new Set([...orders, ...clicks].map(({ user }) => user))]
  const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0)
  const sums = users.map((user) => {
    const items = orders.filter((order) => order.user === user).map(({ item }) => item)
    const pages = clicks.filter((click) => click.user === user).map(({ page }) => page)
    return `sums ${user} ${sum(items)} ${pages.length} ${sum(pages)}`
  })
  const rules = all(ruleOf, RULES).map(({ digit, factor }) => {
    const pages = clicks.filter(({ page }) => page % RULES === digit).map(({ page }) => page)
    return `rule ${digit} ${sum(pages) * factor}`
  })
  assert.ok(near.length > 300)
  return [...near, ...groupsOf(orders, clicks), ...sums, ...rules].sort()
}

describe('operators of two inputs in one job', () => {
  test('on worker threads, through failures', async () => {
    await withDirectory(async (directory) => {
      const options: JointOptions = { count: COUNT, ratePerSecond: 5_000, failAt: [200, 450, 750], directory }
      const { graph, sink } = jointGraph(options)
      const events: JobEvent[] = []
      const job = await launchJob(
        graph,
        optionsOf({
          parallelism: 3,
          workers: 2,
          moduleUrl: new URL('./joint-job.fixture.ts', import.meta.url).href,
          config: { joint: JSON.stringify(options) },
          checkpointIntervalMs: 25,
          restart: { kind: 'fixed-delay', attempts: 5, delayMs: 1 },
          onEvent: (event) => events.push(event),
        }),
      )
      await job.done
      assert.equal(events.filter(({ type }) => type === 'restart').length, 3)
      assert.ok(events.some(({ type }) => type === 'checkpoint'))
      assert.deepEqual(sink.rows().sort(), expectedRows())
    })
  })

  test('stopped and continued at other parallelisms', async () => {
    await withDirectory(async (checkpointDirectory) => {
      const { graph, sink } = jointGraph({ count: COUNT, ratePerSecond: 2_500 })
      for (const parallelism of [2, 3, 1]) {
        const restore = parallelism === 2 ? null : 'latest'
        const job = await launchJob(
          graph,
          optionsOf({ parallelism, checkpointDirectory, checkpointIntervalMs: 30, restore, stateBackend: 'rocksdb' }),
        )
        await new Promise((resolve) => setTimeout(resolve, 70))
        await job.stop()
        await job.done
      }
      const job = await launchJob(
        graph,
        optionsOf({ parallelism: 4, checkpointDirectory, restore: 'latest', stateBackend: 'rocksdb' }),
      )
      await job.done
      assert.deepEqual(sink.rows().sort(), expectedRows())
    })
  })
})
