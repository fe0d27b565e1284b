/**
 * Savepoints read and rewritten by a program: what a job saved is read back, changed, added to and moved, and jobs that
 * restore the result go on from exactly that, on both backends and at other parallelisms.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { ticker } from '../../cli/fixtures/ticker.ts'
import {
  type AggregateFunction,
  AggregatingStateDescriptor,
  days,
  type KeyedProcessFunction,
  ListStateDescriptor,
  MapStateDescriptor,
  minutes,
  ReducingStateDescriptor,
  type RuntimeContext,
  StateTtlConfig,
  StreamExecutionEnvironment,
  TumblingEventTimeWindows,
  ValueStateDescriptor,
  WatermarkStrategy,
} from '../api/index.ts'
import { SavepointReader, SavepointWriter, type StateOf } from '../api/state.ts'
import { layout } from '../checkpoint/layout.ts'
import { decodeManifest } from '../checkpoint/manifest.ts'
import { verifyCheckpoints } from '../checkpoint/verify.ts'
import { nodeIo } from './node-io.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-savepoint-api-'))
after(() => rmSync(folder, { recursive: true, force: true }))

class Total {
  sum = 0
  count = 0
  get mean(): number {
    return this.sum / this.count
  }
}

const TOTAL = new ValueStateDescriptor<Total>('total', { template: () => new Total() })
const SEEN = new MapStateDescriptor<number, number>('seen')

interface Row {
  readonly n: number
}

class Totals implements KeyedProcessFunction<number, Row, string> {
  private context!: { total: ReturnType<RuntimeContext['getState']>; seen: ReturnType<RuntimeContext['getMapState']> }

  open(context: RuntimeContext): void {
    this.context = { total: context.getState(TOTAL) as never, seen: context.getMapState(SEEN) as never }
  }

  processElement(row: Row, { currentKey }: { currentKey: number }, collect: (line: string) => void): void {
    const total = (this.context.total.value() as Total | undefined) ?? new Total()
    total.sum += row.n
    total.count++
    this.context.total.update(total)
    this.context.seen.put((row.n % 2) as never, row.n as never)
    collect(`${currentKey} ${total.sum} ${total.count} ${total.mean}`)
  }
}

interface Run {
  readonly directory: string
  readonly limit: number
  readonly restore?: string
  readonly parallelism?: number
  readonly backend?: 'memory' | 'rocksdb'
  readonly uid?: string
}

/** Runs totals by remainder, and open windows beside them, to the end of its rows; gives what was printed. */
async function run({ directory, limit, restore, parallelism = 1, backend = 'memory', uid = 'totals' }: Run) {
  const env = StreamExecutionEnvironment.createEnvironment()
  env.setParallelism(parallelism).setStateBackend(backend)
  env.getCheckpointConfig().setCheckpointStorage(directory)
  const lines: string[] = []
  const rows = env.fromSource(
    ticker(limit, 0),
    WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner((row) => row.n),
  )
  rows
    .uid('rows')
    .keyBy((row) => row.n % 5)
    .process(new Totals())
    .uid(uid)
    .addSink({ invoke: (line: string) => void lines.push(line) })
    .uid('lines')
  const args = restore === undefined ? [] : ['--restore', restore, '--allow-non-restored-state']
  const job = await env.executeAsync('totals', { args })
  await job.done
  return lines.sort()
}

const week = StateTtlConfig.newBuilder(days(7)).build()
/** The mean of what was added. */
const MEAN: AggregateFunction<number, Total, number> = {
  createAccumulator: () => new Total(),
  add: (n, total) => Object.assign(total, { sum: total.sum + n, count: total.count + 1 }),
  getResult: (total) => total.mean,
  merge: (a, b) => Object.assign(a, { sum: a.sum + b.sum, count: a.count + b.count }),
}
const ALL = new ListStateDescriptor<Total>('all', { template: () => new Total() })
const FRESH = {
  last: new ValueStateDescriptor<Total>('last', { template: () => new Total() }).enableTimeToLive(week),
  halves: new MapStateDescriptor<number, number>('halves').enableTimeToLive(week),
  numbers: new ListStateDescriptor<number>('numbers').enableTimeToLive(week),
}
const GREATEST = new ReducingStateDescriptor<number>('greatest', Math.max)
const AVERAGE = new AggregatingStateDescriptor('average', MEAN)

/**
 * Puts the numbers from `from` up to `limit` into states of every kind, under the key that is their remainder by 2; after a
 * restore it gives what the states held before each.
 */
async function runEveryKind(
  directory: string,
  limit: number,
  backend: 'memory' | 'rocksdb',
  { restore, from = 0 }: { restore?: string; from?: number } = {},
): Promise<string[]> {
  const lines: string[] = []
  const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).setStateBackend(backend)
  env.getCheckpointConfig().setCheckpointStorage(directory)
  const numbers = env
    .fromSequence(from, limit - 1)
    .uid(`numbers-from-${from}`)
    .setParallelism(1)
    .keyBy((n) => n % 2)
  const keep = () => {
    let add: (n: number) => void
    let show: () => string
    return {
      open(context: RuntimeContext) {
        const [all, numbers] = [context.getListState(ALL), context.getListState(FRESH.numbers)]
        const [last, halves] = [context.getState(FRESH.last), context.getMapState(FRESH.halves)]
        const [greatest, average] = [context.getReducingState(GREATEST), context.getAggregatingState(AVERAGE)]
        add = (n) => {
          const total = Object.assign(new Total(), { sum: n, count: 2 })
          all.add(total)
          numbers.add(n)
          last.update(total)
          halves.put(n, n / 2)
          greatest.add(n)
          average.add(n)
        }
        const sum = (values: Iterable<number>) => [...values].reduce((a, b) => a + b, 0)
        show = () => {
          const means = [...all.get()].map(({ mean }) => mean)
          const shown = [means.length, sum(means), [...numbers.get()].length, sum(numbers.get()), last.value()?.mean]
          return [...shown, sum(halves.values())].join(' ')
        }
      },
      processElement(n: number, _context: unknown, collect: (line: string) => void) {
        if (restore !== undefined) collect(`${n % 2}: ${show()}`)
        add(n)
      },
    }
  }
  numbers
    .process(keep)
    .uid('keep')
    .addSink((line: string) => void lines.push(line))
  const args = restore === undefined ? [] : ['--restore', restore, '--allow-non-restored-state']
  await (await env.executeAsync('every kind', { args })).done
  return lines.sort()
}

async function entriesOf<T>(entries: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const entry of entries) all.push(entry)
  return all
}

const newest = (directory: string): string => {
  const names = readdirSync(join(directory, 'manifests')).sort()
  return join(directory, 'manifests', names.at(-1)!)
}

for (const backend of ['memory', 'rocksdb'] as const) {
  describe(backend, () => {
    const directory = join(folder, backend)

    test('what a job saved is read back', async () => {
      await run({ directory, limit: 20, backend, parallelism: 2 })
      await using savepoint = await SavepointReader.read(directory)
      assert.deepEqual(
        savepoint.operators.map(({ uid }) => uid).filter((uid) => uid === 'totals'),
        ['totals'],
      )
      const totals = await entriesOf(savepoint.readKeyedState<number, Total>('totals', TOTAL))
      assert.deepEqual(
        totals.map(({ key, value }) => [key, value.sum, value.mean]).sort(),
        [0, 1, 2, 3, 4].map((key) => [key, 4 * key + 30, key + 7.5]),
      )
      const seen = await entriesOf(savepoint.readKeyedState<number, number>('totals', 'seen'))
      assert.equal(seen.length, 10)
      for (const { key, entry, value } of seen) assert.deepEqual([value % 5, value % 2], [key, entry])
      await assert.rejects(entriesOf(savepoint.readKeyedState('other', 'total')), { code: 'OPERATOR_UNKNOWN' })
      await assert.rejects(entriesOf(savepoint.readKeyedState('totals', 'other')), { code: 'STATE_UNKNOWN' })
    })

    test('states of every kind are read by their descriptors, with and without a time to live', async () => {
      const kinds = join(folder, `${backend}-kinds`)
      // Lists of several pieces.
      const limit = 400
      await runEveryKind(kinds, limit, backend)
      await using savepoint = await SavepointReader.read(kinds)
      const read = async <V>(state: string | StateOf<V>): Promise<[unknown, V][]> => {
        const entries = await entriesOf(savepoint.readKeyedState<number, V>('keep', state))
        return entries.map(({ key, value }): [unknown, V] => [key, value]).sort(([a], [b]) => Number(a) - Number(b))
      }
      const numbersOf = (key: number) => Array.from({ length: limit / 2 }, (_, i) => 2 * i + key)
      const both = <V>(of: (key: number) => V) => [0, 1].map((key): [unknown, V] => [key, of(key)])
      assert.deepEqual(await read<unknown>(FRESH.numbers), both(numbersOf))
      assert.deepEqual(await read('numbers'), both(numbersOf))
      for await (const { key, value } of savepoint.readKeyedState<number, Total>('keep', ALL)) {
        assert.deepEqual(
          value.map((total) => total.mean * 2),
          numbersOf(key),
        )
      }
      assert.deepEqual(
        (await read(FRESH.last)).map(([key, total]) => [key, total.mean * 2]),
        both((key) => limit - 2 + key),
      )
      assert.deepEqual(
        await read(GREATEST),
        both((key) => limit - 2 + key),
      )
      assert.deepEqual(
        (await read(AVERAGE)).map(([key, total]) => [key, total.mean]),
        both((key) => limit / 2 - 1 + key),
      )
      const halves = await entriesOf(savepoint.readKeyedState<number, number>('keep', FRESH.halves))
      assert.equal(halves.length, limit)
      for (const { key, entry, value } of halves) assert.deepEqual([key, entry], [(2 * value) % 2, 2 * value])
      await assert.rejects(read(new ListStateDescriptor<Total>('all')), { code: 'STATE_INCOMPATIBLE' })
    })

    test('lists and states with a time to live are rewritten, and a job goes on with them', async () => {
      const half = (total: Total): Total => Object.assign(new Total(), { sum: total.sum / 2, count: total.count })
      const path = await SavepointWriter.fromExistingSavepoint(join(folder, `${backend}-kinds`))
        .transformKeyedState<number, Total, Total>('keep', ALL, ({ key, value }) =>
          key === 1 ? undefined : value.slice(0, 130).map(half),
        )
        .transformKeyedState<number, number, number>('keep', FRESH.numbers, ({ value }) => value.map((n) => n + 1))
        .transformKeyedState<number, Total, Total>('keep', FRESH.last, ({ value }) => half(value))
        .transformKeyedState<number, number, number>('keep', FRESH.halves, ({ entry, value }) =>
          (entry as number) < 10 ? value * 10 : undefined,
        )
        .write(join(folder, `${backend}-kinds-rewritten`))
      const wrong = SavepointWriter.fromExistingSavepoint(path)
        .transformKeyedState('keep', { name: 'all' }, ({ value }) => value)
        .write(join(folder, `${backend}-kinds-wrong`))
      await assert.rejects(wrong, { code: 'STATE_NOT_WRITABLE' })
      await using savepoint = await SavepointReader.read(path)
      const [all] = await entriesOf(savepoint.readKeyedState<number, Total>('keep', ALL))
      assert.deepEqual(
        all!.value.map(({ mean }) => mean * 4),
        Array.from({ length: 130 }, (_, i) => 2 * i),
      )
      // The numbers of key 1 come in place of those that were dropped, and are shown with all before them.
      const directory = join(folder, `${backend}-kinds-continued`)
      const lines = await runEveryKind(directory, 404, backend, { restore: path, from: 400 })
      const evens = (200 * 199 * 2) / 2 + 200
      assert.deepEqual(lines, [
        `0: 130 ${(129 * 130) / 4} 200 ${evens} ${398 / 4} ${(0 + 2 + 4 + 6 + 8) * 5}`,
        `0: 131 ${(129 * 130) / 4 + 200} 201 ${evens + 400} 200 ${(0 + 2 + 4 + 6 + 8) * 5 + 200}`,
        `1: 0 0 200 ${evens + 200} ${399 / 4} ${(1 + 3 + 5 + 7 + 9) * 5}`,
        `1: 1 200.5 201 ${evens + 200 + 401} 200.5 ${(1 + 3 + 5 + 7 + 9) * 5 + 200.5}`,
      ])
    })

    test('a rewritten savepoint is a checkpoint that a job continues, at another parallelism too', async () => {
      const target = join(folder, `${backend}-rewritten`)
      const before = readFileSync(newest(directory), 'utf8')
      const path = await SavepointWriter.fromExistingSavepoint(directory)
        .changeOperatorUid('totals', 'sums')
        .transformKeyedState<number, Total, Total>('sums', TOTAL, ({ key, value }) =>
          key === 4 ? undefined : Object.assign(new Total(), { sum: value.sum * 100, count: value.count }),
        )
        .withKeyedState('sums', TOTAL, [[3, Object.assign(new Total(), { sum: 7_000, count: 1 })]])
        .withKeyedState('sums', SEEN, [[3, 1, 33]])
        .withKeyedState('limits', new ValueStateDescriptor<number>('limit'), new Map([['a', 1]]))
        .write(target)
      assert.equal(readFileSync(newest(directory), 'utf8'), before)
      const { problems } = await verifyCheckpoints(nodeIo.disk, target)
      assert.deepEqual(problems, [])
      await using rewritten = await SavepointReader.read(path)
      assert.deepEqual(await entriesOf(rewritten.readKeyedState('limits', 'limit')), [{ key: 'a', value: 1 }])
      const seen = await entriesOf(rewritten.readKeyedState('sums', 'seen'))
      assert.deepEqual(seen.find(({ key, entry }) => key === 3 && entry === 1)?.value, 33)
      for (const parallelism of [2, 3]) {
        const place = join(folder, `${backend}-continued-${parallelism}`)
        const lines = await run({ directory: place, limit: 25, restore: path, parallelism, backend, uid: 'sums' })
        assert.deepEqual(lines, [
          `0 ${3_000 + 20} 5 ${3_020 / 5}`,
          `1 ${3_400 + 21} 5 ${3_421 / 5}`,
          `2 ${3_800 + 22} 5 ${3_822 / 5}`,
          `3 ${7_000 + 23} 2 ${7_023 / 2}`,
          '4 24 1 24',
        ])
        // Each key group is in one store only, and the operator that the job lacks is in none.
        await using continued = await SavepointReader.read(place)
        const keys = (await entriesOf(continued.readKeyedState<number>('sums', 'total'))).map(({ key }) => key)
        assert.deepEqual(keys.sort(), [0, 1, 2, 3, 4])
        assert.ok(!continued.operators.some(({ uid }) => uid === 'limits'))
      }
    })

    test('an operator that is removed leaves nothing behind', async () => {
      const target = join(folder, `${backend}-removed`)
      await SavepointWriter.fromExistingSavepoint(directory).removeOperator('totals').write(target)
      await using savepoint = await SavepointReader.read(target)
      assert.ok(!savepoint.operators.some(({ uid }) => uid === 'totals'))
      const lines = await run({
        directory: join(folder, `${backend}-anew`),
        limit: 22,
        restore: newest(target),
        backend,
      })
      assert.deepEqual(lines, ['0 20 1 20', '1 21 1 21'])
    })

    test('state of other systems begins a job', async () => {
      const target = join(folder, `${backend}-bootstrap`)
      async function* totals(): AsyncGenerator<readonly [number, Total]> {
        for (let key = 0; key < 3; key++) yield [key, Object.assign(new Total(), { sum: key, count: 9 })]
      }
      const path = await SavepointWriter.newSavepoint({ stateBackend: backend })
        .withKeyedState('totals', TOTAL, totals())
        .write(target)
      const lines = await run({ directory: target, limit: 4, restore: 'latest', backend, parallelism: 2 })
      assert.deepEqual(lines, ['0 0 10 0', '1 2 10 0.2', '2 4 10 0.4', '3 3 1 3'])
      assert.ok(existsSync(path))
      await assert.rejects(SavepointWriter.newSavepoint().write(target), { code: 'CHECKPOINT_DIRECTORY_NOT_EMPTY' })
    })
  })
}

test('damage to a savepoint is not taken over into the one made of it', async () => {
  const directory = join(folder, 'damaged')
  await run({ directory, limit: 20, backend: 'rocksdb' })
  const { stores } = decodeManifest(readFileSync(newest(directory)), 'newest')
  const table = stores.flatMap(({ files }) => files).find(({ name }) => name.endsWith('.sst'))!
  const path = layout.sharedFile(directory, table.sha256)
  const bytes = readFileSync(path)
  bytes[8]! ^= 1
  writeFileSync(path, bytes)
  const writing = SavepointWriter.fromExistingSavepoint(directory).write(join(folder, 'of-damaged'))
  await assert.rejects(writing, { code: 'STATE_FILE_CORRUPT', message: new RegExp(`${table.sha256} is damaged`) })
})

test('the accumulators of open windows are read by their window', async () => {
  const directory = join(folder, 'windows')
  let fired = false
  const env = StreamExecutionEnvironment.createEnvironment()
  env.setStateBackend('memory').getCheckpointConfig().setCheckpointStorage(directory)
  env
    .fromSource(
      ticker(100_000, 10),
      WatermarkStrategy.forMonotonousTimestamps<Row>().withTimestampAssigner((row) => row.n * 60_000),
    )
    .keyBy(() => 'all')
    .window(TumblingEventTimeWindows.of(minutes(4)))
    .aggregate({
      createAccumulator: () => ({ sum: 0 }),
      add: (row: Row, acc) => ({ sum: acc.sum + row.n }),
      getResult: (acc) => acc.sum,
      merge: (a, b) => ({ sum: a.sum + b.sum }),
    })
    .uid('windows')
    .addSink(() => {
      fired = true
    })
  const job = await env.executeAsync('windows')
  // From the first row on there is always an open window.
  while (!fired) await new Promise((resolve) => setTimeout(resolve, 5))
  const path = await job.savepoint()
  await job.cancel()
  await using savepoint = await SavepointReader.read(path)
  const open = await entriesOf(savepoint.readWindowState<string, { sum: number }>('windows'))
  assert.ok(open.length >= 1, 'the newest window is open')
  for (const { key, value, windowStart } of open) {
    assert.equal(key, 'all')
    const first = windowStart / 60_000
    // The window has the first of its four rows, or more of them.
    const sums = [1, 2, 3, 4].map((rows) => Array.from({ length: rows }, (_, i) => first + i).reduce((a, b) => a + b))
    assert.ok(sums.includes(value.sum), `${value.sum} is no sum of a window that begins with ${first}`)
  }
})
