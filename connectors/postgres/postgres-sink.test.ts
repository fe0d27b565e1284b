/** The sink on a real database (PGlite): exactly-once commits, fencing, unknown outcomes, odd values. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import type { SinkCommitter } from '../../engine/contract/sink.ts'
import { BATCH_ROWS_MAX, withKinds } from '../../engine/core/batch.ts'
import { RowKind } from '../../engine/core/row-kinds.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, schema, t } from '../../engine/core/schema.ts'
import { MemoryOutboxes } from '../memory-outbox.ts'
import { sinkChecks } from '../sink-conformance.ts'
import { targetColumn } from './column-types.ts'
import { connectPostgres, queryPostgres } from './connect.ts'
import { PostgresCommitter } from './postgres-committer.ts'
import { type PostgresSinkOptions, postgresSink, type SinkPlan } from './postgres-sink.ts'
import { type PostgresConnection, type SqlConnection, SqlFailure } from './sql-connection.ts'

const directory = mkdtempSync(join(tmpdir(), 'millrace-postgres-'))
const connection: PostgresConnection = { kind: 'pglite', directory }
/** Held open so that the database starts once for all tests. */
let session: SqlConnection
/** Closed at the end also when a test fails: an open one keeps the database's thread alive. */
const committers: SinkCommitter[] = []
const outboxes = new MemoryOutboxes()

before(async () => {
  session = await connectPostgres(connection)
})
after(async () => {
  for (const committer of committers) await committer.close()
  await session.close()
  rmSync(directory, { recursive: true })
})

async function rowsOf(sql: string): Promise<readonly Record<string, unknown>[]> {
  return (await session.query(sql)).rows
}

async function countOf(table: string, where = 'true'): Promise<number> {
  return Number((await rowsOf(`SELECT count(*) AS n FROM ${table} WHERE ${where}`))[0]!['n'])
}

type Options = Omit<PostgresSinkOptions<unknown>, 'connection'>

async function openCommitter(options: Options): Promise<SinkCommitter> {
  const committer = postgresSink({ ...options, connection }).createCommitter!(outboxes.committerContext(options.table))
  committers.push(committer)
  await committer.open()
  return committer
}

/** Runs rows through writer and committer; the committables of one epoch. */
async function written(options: Options, rows: readonly unknown[]) {
  const sink = postgresSink({ ...options, connection })
  const rowSchema = options.schema ?? OPAQUE_SCHEMA
  const writer = sink.createWriter(outboxes.writerContext(rowSchema))
  await writer.open()
  for (let from = 0; from < rows.length; from += BATCH_ROWS_MAX) {
    const batch = batchOfRows(rowSchema, rows.slice(from, from + BATCH_ROWS_MAX))
    for (let taken = 0; taken < batch.length; ) {
      const next = writer.write(batch, taken)
      if (next === taken) await new Promise((resolve) => setTimeout(resolve, 2))
      taken = next
    }
  }
  const committable = await writer.prepareCommit()
  await writer.close()
  return committable === null ? [] : [committable]
}

describe('conformance', () => {
  const row = schema({ id: t.int32(), name: t.nullable(t.string()) })
  let tables = 0
  /** A table for each check; `options` of the sink besides. */
  const subject = (options: Partial<PostgresSinkOptions<unknown>>) => ({
    schema: row,
    rowOf: (id: number) => ({ id, name: id % 3 === 0 ? null : `'é"${id}` }),
    commitHoldsLock: true,
    create() {
      const table = `kit_${tables++}`
      const key = `job/sink`
      return {
        sink: () => postgresSink({ table, schema: row, connection, ...options }),
        visible: async () =>
          (await countOf('pg_class', `relname = '${table}'`)) === 0 ? [] : await rowsOf(`SELECT * FROM ${table}`),
        close: async () => void (await session.query(`DELETE FROM millrace_epochs WHERE sink_id = '${key}'`)),
      }
    },
  })
  for (const { name, run } of sinkChecks(subject({}))) if (!/batches of [127]$/.test(name)) test(name, run)
  const inParts = { ...subject({ transactionBytesMax: 20 }), commitIsAtomic: false }
  for (const { name, run } of sinkChecks(inParts)) if (/cut off/.test(name)) test(`in parts: ${name}`, run)
})

describe('a changelog', () => {
  test('becomes the table that it stands for: the last change of each key counts, within an epoch and over epochs', async () => {
    const fields = schema({ id: t.int32(), name: t.string() })
    const options: Options = { table: 'changed', schema: fields, key: ['id'], chunkRowsMax: 4 }
    const sink = postgresSink({ ...options, connection })
    assert.deepEqual([sink.changelogMode, sink.primaryKey], ['upsert', ['id']])
    assert.equal(postgresSink({ ...options, key: [], connection }).changelogMode, undefined)
    const committer = await openCommitter(options)
    let epoch = 0
    const apply = async (changes: readonly [RowKind, number, string][]): Promise<unknown> => {
      const writer = sink.createWriter(outboxes.writerContext(fields))
      await writer.open()
      const rows = changes.map(([, id, name]) => ({ id, name }))
      const batch = withKinds(batchOfRows(fields, rows), Uint8Array.from(changes.map(([kind]) => kind)))
      assert.equal(writer.write(batch, 0), batch.length)
      await committer.commit(++epoch, [(await writer.prepareCommit())!])
      return (await rowsOf('SELECT id, name FROM changed ORDER BY id')).map(({ id, name }) => `${id} ${name}`)
    }
    const { INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE } = RowKind
    const first = await apply([
      [INSERT, 1, 'a'],
      [INSERT, 2, 'b'],
      [DELETE, 1, 'a'],
      [INSERT, 3, 'c'],
      [UPDATE_BEFORE, 3, 'c'],
      [UPDATE_AFTER, 3, 'd'],
      [INSERT, 1, 'e'],
    ])
    assert.deepEqual(first, ['1 e', '2 b', '3 d'])
    const second = await apply([
      [DELETE, 2, 'b'],
      [UPDATE_AFTER, 1, 'f'],
      [DELETE, 3, 'd'],
      [INSERT, 3, 'g'],
      [DELETE, 1, 'f'],
      [DELETE, 9, ''],
    ])
    assert.deepEqual(second, ['3 g'])
  })
})

describe('commits', () => {
  const options: Options = { table: 'numbers', columns: { id: 'bigint not null', name: 'text' } }

  test('larger than a transaction go on where they stopped, unless the epoch is another one now', async () => {
    const large: Options = { ...options, table: 'parts', transactionBytesMax: 20 }
    const records = ['{"id":1}', '{"id":2}', '{"id":3}', '{"id":4}', '{"id":5}']
    const first = await openCommitter(large)
    const context = outboxes.committerContext('parts')
    let read = 0
    // Dies in the second transaction: the first one ends as the fourth record is read.
    const dying = postgresSink({ ...large, connection }).createCommitter!({
      ...context,
      async *readOutbox(segment) {
        for await (const record of context.readOutbox(segment)) {
          if (++read === 9) throw new Error('killed')
          yield record
        }
      },
    })
    committers.push(dying)
    await dying.open()
    const segment = outboxes.add(records)
    await assert.rejects(dying.commit(1, [{ ...segment }]), /killed/)
    assert.equal(await countOf('parts'), 3)
    assert.equal(await dying.readMarker(), 0, 'the epoch is not whole')
    await assert.rejects(first.commit(1, [{ ...segment }]), { code: 'SINK_FENCED' })
    const next = await openCommitter(large)
    await assert.rejects(next.commit(1, [{ ...outboxes.add(['{"id":9}']) }]), { code: 'SINK_EPOCH_BEGUN' })
    await next.commit(1, [{ ...segment }])
    assert.equal(await countOf('parts'), 5)
    assert.equal(await next.readMarker(), 1)
  })

  test('are all or nothing when the database refuses a row', async () => {
    const checked: Options = {
      table: 'checked',
      columns: { id: 'bigint not null' },
      createTable: ['CREATE TABLE IF NOT EXISTS checked (id bigint PRIMARY KEY CHECK (id < 1500))'],
    }
    const committer = await openCommitter(checked)
    const rows = Array.from({ length: 2_000 }, (_, id) => ({ id }))
    await assert.rejects(committer.commit(1, await written(checked, rows)), { code: 'ROW_REFUSED', message: /checked/ })
    assert.equal(await countOf('checked'), 0)
    assert.equal(await committer.readMarker(), 0)
    await committer.commit(1, await written(checked, rows.slice(0, 1_500)))
    assert.equal(await countOf('checked'), 1_500)
    await committer.close()
  })

  test('name a missing table instead of trying for ever', async () => {
    const committer = await openCommitter({ ...options, table: 'absent', createTable: false })
    await assert.rejects(committer.commit(1, await written(options, [{ id: 1 }])), {
      code: 'POSTGRES_FAILED',
      message: /"?absent"? does not exist.*42P01/,
    })
    await committer.close()
  })

  test('find their marker gone', async () => {
    const committer = await openCommitter({ ...options, table: 'unmarked' })
    await session.query(`DELETE FROM millrace_epochs WHERE sink_id = 'job/unmarked'`)
    await assert.rejects(committer.commit(1, []), { code: 'SINK_MARKER_MISSING' })
    await committer.close()
  })
})

describe('lost connections', () => {
  /** A committer whose connection breaks, at `moment`, for the first `breaks` times. */
  function breaking(table: string, moment: 'before commit' | 'after commit' | 'insert', breaks: number) {
    const plan: SinkPlan = {
      table: `"${table}"`,
      columns: [targetColumn('id', 'bigint')],
      key: [],
      ddl: [`CREATE TABLE IF NOT EXISTS ${table} (id bigint)`],
      deadLetterTable: null,
      chunkRowsMax: 1_000,
      transactionBytesMax: 20,
    }
    let left = 0
    let connects = 0
    const lose = (): never => {
      left--
      throw new SqlFailure({ message: 'connection reset' })
    }
    const connect = async (): Promise<SqlConnection> => {
      connects++
      const real = await connectPostgres(connection)
      return {
        query: (text, params) =>
          moment === 'insert' && left > 0 && text.startsWith('INSERT INTO "') ? lose() : real.query(text, params),
        begin: () => real.begin(),
        rollback: () => real.rollback(),
        close: () => real.close(),
        async commit() {
          if (left > 0 && moment === 'before commit') lose()
          await real.commit()
          if (left > 0 && moment === 'after commit') lose()
        },
      }
    }
    const committer = new PostgresCommitter(outboxes.committerContext(table), plan, connect)
    committers.push(committer)
    return {
      committer,
      arm: () => {
        left = breaks
      },
      connects: () => connects,
    }
  }

  for (const moment of ['insert', 'before commit', 'after commit'] as const) {
    test(`at ${moment}: the epoch is there once`, async () => {
      const table = `lost_${moment.replace(' ', '_')}`
      const { committer, arm, connects } = breaking(table, moment, 2)
      await committer.open()
      arm()
      // Transactions of twenty bytes, so of three records each; one ends within the second segment.
      const idsOf = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => `{"id":${from + i}}`)
      await committer.commit(1, [{ ...outboxes.add(idsOf(1, 6)) }, { ...outboxes.add(idsOf(6, 9)) }])
      assert.deepEqual(
        (await rowsOf(`SELECT id FROM ${table} ORDER BY id`)).map((row) => Number(row['id'])),
        [1, 2, 3, 4, 5, 6, 7, 8],
      )
      assert.equal(await committer.readMarker(), 1)
      assert.ok(connects() > 1, 'it reconnected')
      await committer.close()
    })
  }

  test('a server that is not there is an external error after some tries', async () => {
    let tries = 0
    const plan: SinkPlan = {
      table: '"x"',
      columns: [targetColumn('id', 'bigint')],
      key: [],
      ddl: [],
      deadLetterTable: null,
      chunkRowsMax: 1,
      transactionBytesMax: 1 << 20,
    }
    const context = outboxes.committerContext('x')
    // The pauses are the timers' matter; here they take no time.
    const timers = {
      schedule: (_delayMs: number, task: () => void) => {
        setImmediate(task)
        return () => {}
      },
    }
    const committer = new PostgresCommitter({ ...context, io: { ...context.io, timers } }, plan, async () => {
      tries++
      throw new SqlFailure({ message: 'connect ECONNREFUSED' })
    })
    await assert.rejects(committer.open(), { code: 'POSTGRES_UNAVAILABLE', domain: 'external', retryable: true })
    assert.equal(tries, 8)
    await committer.close()
  })
})

describe('rows', () => {
  test('with a key replace earlier ones, the last in a chunk winning', async () => {
    const options: Options = {
      table: 'latest',
      columns: { user: 'text', day: 'date', count: 'integer' },
      key: ['user', 'day'],
      chunkRowsMax: 3,
    }
    const committer = await openCommitter(options)
    const row = (user: string, day: number, count: number) => ({ user, day: day * 86_400_000, count })
    await committer.commit(1, await written(options, [row('a', 1, 1), row('a', 1, 2), row('b', 1, 3), row('a', 1, 4)]))
    await committer.commit(2, await written(options, [row('b', 1, 5), row('b', 2, 6)]))
    const rows = await rowsOf('SELECT "user", day::text, count FROM latest ORDER BY 1, 2')
    assert.deepEqual(rows, [
      { user: 'a', day: '1970-01-02', count: 4 },
      { user: 'b', day: '1970-01-02', count: 5 },
      { user: 'b', day: '1970-01-03', count: 6 },
    ])
    await committer.close()
  })

  test('of a key alone are a set', async () => {
    const options: Options = { table: 'seen', columns: { id: 'integer' }, key: ['id'] }
    const committer = await openCommitter(options)
    await committer.commit(1, await written(options, [{ id: 1 }, { id: 1 }, { id: 2 }]))
    await committer.commit(2, await written(options, [{ id: 2 }]))
    assert.equal(await countOf('seen'), 2)
    await committer.close()
  })

  test('come back as they were, for a declared schema', async () => {
    const fields = schema({
      id: t.int64(),
      flag: t.boolean(),
      amount: t.float64(),
      at: t.timestamp(),
      note: t.nullable(t.string()),
      data: t.json(),
    })
    const options: Options = { table: 'typed', schema: fields }
    const text = fc.string({ unit: 'grapheme' }).filter((s) => !s.includes('\0') && s.isWellFormed())
    const arbitrary = fc.record({
      id: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      flag: fc.boolean(),
      amount: fc.double(),
      at: fc.integer({ min: -62_135_596_800_000, max: 253_402_300_799_999 }),
      note: fc.option(fc.oneof(text, fc.constantFrom(`'; DROP TABLE typed; --`, '"', '\\', '\\u0000', '\n\t', '$1'))),
      data: fc.oneof(fc.constant(null), text, fc.integer(), fc.array(text), fc.dictionary(text, fc.boolean())),
    })
    const committer = await openCommitter(options)
    let epoch = 0
    await fc.assert(
      fc.asyncProperty(fc.array(arbitrary, { minLength: 1, maxLength: 30 }), async (rows) => {
        await session.query('TRUNCATE typed')
        await committer.commit(++epoch, await written(options, rows))
        const read = await rowsOf(
          'SELECT id::text, flag, amount, (extract(epoch from at) * 1000)::text AS at, note, data FROM typed',
        )
        assert.deepEqual(
          read.map((r) => ({
            ...r,
            id: BigInt(String(r['id'])),
            at: Number(r['at']),
            data: JSON.stringify(r['data']),
          })),
          // jsonb orders the keys of an object by length, then bytes; so do both sides here.
          rows.map((r) => ({ ...r, data: JSON.stringify(jsonbOrder(r.data)) })),
        )
      }),
      { numRuns: 25 },
    )
    await committer.close()
  })

  test('that Postgres cannot store fail the job, naming the column', async () => {
    const options: Options = { table: 'refusing', columns: { id: 'integer', name: 'text' } }
    await assert.rejects(written(options, [{ id: 1, name: 'a\0b' }]), {
      code: 'ROW_REFUSED',
      message: /Column "name": the text holds U\+0000/,
    })
    await assert.rejects(written(options, [{ id: 2 ** 31, name: '' }]), { code: 'ROW_REFUSED', message: /Column "id"/ })
  })

  test('that Postgres cannot store go to the dead-letter table, with the good ones, once', async () => {
    const options: Options = {
      table: 'good',
      columns: { id: 'integer', name: 'text' },
      deadLetterTable: 'bad',
      chunkRowsMax: 2,
    }
    const committer = await openCommitter(options)
    const rows = [
      { id: 1, name: 'x' },
      { id: 2, name: 'a\0b' },
      { id: Number.NaN, name: 'y' },
      { id: 4, name: 'z' },
    ]
    const committables = await written(options, rows)
    await committer.commit(1, committables)
    await committer.commit(1, committables)
    assert.deepEqual(await rowsOf('SELECT id FROM good ORDER BY id'), [{ id: 1 }, { id: 4 }])
    const bad = await rowsOf('SELECT * FROM bad ORDER BY column_name')
    assert.deepEqual(
      bad.map((r) => [r['column_name'], r['row_text']]),
      [
        ['id', '{"id":"NaN","name":"y"}'],
        ['name', '{"id":2,"name":"a\\u0000b"}'],
      ],
    )
    await committer.close()
  })

  test('by toRow, in big batches, blocked writers waking up', async () => {
    const options: Options = {
      table: 'big',
      columns: { id: 'integer', padding: 'text' },
      toRow: (row) => ({ id: row, padding: 'p'.repeat(600) }),
    }
    const wakesBefore = outboxes.wakes
    const committables = await written(
      options,
      Array.from({ length: 10_000 }, (_, i) => i),
    )
    assert.ok(outboxes.wakes > wakesBefore, 'the writer reported itself blocked')
    const committer = await openCommitter(options)
    await committer.commit(1, committables)
    const [summary] = await rowsOf('SELECT count(DISTINCT id) AS n, max(id) AS max, min(length(padding)) AS l FROM big')
    assert.deepEqual(summary, { n: 10_000, max: 9_999, l: 600 })
    await committer.close()
  })

  test('nothing written is nothing to commit', async () => {
    assert.deepEqual(await written({ table: 'none', columns: { id: 'integer' } }, []), [])
  })
})

describe('options', () => {
  test('are checked before the job starts', () => {
    const make = (options: Partial<Options>) => () =>
      postgresSink({ table: 'x', columns: { id: 'integer' }, connection, ...options })
    assert.throws(make({ table: 'x; drop table y' }), { code: 'IDENTIFIER_INVALID' })
    assert.throws(make({ columns: { 'a b': 'text' } }), { code: 'IDENTIFIER_INVALID' })
    assert.throws(make({ columns: {} }), { code: 'SINK_OPTIONS_INVALID' })
    assert.throws(make({ key: ['other'] }), { code: 'SINK_OPTIONS_INVALID' })
    assert.throws(make({ chunkRowsMax: 0 }), { code: 'SINK_OPTIONS_INVALID' })
    const sink = postgresSink({ table: 'x', columns: { typo: 'integer' }, connection })
    const fields = schema({ id: t.int32() })
    assert.throws(() => sink.createWriter(outboxes.writerContext(fields)), { code: 'FIELD_UNKNOWN' })
  })

  test('a server needs a URL and the pg package', async () => {
    await assert.rejects(queryPostgres({ kind: 'url', url: 'mysql://h/d' }, 'SELECT 1'), {
      code: 'POSTGRES_URL_INVALID',
    })
  })
})

/** Key order of jsonb, by UTF-8 length and then bytes. */
function jsonbOrder(value: unknown): unknown {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value
  const entries = Object.entries(value).map(([key, inner]) => [Buffer.from(key), key, inner] as const)
  entries.sort((a, b) => a[0].length - b[0].length || Buffer.compare(a[0], b[0]))
  // Parsed text, as JavaScript puts keys like "1" first whatever their order was.
  return Object.fromEntries(entries.map(([, key, inner]) => [key, inner]))
}
