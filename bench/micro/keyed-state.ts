/**
 * What keyed state costs on one core: upserts, the cut of a checkpoint, and the built-in window aggregate.
 *
 * `node bench/micro/keyed-state.ts` prints one line a case, the best of five rounds. No store is read: all
 * state is in memory.
 */

import type { Operator } from '../../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch, type KeyColumn, withKeys } from '../../engine/core/batch.ts'
import { fieldKeyExtractor } from '../../engine/core/keys.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { schema, t } from '../../engine/core/schema.ts'
import { windowOperator } from '../../operators/window-aggregate.ts'
import { tumblingWindows } from '../../operators/window-assigner.ts'
import { columnarKernel } from '../../operators/window-columnar.ts'
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { backendInMemory, openAlone } from './lone-operator.ts'

const ROUNDS = 5
const ROWS = schema({ key: t.string(), value: t.float64() })

/** A line of results by name. */
export type BenchLine = Readonly<Record<string, number>>

/** Batches of random keys, 12 characters each, with their key columns. */
function keyedBatches(keys: number, batches: number): Batch[] {
  const extract = fieldKeyExtractor(ROWS, 0)
  let seed = 1
  const next = (): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
    return (seed >>> 4) / 2 ** 28
  }
  return Array.from({ length: batches }, () => {
    const rows = Array.from({ length: BATCH_ROWS_MAX }, () => ({
      key: `session-${Math.floor(next() * keys)
        .toString(36)
        .padStart(4, '0')}`,
      value: next(),
    }))
    const batch = batchOfRows(ROWS, rows, new Array<number>(rows.length).fill(5))
    return withKeys(batch, copyOf(extract(batch)))
  })
}

function copyOf(keys: KeyColumn): KeyColumn {
  const { bytes, starts, ends, hashes } = keys
  const end = ends[ends.length - 1]
  return {
    bytes: new Uint8Array(bytes.subarray(0, end)),
    starts: starts.slice(),
    ends: ends.slice(),
    hashes: hashes.slice(),
  }
}

function timeMs(work: () => void): number {
  const start = performance.now()
  work()
  return performance.now() - start
}

const bestOf = (work: () => void): number => Math.min(...Array.from({ length: ROUNDS }, () => timeMs(work)))

/** Upserts with a count, and the capture of all that they touched. */
export function benchUpsert(keys: number, batches: number): BenchLine {
  const input = keyedBatches(keys, batches)
  const backend = backendInMemory()
  const table = backend.table({ name: 'counts', version: 1, layout: { kind: 'doubles', initial: [0, 0] } })
  const slots = new Int32Array(BATCH_ROWS_MAX)
  const upsertAll = (): void => {
    const segment = table.segment(0)
    for (const batch of input) {
      segment.upsert(batch.keys!, null, batch.length, slots)
      const counts = segment.doubles[0]
      for (let j = 0; j < batch.length; j++) counts[slots[j]]++
    }
  }
  upsertAll()
  const upsertMs = bestOf(upsertAll)
  const builder = new WriteBatchBuilder()
  let captureMs = Number.POSITIVE_INFINITY
  for (let round = 0; round < ROUNDS; round++) {
    upsertAll()
    builder.clear()
    captureMs = Math.min(
      captureMs,
      timeMs(() => backend.captureDirty(builder)),
    )
    backend.checkpointSettled()
  }
  return {
    keys,
    upsertNs: (upsertMs * 1e6) / (batches * BATCH_ROWS_MAX),
    entries: builder.count,
    captureMs,
    memoryMiB: backend.memoryBytes() / 2 ** 20,
  }
}

function tumblingCountAndSum(): Operator {
  return windowOperator({
    assigner: tumblingWindows(10_000),
    kernel: columnarKernel({
      inputSchema: ROWS,
      keyKind: 'string',
      aggregates: { rows: { kind: 'count' }, total: { kind: 'sum', field: 'value' } },
    }),
  })
}

/** Count and sum a key and window, keys ready and keys extracted, then the firing of the window. */
export function benchWindow(keys: number, batches: number): BenchLine {
  const input = keyedBatches(keys, batches)
  const extract = fieldKeyExtractor(ROWS, 0)
  const operator = tumblingCountAndSum()
  const { output, rowsOut } = openAlone(operator)
  const ready = (): void => {
    for (const batch of input) operator.process(batch, 0, output, 0)
  }
  const extracting = (): void => {
    for (const batch of input) operator.process(withKeys(batch, extract(batch)), 0, output, 0)
  }
  ready()
  const readyMs = bestOf(ready)
  const extractingMs = bestOf(extracting)
  const fireMs = timeMs(() => {
    while (!operator.advanceWatermark(9_999, output));
  })
  const events = batches * BATCH_ROWS_MAX
  return {
    keys,
    keysReadyMillionPerSecond: events / readyMs / 1_000,
    withExtractionMillionPerSecond: events / extractingMs / 1_000,
    firedRows: rowsOut(),
    fireMs,
  }
}

if (import.meta.main) {
  const show = (name: string, line: BenchLine): void => {
    const parts = Object.entries(line).map(([key, value]) => `${key}=${Number(value.toFixed(1))}`)
    console.log(`${name.padEnd(8)} ${parts.join('  ')}`)
  }
  for (const keys of [1_000, 100_000, 1_000_000]) show('upsert', benchUpsert(keys, 400))
  show('window', benchWindow(100_000, 400))
}
