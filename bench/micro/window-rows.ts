/**
 * What a checkpoint costs of windows that keep their rows, as the windows fill: in pieces, as they are kept, against one
 * list a window, as an AggregateFunction over an array keeps it, in the same run.
 *
 * `node bench/micro/window-rows.ts` prints, for windows that grow by the same rows between checkpoints, the bytes of a
 * checkpoint and the CPU time of a round (rows and checkpoint together), and both as a ratio of the list to the pieces. All
 * state is in memory.
 */
import { TumblingEventTimeWindows } from '../../engine/api/index.ts'
import { type WindowWork, windowOperatorFactory } from '../../engine/api/window-operators.ts'
import { OPAQUE_SCHEMA } from '../../engine/core/schema.ts'
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import { openAlone } from './lone-operator.ts'
import { inputOf, ROWS } from './windows.ts'

/** Some seven rows a key between two checkpoints. */
const KEYS = 300

const WORKS: Readonly<Record<'list' | 'pieces', WindowWork>> = {
  list: {
    kind: 'aggregate',
    fn: {
      createAccumulator: (): unknown[] => [],
      add(row: unknown, rows: unknown) {
        ;(rows as unknown[]).push(row)
        return rows
      },
      getResult: (rows: unknown) => (rows as unknown[]).length,
      merge: (a: unknown, b: unknown) => (a as unknown[]).concat(b),
    },
    process: null,
  },
  pieces: { kind: 'process', process: (_context, rows, collect) => collect([...rows].length) },
}

export interface Round {
  readonly rowsAKey: number
  readonly bytes: number
  readonly cpuMs: number
}

/** A batch and a checkpoint a round; `every` rounds are summed up in one. */
export function runWork(name: keyof typeof WORKS, rounds: number, every: number, keys = KEYS): Round[] {
  const input = inputOf(keys, rounds)
  const operator = windowOperatorFactory(
    {
      // One window has all.
      assigner: TumblingEventTimeWindows.of(1e12),
      trigger: null,
      evictor: null,
      allowedLatenessMs: 0,
      lateTag: null,
      inputSchema: ROWS,
    },
    WORKS[name],
    OPAQUE_SCHEMA,
  )()
  const { backend, output } = openAlone(operator)
  const builder = new WriteBatchBuilder()
  const results: Round[] = []
  let bytes = 0
  let start = process.cpuUsage()
  for (let round = 1; round <= rounds; round++) {
    const batch = input[round - 1]!
    for (let row = 0; row < batch.length; ) row = operator.process(batch, row, output, 0)
    backend.maybeEvict()
    builder.clear()
    backend.captureDirty(builder)
    backend.checkpointSettled()
    bytes += builder.byteLength
    if (round % every !== 0) continue
    const { user, system } = process.cpuUsage(start)
    const rowsAKey = Math.round((round * batch.length) / keys)
    results.push({ rowsAKey, bytes: bytes / every, cpuMs: (user + system) / 1_000 / every })
    bytes = 0
    start = process.cpuUsage()
  }
  operator.close?.()
  return results
}

if (import.meta.main) {
  const rounds = Number(process.argv[2] ?? 300)
  const every = rounds / 6
  const list = runWork('list', rounds, every)
  const pieces = runWork('pieces', rounds, every)
  console.log('rows a key and window   MB a checkpoint: list, pieces, ratio   ms a round: list, pieces, ratio')
  for (const [i, before] of list.entries()) {
    const now = pieces[i]!
    const figures = [before.bytes / 1e6, now.bytes / 1e6, before.bytes / now.bytes, before.cpuMs, now.cpuMs]
    console.log(
      `${String(before.rowsAKey).padStart(21)}   ${[...figures, before.cpuMs / now.cpuMs].map((figure) => figure.toFixed(2).padStart(8)).join(' ')}`,
    )
  }
}
