/** `millrace state` beside a running job, on both backends, against a model. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { after, describe, test } from 'node:test'
import { collectSink } from '../connectors/collect/index.ts'
import {
  type AggregateFunction,
  count,
  type KeyedProcessFunction,
  minutes,
  type ProcessContext,
  type RunningJob,
  type RuntimeContext,
  type Source,
  StreamExecutionEnvironment,
  schema,
  sum,
  TumblingEventTimeWindows,
  t,
  type ValueState,
  WatermarkStrategy,
} from '../engine/api/index.ts'
import { layout } from '../engine/checkpoint/layout.ts'
import { manifestName } from '../engine/checkpoint/manifest.ts'
import { manifestNumbers, readManifest } from '../engine/checkpoint/manifest-store.ts'
import { batchOfRows } from '../engine/core/rows.ts'
import { linkCheckpoint } from '../engine/runtime/checkpoint-images.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { type Finished, MAIN, start } from './command-testkit.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-state-test-'))
const scratch = join(folder, 'scratch')
mkdirSync(scratch)
after(() => rmSync(folder, { recursive: true }))

/** Node's own cache of compiled code may lie there too. */
const isOurs = (name: string): boolean => name.startsWith('millrace-')

/** As `millrace state`, with its temporary files in a place of its own. */
function state(...args: readonly string[]): Promise<Finished> {
  return start([MAIN, 'state', ...args], { TMPDIR: scratch }).finished
}

const START_MS = Date.UTC(2026, 0, 1)
const MINUTE_MS = 60_000
const reading = schema({ sensor: t.string(), value: t.float64(), at: t.timestamp() })
const rows = Array.from({ length: 300 }, (_, i) => ({ sensor: `s${i % 7}`, value: i + 0.5, at: START_MS + i * 1_000 }))
type Reading = (typeof rows)[number]

/** Emits `rows` up to `limit()` and then waits for more. */
function openSource(limit: () => number, onEmitted: (rows: number) => void): Source<Reading> {
  return {
    kind: 'open',
    schema: reading,
    boundedness: 'unbounded',
    splits: async () => [{ id: '0', position: 0 }],
    createReader(context) {
      let next: number | null = null
      return {
        async open([split]) {
          if (split !== undefined) next = split.position as number
        },
        poll(rowsMax) {
          if (next === null) return { kind: 'end' }
          const from = next
          next = Math.min(limit(), from + rowsMax)
          context.worker.io.timers.schedule(2, () => context.wake())
          if (next === from) return { kind: 'pending' }
          onEmitted(next)
          return { kind: 'batch', split: '0', batch: batchOfRows(reading, rows.slice(from, next)) }
        },
        snapshot: () => (next === null ? [] : [{ id: '0', position: next }]),
        async close() {},
      }
    },
  }
}

const spread: AggregateFunction<Reading, { low: number; 'high, "all"': number }, number> = {
  createAccumulator: () => ({ low: Infinity, 'high, "all"': -Infinity }),
  add: (row, acc) => ({ low: Math.min(acc.low, row.value), 'high, "all"': Math.max(acc['high, "all"'], row.value) }),
  getResult: (acc) => acc['high, "all"'] - acc.low,
  merge: (a) => a,
}

/** Keeps the values seen, and asks for a timer five seconds after the last row of a minute. */
class Seen implements KeyedProcessFunction<string, Reading, string> {
  private seen: ValueState<Map<number, bigint>> | undefined

  open(context: RuntimeContext): void {
    this.seen = context.getState({ kind: 'value', name: 'seen', version: 1 })
  }

  processElement(row: Reading, context: ProcessContext<string>): void {
    const seen = this.seen!.value() ?? new Map<number, bigint>()
    this.seen!.update(seen.set(row.value, BigInt(row.at)))
    if (row.value === 299.5) context.timerService.registerEventTimeTimer(row.at + 5_000)
  }
}

/** A running job over the first `limit()` rows. */
async function startJob(
  backend: 'memory' | 'rocksdb',
  directory: string,
  source: Source<Reading>,
): Promise<RunningJob> {
  const env = StreamExecutionEnvironment.getExecutionEnvironment()
  env.setParallelism(2)
  env.setStateBackend(backend)
  env.getCheckpointConfig().setCheckpointStorage(directory)
  const watermarks = WatermarkStrategy.forBoundedOutOfOrderness(minutes(60)).withTimestampAssigner('at')
  const bySensor = env.fromSource(source).assignTimestampsAndWatermarks(watermarks).keyBy('sensor')
  const windows = bySensor.window(TumblingEventTimeWindows.of(minutes(1)))
  bySensor
    .reduce((a, b) => ({ ...b, value: a.value + b.value }))
    .uid('running')
    .sinkTo(collectSink())
  windows
    .aggregate({ rows: count(), total: sum('value') })
    .uid('minutes')
    .sinkTo(collectSink())
  windows.aggregate(spread).uid('spread').sinkTo(collectSink())
  bySensor
    .process(() => new Seen())
    .uid('seen')
    .sinkTo(collectSink())
  return env.executeAsync('readings')
}

interface Line {
  readonly operator: string
  readonly table: string
  readonly key: string
  readonly keyGroup: number
  readonly namespace: number
  readonly value: unknown
}

async function entriesOf(path: string, uid: string): Promise<Line[]> {
  const shown = await state(path, '--operator', uid, '--json', '--limit', '0')
  assert.equal(shown.code, 0, shown.stderr)
  const entries = shown.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)
  for (const entry of entries) assert.equal(entry.operator, uid)
  const groups = entries.map((entry) => entry.keyGroup)
  assert.deepEqual(
    groups,
    groups.toSorted((a, b) => a - b),
    'in scan order',
  )
  return entries
}

/** Values by key and namespace; each may come once. */
function byEntry(entries: readonly Line[]): Map<string, unknown> {
  const values = new Map(entries.map(({ key, namespace, value }) => [`${key} ${namespace}`, value]))
  assert.equal(values.size, entries.length)
  return values
}

function grouped(nameOf: (row: Reading) => string): Map<string, Reading[]> {
  return Map.groupBy(rows, nameOf)
}

function modelOf(groups: Map<string, Reading[]>, reduce: (rows: Reading[]) => unknown): Map<string, unknown> {
  return new Map([...groups].map(([name, members]) => [name, reduce(members)]))
}

const total = (members: readonly Reading[]): number => members.reduce((t, row) => t + row.value, 0)

async function compareWithModel(path: string): Promise<void> {
  const [running, perMinute, spreads, seen] = await Promise.all(
    ['running', 'minutes', 'spread', 'seen'].map((uid) => entriesOf(path, uid)),
  )
  const bySensor = grouped((row) => `${row.sensor} 0`)
  const byWindow = grouped((row) => `${row.sensor} ${Math.floor(row.at / MINUTE_MS) * MINUTE_MS}`)
  assert.deepEqual(
    byEntry(running!),
    modelOf(bySensor, (members) => ({ ...members.at(-1), value: total(members) })),
  )
  assert.deepEqual(
    byEntry(perMinute!),
    modelOf(byWindow, (members) => [members.length, total(members)]),
  )
  assert.deepEqual(
    byEntry(spreads!),
    modelOf(byWindow, (members) => ({ low: members[0]!.value, 'high, "all"': members.at(-1)!.value })),
  )
  assert.deepEqual(
    byEntry(seen!.filter((entry) => entry.table === 'seen')),
    modelOf(bySensor, (members) => members.map((row) => [row.value, String(row.at)])),
  )
  const due = rows.at(-1)!.at + 5_000
  assert.deepEqual(
    seen!
      .filter((entry) => entry.table !== 'seen')
      .map(({ table, key, namespace, value }) => [table, key, namespace, value]),
    [['$timers', rows.at(-1)!.sensor, due, [due]]],
  )
}

async function checkText(directory: string): Promise<void> {
  const [listed, listedJson, some, unknown] = await Promise.all([
    state(directory),
    state(directory, '--json'),
    state(directory, '--operator', 'minutes', '--limit', '3'),
    state(directory, '--operator', 'walking'),
  ])
  assert.match(
    listed.stdout,
    /^running {2}"Reduce" {2}parallelism 2 {2}7 entries {2}reduced v1 object\(sensor:string,value:number,at:number\): 7$/m,
  )
  assert.match(listed.stdout, /^minutes .*35 entries {2}windows v1 doubles\(2\): 35$/m)
  assert.match(listed.stdout, /^seen .*8 entries /m)
  const counts = listedJson.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { uid: string; entries: number })
  assert.deepEqual(new Map(counts.map(({ uid, entries }) => [uid, entries])).get('spread'), 35)
  const lines = some.stdout.trimEnd().split('\n')
  assert.equal(lines.length, 3)
  for (const line of lines) assert.match(line, /^"s\d" {2}2026-01-01T00:0\d:00\.000Z {2}windows {2}\[\d+,\d+(\.5)?\]$/)
  assert.equal(unknown.code, 1)
  assert.match(unknown.stderr, /"walking".*Known: .*running/)
}

/** State files vanish just before they are linked, as a running job's clean-up takes them. */
async function checkCollected(directory: string, into: string): Promise<void> {
  const [older, newest] = (await manifestNumbers(nodeIo.disk, directory)).slice(-2)
  const { manifest: previous } = await readManifest(nodeIo.disk, directory, older!)
  // Of the newest checkpoint alone: a store may have files in both.
  const kept = new Set(previous!.stores.flatMap(({ files }) => files.map(({ sha256 }) => sha256)))
  let removals = 1
  const disk = {
    ...nodeIo.disk,
    async link(from: string, to: string) {
      if (!kept.has(basename(from)) && removals-- > 0) rmSync(from)
      return nodeIo.disk.link(from, to)
    },
  }
  const { manifest, images } = await linkCheckpoint(disk, directory, into)
  assert.ok(manifest.number === older && older < newest! && images.length > 0, 'the newest one that is whole')
  kept.clear()
  removals = 1
  const path = layout.manifest(directory, manifestName(manifest.number))
  await assert.rejects(linkCheckpoint(disk, path, `${into}-again`), { code: 'CHECKPOINT_NOT_FOUND' })
}

for (const backend of ['memory', 'rocksdb'] as const) {
  describe(`state on ${backend}`, () => {
    test('of a savepoint with open windows, beside the running job', async () => {
      const directory = join(folder, backend)
      let limit = 100
      let emitted = 0
      const job = await startJob(
        backend,
        directory,
        openSource(
          () => limit,
          (rows) => (emitted = rows),
        ),
      )
      const emittedUpTo = async (rows: number): Promise<void> => {
        limit = rows
        while (emitted < rows) await new Promise((resolve) => setTimeout(resolve, 2))
      }
      try {
        await emittedUpTo(100)
        const first = await job.savepoint()
        await emittedUpTo(rows.length)
        const second = await job.savepoint()
        const filesBefore = readdirSync(layout.shared(directory))
        await compareWithModel(directory)
        await checkText(directory)
        const [older] = await Promise.all([entriesOf(first, 'running'), entriesOf(second, 'running')])
        const early = rows.slice(0, 100)
        assert.equal(
          older.reduce((t, { value }) => t + (value as Reading).value, 0),
          total(early),
          'a named manifest is read, not the newest',
        )
        assert.deepEqual(readdirSync(layout.shared(directory)), filesBefore)
      } finally {
        await job.cancel()
      }
      assert.deepEqual(readdirSync(scratch).filter(isOurs), [], 'no temporary files stay')
      await checkCollected(directory, join(folder, `linked-${backend}`))
    })
  })
}

test('wrong usage ends with 2, no checkpoint with 1', async () => {
  const empty = join(folder, 'empty')
  mkdirSync(empty)
  const [none, nowhere, limit, nothing] = await Promise.all([
    state(),
    state(join(folder, 'nowhere')),
    state(empty, '--limit', '-1'),
    state(empty),
  ])
  assert.deepEqual([none.code, nowhere.code, limit.code, nothing.code], [2, 2, 2, 1])
  assert.match(nothing.stderr, /CHECKPOINT_NOT_FOUND.*has no checkpoint.*millrace savepoint/)
  assert.deepEqual(readdirSync(scratch).filter(isOurs), [])
})
