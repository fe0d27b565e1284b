/**
 * Random plans over changelogs, each with the SQL that says the same of the final tables, and random changes of tables.
 *
 * Used by changelogs.test.ts. Plans are trees of filters, aggregates into other keys and joins of all types over two
 * tables, so that a table may meet itself and an aggregate be aggregated again. Columns have names of their own throughout.
 */
import { StreamExecutionEnvironment, schema, t } from 'millrace'
import type { ChangelogStream } from '../engine/api/changelog-stream.ts'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import type { ColumnKind } from '../engine/core/schema.ts'
import type { SeededRandom } from '../engine/testing/sim/seeded-random.ts'
import type { Change } from '../operators/changes.ts'

export interface TableRow {
  readonly id: number
  readonly k: number | null
  readonly g: string
  readonly v: number
  readonly w: bigint
}

const TABLE = schema({ id: t.int32(), k: t.nullable(t.int32()), g: t.string(), v: t.float64(), w: t.int64() })
const SQL_TYPES = { id: 'INTEGER', k: 'INTEGER', g: 'VARCHAR', v: 'DOUBLE', w: 'BIGINT' } as const
export const TABLES = ['a', 'b'] as const
export type TableName = (typeof TABLES)[number]

interface Column {
  readonly name: string
  readonly kind: ColumnKind
}

type AnyStream = ChangelogStream<Record<string, unknown>>

/** A stream and the query that it must equal. */
interface Relation {
  readonly stream: AnyStream
  readonly sql: string
  readonly columns: readonly Column[]
}

export interface ChangelogPlan {
  readonly graph: JobGraph
  readonly sql: string
  /** Column by which a sink would key the result, other than what identifies its rows; null where there is no such sink. */
  readonly sinkKey: string | null
  /** Tables whose changes come without -U. */
  readonly upserts: ReadonlySet<TableName>
}

const JOIN_TYPES = ['inner', 'left', 'right', 'full', 'semi', 'anti'] as const
/** Where a sum is not of whole numbers, no plan branches on it: DuckDB's sums are rounded at each step. */
const isExact = ({ kind }: Column): boolean => kind !== 'float64'
const isNumber = ({ kind }: Column): boolean => kind === 'int32' || kind === 'int64' || kind === 'float64'

class PlanMaker {
  private readonly random: SeededRandom
  private readonly bases: ReadonlyMap<TableName, AnyStream>
  private names = 0

  constructor(random: SeededRandom, bases: ReadonlyMap<TableName, AnyStream>) {
    this.random = random
    this.bases = bases
  }

  make(depth: number): Relation {
    if (depth === 0) return this.table()
    const kind = this.random.between(0, 9)
    if (kind < 4) return this.grouped(this.make(depth - 1))
    if (kind < 9) return this.joined(this.make(depth - 1), this.make(this.random.between(0, depth - 1)))
    return this.filtered(this.make(depth - 1))
  }

  private fresh(base: string): string {
    return `${base}${this.names++}`
  }

  private table(): Relation {
    const name = this.random.pick(TABLES)
    const columns = TABLE.fields.map((field) => ({ name: this.fresh(field.name), kind: field.kind, old: field.name }))
    return {
      stream: this.bases.get(name)!.select(Object.fromEntries(columns.map((column) => [column.name, column.old]))),
      sql: `SELECT ${columns.map((column) => `${column.old} AS ${column.name}`).join(', ')} FROM ${name}`,
      columns,
    }
  }

  private filtered({ stream, sql, columns }: Relation): Relation {
    const column = this.random.pick(columns.filter((candidate) => isExact(candidate) && isNumber(candidate)))
    const least = this.random.between(0, 4)
    return {
      stream: stream.filter((row) => row[column.name] !== null && (row[column.name] as number) >= least),
      sql: `SELECT * FROM (${sql}) WHERE ${column.name} >= ${least}`,
      columns,
    }
  }

  private grouped({ stream, sql, columns }: Relation): Relation {
    const { random } = this
    const candidates = columns.filter(isExact)
    const keys = [...new Set(Array.from({ length: random.between(0, 2) }, () => random.pick(candidates)))]
    const made: { column: Column; spec: object; sql: string }[] = []
    const add = (kind: string, of: Column | null, result: ColumnKind, isDistinct = false): void => {
      const column = { name: this.fresh(kind), kind: result }
      const text = of === null ? '*' : `${isDistinct ? 'DISTINCT ' : ''}${of.name}`
      const spec = { kind, ...(of === null ? {} : { field: of.name }), ...(isDistinct ? { isDistinct } : {}) }
      made.push({ column, spec, sql: `${kind}(${text}) AS ${column.name}` })
    }
    add('count', null, 'int64')
    for (let n = random.between(1, 3); n > 0; n--) {
      const numbers = columns.filter(isNumber)
      const kind = random.pick(['sum', 'avg', 'min', 'max', 'count'] as const)
      const doubles = numbers.filter((column) => column.kind === 'float64')
      if (kind === 'sum') {
        const of = random.pick(numbers)
        add(kind, of, of.kind)
      } else if (kind === 'avg') {
        if (doubles.length > 0) add(kind, random.pick(doubles), 'float64')
      } else if (kind === 'count') add(kind, random.pick(candidates), 'int64', true)
      else {
        const of = random.pick(columns)
        add(kind, of, of.kind)
      }
    }
    const names = keys.map((key) => key.name)
    const selected = [...names, ...made.map((aggregate) => aggregate.sql)].join(', ')
    const by = names.length === 0 ? 'HAVING count(*) > 0' : `GROUP BY ${names.join(', ')}`
    const specs = Object.fromEntries(made.map(({ column, spec }) => [column.name, spec]))
    return {
      stream: stream.groupBy(...names).aggregate(specs as never) as unknown as AnyStream,
      sql: `SELECT ${selected} FROM (${sql}) ${by}`,
      columns: [...keys, ...made.map(({ column }) => column)],
    }
  }

  private joined(left: Relation, right: Relation): Relation {
    const { random } = this
    const pairs = left.columns.flatMap((a) =>
      right.columns.flatMap((b) => (isExact(a) && a.kind === b.kind ? [{ a, b }] : [])),
    )
    if (pairs.length === 0) return this.grouped(left)
    const chosen = [random.pick(pairs), ...(random.chance(0.2) ? [random.pick(pairs)] : [])]
    const type = random.pick(JOIN_TYPES)
    const whole = pairs.filter(({ a }) => isNumber(a))
    const also = whole.length > 0 && random.chance(0.3) ? random.pick(whole) : null
    const on = [
      ...chosen.map(({ a, b }) => `${a.name} = ${b.name}`),
      ...(also === null ? [] : [`${also.a.name} <= ${also.b.name}`]),
    ].join(' AND ')
    const isExistence = type === 'semi' || type === 'anti'
    return {
      stream: left.stream.join(right.stream, {
        type,
        where: chosen.map(({ a }) => a.name),
        equalTo: chosen.map(({ b }) => b.name),
        ...(also === null
          ? {}
          : {
              condition: (l, r) => {
                const [x, y] = [l[also.a.name] as number | null, r[also.b.name] as number | null]
                return x !== null && y !== null && x <= y
              },
            }),
      }) as unknown as AnyStream,
      sql: `SELECT * FROM (${left.sql}) ${type.toUpperCase()} JOIN (${right.sql}) ON ${on}`,
      columns: isExistence ? left.columns : [...left.columns, ...right.columns],
    }
  }
}

/** A plan of up to three steps one over the other; the same numbers give the same plan. */
export function randomPlan(random: SeededRandom): ChangelogPlan {
  const env = StreamExecutionEnvironment.createEnvironment()
  const upserts = new Set(TABLES.filter(() => random.chance(0.3)))
  const bases = new Map(
    TABLES.map((name) => {
      const source = env.fromCollection<Change<TableRow>>([])
      const mode = upserts.has(name) ? 'upsert' : 'all'
      const given = env.fromChangelogStream(source, { schema: TABLE, primaryKey: ['id'], mode })
      const stream = mode === 'all' ? given : given.normalize()
      return [name, stream as unknown as AnyStream] as const
    }),
  )
  const maker = new PlanMaker(random, bases)
  const { stream, sql, columns } = maker.make(random.between(1, 3))
  const keys = columns.filter((column) => isExact(column))
  const sinkKey = random.chance(0.4) ? random.pick(keys).name : null
  const sink = {
    kind: 'result',
    guarantee: 'at-least-once',
    changelogMode: 'upsert',
    ...(sinkKey === null ? {} : { primaryKey: [sinkKey] }),
    createWriter: () => {
      throw new Error('never run')
    },
  } as const
  stream.sinkTo(sink as never)
  return { graph: env.getGraph(), sql, sinkKey, upserts }
}

/** A table's rows by id, and the changes that made them. */
export class RandomTable {
  readonly rows = new Map<number, TableRow>()
  private readonly random: SeededRandom

  constructor(random: SeededRandom) {
    this.random = random
  }

  /** Up to `count` changes, a pair being one; what is taken back is as it was given. */
  changes(count: number): Change<TableRow>[] {
    const changes: Change<TableRow>[] = []
    for (let n = 0; n < count; n++) {
      const id = this.random.between(1, 8)
      const before = this.rows.get(id)
      if (before === undefined) {
        changes.push({ kind: '+I', row: this.row(id) })
      } else if (this.random.chance(0.4)) {
        changes.push({ kind: '-D', row: before })
        this.rows.delete(id)
      } else if (this.random.chance(0.3)) {
        // A change of the key itself: one row goes, another one comes.
        changes.push({ kind: '-D', row: before }, { kind: '+I', row: this.row(id) })
      } else changes.push({ kind: '-U', row: before }, { kind: '+U', row: this.row(id) })
    }
    return changes
  }

  private row(id: number): TableRow {
    const { random } = this
    const row: TableRow = {
      id,
      k: random.chance(0.2) ? null : random.between(0, 3),
      g: random.pick(['x', 'y', 'é', '']),
      v: random.between(-3, 9),
      w: BigInt(random.between(0, 5)),
    }
    this.rows.set(id, row)
    return row
  }

  /** The rows as a common table expression of SQL. */
  sql(name: string): string {
    const types = Object.entries(SQL_TYPES)
    const cell = (value: unknown): string =>
      value === null ? 'NULL' : typeof value === 'string' ? `'${value}'` : String(value)
    const rows = [...this.rows.values()].map(
      (row) =>
        `SELECT ${types.map(([field, type]) => `${cell(row[field as keyof TableRow])}::${type} AS ${field}`).join(', ')}`,
    )
    const none = `SELECT ${types.map(([field, type]) => `NULL::${type} AS ${field}`).join(', ')} WHERE false`
    return `${name} AS (${[...rows, none].join(' UNION ALL ')})`
  }
}
