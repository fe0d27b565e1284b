/**
 * What generated code costs a field, from rows of ten fields to rows of three thousand.
 *
 * `node bench/micro/wide-rows.ts [--against DIRECTORY] [--fields 10,1000] [--paths NAME,...] [--rounds N]` prints nanoseconds of
 * processor time a field for each path that code is generated for: a batch's rows to objects and back, JSON and CSV both ways,
 * values of state both ways, and built-in aggregates of windows, one a field. The best of the rounds. With a checkout of an
 * earlier version, its modules run in turn with these (A B A B) in the same process, and the ratio is printed too.
 */
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import type { BuiltInAggregate } from '../../engine/contract/functions.ts'
import type { OperatorContext } from '../../engine/contract/operator.ts'
import { BATCH_ROWS_MAX, type Batch } from '../../engine/core/batch.ts'
import type { Schema } from '../../engine/core/schema.ts'
import type { MutableWindowValues } from '../../operators/window-aggregate.ts'

const ROOT = new URL('../../', import.meta.url)
const VALUES = 120_000
const ROUNDS = 30

/** The modules of one version of the engine. */
async function versionAt(root: URL) {
  const at = (path: string): string => new URL(path, root).href
  const [rows, schemas, strings, jsonIn, jsonOut, csvIn, csvOut, states, windows] = await Promise.all([
    import(at('engine/core/rows.ts')) as Promise<typeof import('../../engine/core/rows.ts')>,
    import(at('engine/core/schema.ts')) as Promise<typeof import('../../engine/core/schema.ts')>,
    import(at('engine/core/strings.ts')) as Promise<typeof import('../../engine/core/strings.ts')>,
    import(at('engine/core/json/json-decoder.ts')) as Promise<typeof import('../../engine/core/json/json-decoder.ts')>,
    import(at('engine/core/json/json-writer.ts')) as Promise<typeof import('../../engine/core/json/json-writer.ts')>,
    import(at('engine/core/csv/csv-decoder.ts')) as Promise<typeof import('../../engine/core/csv/csv-decoder.ts')>,
    import(at('engine/core/csv/csv-writer.ts')) as Promise<typeof import('../../engine/core/csv/csv-writer.ts')>,
    import(at('state/schema-codec.ts')) as Promise<typeof import('../../state/schema-codec.ts')>,
    import(at('operators/window-columnar.ts')) as Promise<typeof import('../../operators/window-columnar.ts')>,
  ])
  return { ...rows, ...schemas, ...strings, ...jsonIn, ...jsonOut, ...csvIn, ...csvOut, ...states, ...windows }
}

type Version = Awaited<ReturnType<typeof versionAt>>

/** Numbers, texts (a few hundred different ones) and flags in turn, every fifth of them NULL where it may be. */
function wideSchema({ schema, t }: Version, fields: number): Schema {
  const kinds = [
    t.float64(),
    t.string(),
    t.int32(),
    t.nullable(t.float64()),
    t.boolean(),
    t.nullable(t.string()),
    t.timestamp(),
    t.int64(),
  ]
  return schema(Object.fromEntries(Array.from({ length: fields }, (_, k) => [`field_${k}`, kinds[k % kinds.length]!])))
}

function wideRows(target: Schema, count: number): Record<string, unknown>[] {
  const value = (kind: string, i: number): unknown => {
    switch (kind) {
      case 'string':
        return `text-${i % 300}`
      case 'boolean':
        return i % 3 === 0
      case 'int64':
        return BigInt(i) * 1_000_003n
      case 'float64':
        return (i % 1_000) / 4
      default:
        return i % 100_000
    }
  }
  return Array.from({ length: count }, (_, row) => {
    const made: Record<string, unknown> = {}
    for (const [k, { name, kind, nullable }] of target.fields.entries()) {
      made[name] = nullable && (row + k) % 5 === 0 ? null : value(kind, row * 7 + k)
    }
    return made
  })
}

/** Makes the work of one round; what it returns keeps the work from being thought useless. */
type Path = (version: Version, target: Schema, rows: readonly Record<string, unknown>[], id: string) => () => number

function textOf(version: Version, batch: Batch, kind: 'json' | 'csv'): Buffer {
  const arena = new version.ByteArena(1 << 16)
  const writer = kind === 'json' ? version.createJsonRowWriter(batch.schema) : version.createCsvWriter(batch.schema, {})
  writer.writeLines(batch, 0, batch.length, arena)
  return Buffer.concat([arena.view(), Buffer.alloc(16)])
}

const refuse = (reason: string): never => {
  throw new Error(reason)
}

const PATHS: Readonly<Record<string, Path>> = {
  'rows out of columns': (version, target, rows, id) => {
    const batch = version.batchOfRows(target, rows)
    const read = version.rowReader(target, new version.StringInterner(), id)
    return () => {
      let made: unknown
      for (let i = 0; i < batch.length; i++) made = read(batch, i)
      return Object.keys(made as object).length
    }
  },
  'rows into columns': (version, target, rows) => {
    const builder = new version.BatchBuilder(target)
    return () => {
      for (const row of rows) builder.append(row, 0)
      return builder.build().length
    }
  },
  'JSON in': (version, target, rows, id) => {
    const text = textOf(version, version.batchOfRows(target, rows), 'json')
    const decoder = version.createJsonDecoder(target, { id, recordBytesMax: 1 << 24 })
    return () => decoder.decodeLines(text, 0, text.length - 16, BATCH_ROWS_MAX, refuse).length
  },
  'JSON out': (version, target, rows, id) => {
    const batch = version.batchOfRows(target, rows)
    const writer = version.createJsonRowWriter(target, id)
    const arena = new version.ByteArena(1 << 16)
    return () => {
      arena.clear()
      writer.writeLines(batch, 0, batch.length, arena)
      return arena.length
    }
  },
  'CSV in': (version, target, rows, id) => {
    const text = textOf(version, version.batchOfRows(target, rows), 'csv')
    const decoder = new version.CsvDecoder(target, {
      id,
      recordBytesMax: 1 << 24,
      fieldOfColumn: target.fields.map((_, k) => k),
    })
    return () => decoder.decodeLines(text, 0, text.length - 16, BATCH_ROWS_MAX, refuse, true).length
  },
  'CSV out': (version, target, rows, id) => {
    const batch = version.batchOfRows(target, rows)
    const writer = version.createCsvWriter(target, {}, id)
    const arena = new version.ByteArena(1 << 16)
    return () => {
      arena.clear()
      writer.writeLines(batch, 0, batch.length, arena)
      return arena.length
    }
  },
  'state out': (version, target, rows, id) => {
    const codec = version.schemaCodec(target, { id })
    return () => rows.reduce((bytes, row) => bytes + codec.encode(row).length, 0)
  },
  'state in': (version, target, rows, id) => {
    const codec = version.schemaCodec(target, { id })
    const stored = rows.map((row) => new Uint8Array(codec.encode(row)))
    return () => stored.reduce((sum, bytes) => sum + (codec.decode(bytes, 0, bytes.length) === null ? 0 : 1), 0)
  },
  aggregates: (version, _target, rows, id) => {
    const fields = Object.keys(rows[0]!).length
    const numbers = version.schema(
      Object.fromEntries(Array.from({ length: fields }, (_, k) => [`n${k}`, version.t.float64()])),
    )
    const batch = version.batchOfRows(
      numbers,
      rows.map((_, i) => Object.fromEntries(numbers.fields.map(({ name }, k) => [name, i + k]))),
    )
    const kinds = ['sum', 'min', 'max', 'sum'] as const
    const aggregates = Object.fromEntries(
      numbers.fields.map(({ name }, k): [string, BuiltInAggregate] => [`a${k}`, { kind: kinds[k % 4]!, field: name }]),
    )
    const kernel = version.columnarKernel({ inputSchema: numbers, aggregates })
    kernel.open({ name: 'wide', worker: { uniqueId: () => id } } as unknown as OperatorContext, false)
    const indices = Int32Array.from(rows.keys())
    const slots = indices.map((i) => i % 100)
    const doubles = numbers.fields.map(() => new Float64Array(100))
    const values = { doubles } as unknown as MutableWindowValues
    return () => {
      kernel.accumulate(batch, indices, rows.length, slots, values, 0)
      return doubles.length
    }
  },
}

export const PATH_NAMES = Object.keys(PATHS)

export interface WideOptions {
  readonly fields: number
  /** Where the versions are that are compared; this one alone by default. */
  readonly roots?: readonly URL[]
  readonly rounds?: number
  /** Values a round: as many rows as give about that many. */
  readonly values?: number
}

/** Nanoseconds of processor time a field, the best of the rounds, for each version; the versions take turns. */
export async function benchWide(path: string, options: WideOptions): Promise<number[]> {
  const { fields, roots = [ROOT], rounds = ROUNDS, values = VALUES } = options
  const count = Math.max(1, Math.min(BATCH_ROWS_MAX, Math.round(values / fields)))
  const works = []
  for (const [k, root] of roots.entries()) {
    const version = await versionAt(root)
    const target = wideSchema(version, fields)
    works.push(PATHS[path]!(version, target, wideRows(target, count), `${path} ${fields} ${k}`))
  }
  const best = works.map(() => Number.POSITIVE_INFINITY)
  const repeats = Math.max(1, Math.round(values / (count * fields)))
  for (let round = 0; round < rounds; round++) {
    const turns = [...works.entries()]
    for (const [k, work] of round % 2 === 0 ? turns : turns.reverse()) {
      const before = process.cpuUsage()
      for (let i = 0; i < repeats; i++) if (work() === 0) throw new Error('nothing was done')
      const { user, system } = process.cpuUsage(before)
      best[k] = Math.min(best[k]!, ((user + system) * 1_000) / (repeats * count * fields))
    }
  }
  return best
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      against: { type: 'string' },
      fields: { type: 'string' },
      paths: { type: 'string' },
      rounds: { type: 'string' },
    },
  })
  const roots = values.against === undefined ? [ROOT] : [pathToFileURL(`${values.against}/`), ROOT]
  const widths = (values.fields ?? '10,100,300,1000,3000').split(',').map(Number)
  console.log(
    `nanoseconds a field${values.against === undefined ? '' : ': before, now, ratio'}; fields: ${widths.join(', ')}`,
  )
  for (const path of values.paths?.split(',') ?? PATH_NAMES) {
    const cells: string[] = []
    for (const fields of widths) {
      const [first, second] = await benchWide(path, { fields, roots, rounds: Number(values.rounds ?? ROUNDS) })
      const figures = second === undefined ? [first!] : [first!, second, second / first!]
      cells.push(figures.map((figure) => figure.toFixed(2).padStart(7)).join(' '))
    }
    console.log(`${path.padEnd(20)} ${cells.join(' |')}`)
  }
}
