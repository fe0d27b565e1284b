/**
 * Keyed state beyond memory, on RocksDB: one worker's state with a budget, driven as a worker drives it.
 *
 *     node bench/state.ts cold --kind doubles|objects [--keys 10000000] [--budget-mib 64] [--store-mib 64] [--changes-mib 128] [--events 20000000]
 *     node bench/state.ts short-lived [--keys 100000000] [--budget-mib 256]
 *     node bench/state.ts pauses [--keys 5000000] [--budget-mib 2048] [--decoded 100000]
 *     node bench/state.ts barrier [--keys 10000000] [--budget-mib 4096]
 *
 * Every run checks what it computed: the counts of all keys add up to the events, or it fails. Keys are drawn
 * uniformly, the hardest case for a cache. Resident memory is the whole process: JavaScript, working set,
 * RocksDB's caches and write buffers. A checkpoint is taken every `--checkpoint-turns` turns. Turns and cuts
 * are in milliseconds of this thread's CPU time, which other load on the machine does not change; pauses of
 * the garbage collector can only be had by the clock.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PerformanceObserver } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import type { StateTable, ValueLayout } from '../engine/contract/keyed-state.ts'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import { BATCH_ROWS_MAX, type KeyColumn } from '../engine/core/batch.ts'
import { keyGroupRange, murmur3 } from '../engine/core/keys.ts'
import { KeyedBackend } from '../state/keyed-backend.ts'
import { WriteBatchBuilder } from '../state/keyed-layout.ts'
import { memoryStoreFactory } from '../state/memory-store.ts'
import { rocksdbStoreFactory } from '../state/rocksdb-store.ts'
import { objectCodec } from '../state/value-codec.ts'

const KEY_BYTES = 17
const MIB = 2 ** 20
/** Entries encoded a turn, as in the runtime. */
const CAPTURE_ENTRIES = 8_192

interface Accumulator {
  count: number
  sum: number
  last: string
}

export interface StateBenchOptions {
  readonly kind: 'doubles' | 'objects'
  readonly keys: number
  readonly events: number
  readonly budgetMib: number
  /** For RocksDB's caches and buffers, and for changes that wait for a checkpoint. */
  readonly storeMib: number
  readonly changesMib: number
  readonly decoded: number
  readonly checkpointTurns: number
  readonly store: 'rocksdb' | 'memory'
}

/** A line of results by name. */
export type BenchLine = Readonly<Record<string, number>>

/** Keys of a batch: a type byte and sixteen digits, as a string key of that length is encoded. */
class KeyBatch {
  readonly keys: KeyColumn = {
    bytes: new Uint8Array(BATCH_ROWS_MAX * KEY_BYTES),
    starts: Int32Array.from({ length: BATCH_ROWS_MAX }, (_, i) => i * KEY_BYTES),
    ends: Int32Array.from({ length: BATCH_ROWS_MAX }, (_, i) => (i + 1) * KEY_BYTES),
    hashes: new Int32Array(BATCH_ROWS_MAX),
  }

  set(row: number, number: number): void {
    const { bytes, hashes } = this.keys
    const at = row * KEY_BYTES
    bytes[at] = 1
    let rest = number
    for (let i = KEY_BYTES - 1; i > 0; i--) {
      bytes[at + i] = 48 + (rest % 10)
      rest = Math.floor(rest / 10)
    }
    hashes[row] = murmur3(bytes, at, at + KEY_BYTES)
  }
}

const LAYOUTS: Record<StateBenchOptions['kind'], ValueLayout> = {
  doubles: { kind: 'doubles', initial: [0, 0] },
  objects: { kind: 'object', codec: objectCodec((): Accumulator => ({ count: 0, sum: 0, last: '' }), { id: 'bench' }) },
}

/** One worker's state and what a worker does with it. */
class StateRig {
  readonly counters = { lateDropped: 0, filtered: 0, coldReads: 0 }
  readonly backend: KeyedBackend
  readonly table: StateTable
  readonly batch = new KeyBatch()
  readonly slots = new Int32Array(BATCH_ROWS_MAX)
  readonly turnsMs: number[] = []
  readonly cutsMs: number[] = []
  readonly checkpointsMs: number[] = []
  rssPeak = 0
  private readonly options: StateBenchOptions
  private readonly directory = mkdtempSync(join(tmpdir(), 'millrace-state-bench-'))
  private readonly store: KeyedStore
  private readonly builder = new WriteBatchBuilder()
  private imaging: Promise<unknown> | null = null
  private encoding = false
  private checkpoints = 0
  private startedMs = 0
  private turns = 0

  constructor(options: StateBenchOptions) {
    this.options = options
    const factory = options.store === 'rocksdb' ? rocksdbStoreFactory(options.storeMib * MIB) : memoryStoreFactory()
    this.store = factory.create(join(this.directory, 'store'))
    this.backend = new KeyedBackend({
      operatorId: 0,
      keyGroups: keyGroupRange(0, 1, 128),
      store: this.store,
      memoryBudgetBytes: options.budgetMib * MIB,
      decodedObjectsMax: options.decoded,
      dirtyBytesMax: options.changesMib * MIB,
      counters: this.counters,
    })
    this.table = this.backend.table({ name: 'counts', version: 1, layout: LAYOUTS[options.kind] })
  }

  /** Counts the batch's keys; `value` is added to their sums. */
  count(value: number): void {
    const segment = this.table.segment(0)
    segment.upsert(this.batch.keys, null, BATCH_ROWS_MAX, this.slots)
    if (this.options.kind === 'doubles') {
      const [counts, sums] = segment.doubles
      for (const slot of this.slots) {
        counts![slot]! += 1
        sums![slot]! += value
      }
      return
    }
    const { objects } = segment
    for (const slot of this.slots) {
      const accumulator = objects[slot] as Accumulator | undefined
      if (accumulator === undefined) objects[slot] = { count: 1, sum: value, last: 'an element' }
      else {
        accumulator.count++
        accumulator.sum += value
      }
    }
  }

  /** One turn of the worker: a batch, relief, and a piece of whatever checkpoint is under way. */
  async turn(work: () => void): Promise<void> {
    const start = threadMs()
    work()
    this.backend.maybeEvict()
    if (this.encoding) this.encode()
    this.turnsMs.push(threadMs() - start)
    if (++this.turns % this.options.checkpointTurns === 0 && !this.encoding && this.imaging === null) this.cut()
    if (this.turns % 16 === 0) {
      this.rssPeak = Math.max(this.rssPeak, process.memoryUsage.rss())
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  private cut(): void {
    this.startedMs = performance.now()
    const start = threadMs()
    this.backend.beginCut(this.builder)
    this.backend.captureMore(4_096)
    this.cutsMs.push(threadMs() - start)
    this.encoding = true
  }

  private encode(): void {
    if (!this.backend.captureMore(CAPTURE_ENTRIES)) return
    this.encoding = false
    const directory = join(this.directory, `image-${this.checkpoints++}`)
    const imaging = this.store.writeAndCheckpoint(this.builder.batch(), directory)
    this.backend.imagingStarted()
    this.imaging = imaging.then(() => {
      this.builder.clear()
      this.backend.checkpointSettled()
      this.checkpointsMs.push(performance.now() - this.startedMs)
      rmSync(directory, { recursive: true, force: true })
      this.imaging = null
    })
  }

  /** The counts of all keys, added up. */
  async total(): Promise<number> {
    while (this.encoding || this.imaging !== null) {
      if (this.encoding) this.encode()
      await new Promise((resolve) => setImmediate(resolve))
    }
    let total = 0
    const scan = this.table.segment(0).scan()
    for (let chunk = scan.next(4_096); chunk !== null; chunk = scan.next(4_096)) {
      for (let i = 0; i < chunk.count; i++) {
        total += this.options.kind === 'doubles' ? chunk.doubles[0]![i]! : (chunk.objects[i] as Accumulator).count
      }
    }
    scan.close()
    return total
  }

  close(): void {
    this.store.close()
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** CPU time of this thread, in milliseconds. */
function threadMs(): number {
  const { user, system } = process.threadCpuUsage()
  return (user + system) / 1_000
}

function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
}

function percentile(values: readonly number[], p: number): number {
  if (values.length === 0) return 0
  return values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * p))]!
}

function refuseOtherTotal(total: number, expected: number): void {
  if (total !== expected) throw new Error(`${total} events are counted, ${expected} were sent`)
}

function summary(rig: StateRig, events: number, cpuMicros: number): BenchLine {
  return {
    events,
    eventsPerCpuSecond: Math.round(events / (cpuMicros / 1e6)),
    rssPeakMib: Math.round(rig.rssPeak / MIB),
    coldReads: rig.counters.coldReads,
    turnP50Ms: percentile(rig.turnsMs, 0.5),
    turnP99Ms: percentile(rig.turnsMs, 0.99),
    turnP999Ms: percentile(rig.turnsMs, 0.999),
    turnMaxMs: percentile(rig.turnsMs, 1),
    checkpoints: rig.checkpointsMs.length,
    cutMaxMs: percentile(rig.cutsMs, 1),
    checkpointMaxMs: percentile(rig.checkpointsMs, 1),
  }
}

const cpuOf = (since: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(since)
  return user + system
}

/** Events with uniformly drawn keys: state many times the budget. */
export async function benchCold(options: StateBenchOptions): Promise<BenchLine> {
  const rig = new StateRig(options)
  const random = randomOf(7)
  const batches = Math.ceil(options.events / BATCH_ROWS_MAX)
  const since = process.cpuUsage()
  for (let b = 0; b < batches; b++) {
    for (let row = 0; row < BATCH_ROWS_MAX; row++) rig.batch.set(row, Math.floor(random() * options.keys))
    await rig.turn(() => rig.count(b))
  }
  const line = summary(rig, batches * BATCH_ROWS_MAX, cpuOf(since))
  refuseOtherTotal(await rig.total(), line['events']!)
  rig.close()
  return line
}

/** Each key comes once and is removed `LIFE_BATCHES` batches later. */
export async function benchShortLived(options: StateBenchOptions): Promise<BenchLine> {
  const rig = new StateRig(options)
  const batches = Math.ceil(options.keys / BATCH_ROWS_MAX)
  const lifeBatches = Math.min(500, Math.floor(batches / 2))
  const found = new Int32Array(BATCH_ROWS_MAX)
  const rssMib: number[] = []
  let removed = 0
  const since = process.cpuUsage()
  for (let b = 0; b < batches; b++) {
    for (let row = 0; row < BATCH_ROWS_MAX; row++) rig.batch.set(row, b * BATCH_ROWS_MAX + row)
    await rig.turn(() => rig.count(1))
    const leaving = b - lifeBatches
    if (leaving >= 0) {
      for (let row = 0; row < BATCH_ROWS_MAX; row++) rig.batch.set(row, leaving * BATCH_ROWS_MAX + row)
      await rig.turn(() => {
        const segment = rig.table.segment(0)
        segment.find(rig.batch.keys, null, BATCH_ROWS_MAX, found)
        for (const slot of found) {
          if (slot < 0) continue
          segment.remove(slot)
          removed++
        }
      })
    }
    if (b % Math.ceil(batches / 10) === Math.ceil(batches / 10) - 1)
      rssMib.push(Math.round(process.memoryUsage.rss() / MIB))
  }
  const events = batches * BATCH_ROWS_MAX
  const line = { ...summary(rig, events, cpuOf(since)), rssEarlyMib: rssMib[2] ?? 0, rssEndMib: rssMib.at(-1) ?? 0 }
  refuseOtherTotal((await rig.total()) + removed, events)
  rig.close()
  return line
}

/** Garbage-collection pauses with many live accumulators; `--decoded` as large as the keys is what to compare with. */
export async function benchPauses(options: StateBenchOptions): Promise<BenchLine> {
  const pausesMs: number[] = []
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) pausesMs.push(entry.duration)
  })
  observer.observe({ entryTypes: ['gc'] })
  const rig = new StateRig(options)
  const random = randomOf(11)
  const run = async (batches: number, keyOf: (n: number) => number): Promise<void> => {
    for (let b = 0; b < batches; b++) {
      for (let row = 0; row < BATCH_ROWS_MAX; row++) rig.batch.set(row, keyOf(b * BATCH_ROWS_MAX + row))
      await rig.turn(() => rig.count(b))
    }
  }
  const phase = async (name: string, batches: number, keyOf: (n: number) => number): Promise<BenchLine> => {
    pausesMs.length = 0
    rig.turnsMs.length = 0
    const since = process.cpuUsage()
    await run(batches, keyOf)
    await new Promise((resolve) => setTimeout(resolve, 10))
    const line = {
      ...summary(rig, batches * BATCH_ROWS_MAX, cpuOf(since)),
      gcs: pausesMs.length,
      gcTotalMs: pausesMs.reduce((sum, ms) => sum + ms, 0),
      gcP50Ms: percentile(pausesMs, 0.5),
      gcP99Ms: percentile(pausesMs, 0.99),
      gcMaxMs: percentile(pausesMs, 1),
    }
    return Object.fromEntries(Object.entries(line).map(([key, value]) => [`${name} ${key}`, value]))
  }
  const filling = Math.ceil(options.keys / BATCH_ROWS_MAX)
  const batches = Math.ceil(options.events / BATCH_ROWS_MAX)
  const line = {
    ...(await phase('fill', filling, (n) => n % options.keys)),
    ...(await phase('update', batches, () => Math.floor(random() * options.keys))),
  }
  observer.disconnect()
  refuseOtherTotal(await rig.total(), (filling + batches) * BATCH_ROWS_MAX)
  rig.close()
  return line
}

/** All keys dirty at the barrier: what the cut takes at once, and the checkpoint in all. */
export async function benchBarrier(options: StateBenchOptions): Promise<BenchLine> {
  const rig = new StateRig({ ...options, checkpointTurns: Math.ceil(options.keys / BATCH_ROWS_MAX) })
  const batches = Math.ceil(options.keys / BATCH_ROWS_MAX)
  const since = process.cpuUsage()
  for (let round = 0; round < 3; round++) {
    for (let b = 0; b < batches; b++) {
      for (let row = 0; row < BATCH_ROWS_MAX; row++) {
        rig.batch.set(row, (b * BATCH_ROWS_MAX + row) % options.keys)
      }
      await rig.turn(() => rig.count(b))
    }
  }
  const line = summary(rig, 3 * batches * BATCH_ROWS_MAX, cpuOf(since))
  refuseOtherTotal(await rig.total(), line['events']!)
  rig.close()
  return line
}

const SCENARIOS: Record<
  string,
  { run: (options: StateBenchOptions) => Promise<BenchLine>; defaults: Partial<StateBenchOptions> }
> = {
  cold: { run: benchCold, defaults: {} },
  'short-lived': { run: benchShortLived, defaults: { keys: 100e6, budgetMib: 256 } },
  pauses: { run: benchPauses, defaults: { kind: 'objects', keys: 5e6, events: 10e6, budgetMib: 2_048 } },
  barrier: { run: benchBarrier, defaults: { budgetMib: 4_096 } },
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      kind: { type: 'string' },
      keys: { type: 'string' },
      events: { type: 'string' },
      'budget-mib': { type: 'string' },
      'store-mib': { type: 'string' },
      'changes-mib': { type: 'string' },
      decoded: { type: 'string' },
      'checkpoint-turns': { type: 'string' },
      store: { type: 'string' },
    },
  })
  const scenario = SCENARIOS[positionals[0] ?? '']
  if (scenario === undefined) {
    process.stderr.write(`Name a scenario: ${Object.keys(SCENARIOS).join(', ')}.\n`)
    process.exit(2)
  }
  const { defaults } = scenario
  const number = (text: string | undefined, otherwise: number): number =>
    text === undefined ? otherwise : Number(text)
  const line = await scenario.run({
    kind: (values.kind ?? defaults.kind ?? 'doubles') as StateBenchOptions['kind'],
    keys: number(values.keys, defaults.keys ?? 10e6),
    events: number(values.events, defaults.events ?? 20e6),
    budgetMib: number(values['budget-mib'], defaults.budgetMib ?? 64),
    storeMib: number(values['store-mib'], 64),
    changesMib: number(values['changes-mib'], 128),
    decoded: number(values.decoded, 100_000),
    checkpointTurns: number(values['checkpoint-turns'], 2_000),
    store: (values.store ?? 'rocksdb') as StateBenchOptions['store'],
  })
  for (const [name, value] of Object.entries(line)) console.log(`${name.padEnd(26)} ${Number(value.toFixed(2))}`)
}
