/**
 * An exactly-once sink of your own, here a table of SQLite: writers put rows into the outbox, a part of every checkpoint;
 * once a checkpoint is complete, the committer shows its rows and raises the marker, in one transaction. After a crash
 * the engine reads the marker, and commits what lies above it.
 *
 * Reach for it when no connector fits and the system can write rows and a marker together; for a call a row,
 * at-least-once, `addSink` is much shorter. `sinkChecks` of `millrace/testing` is for its tests: any cut, any crash.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import {
  MillraceError,
  milliseconds,
  type OutboxSegment,
  rowReader,
  type Sink,
  type SinkCommitter,
  type SinkCommitterContext,
  type SinkWriter,
  type SinkWriterContext,
  StreamExecutionEnvironment,
} from 'millrace'
import { type SinkSubject, sinkChecks } from 'millrace/testing'

type Sale = { readonly id: number; readonly euros: number }

const OUTBOX_BYTES_MAX = 4 * 1_024 * 1_024

function saleWriter(context: SinkWriterContext): SinkWriter {
  const outbox = context.createOutbox()
  const saleOf = rowReader(context.schema, context.worker.interner, context.sinkId)
  return {
    async open() {},
    write(batch, from) {
      for (let i = from; i < batch.length; i++) {
        if (outbox.bufferedBytes > OUTBOX_BYTES_MAX) {
          outbox.flush().then(context.wake, context.fail)
          return i // The rest is offered again after `wake`.
        }
        outbox.append(Buffer.from(JSON.stringify(saleOf(batch, i))))
      }
      return batch.length
    },
    prepareCommit: () => outbox.seal(),
    close: () => outbox.close(),
  }
}

function saleCommitter(file: string, context: SinkCommitterContext): SinkCommitter {
  const db = new DatabaseSync(file)
  const state = () => db.prepare('SELECT owner, epoch FROM state').get() as { owner: number; epoch: number }
  let owner = 0
  return {
    async open() {
      db.exec(`PRAGMA journal_mode = WAL;
        CREATE TABLE IF NOT EXISTS sales (id INTEGER, euros REAL);
        CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY, owner INTEGER, epoch INTEGER);
        INSERT OR IGNORE INTO state VALUES (1, 0, 0);
        UPDATE state SET owner = owner + 1`)
      owner = state().owner
    },
    readMarker: async () => state().epoch,
    async commit(epoch, committables) {
      const sales: Sale[] = []
      for (const segment of committables as unknown as readonly OutboxSegment[]) {
        for await (const record of context.readOutbox(segment)) sales.push(JSON.parse(Buffer.from(record).toString()))
      }
      db.exec('BEGIN IMMEDIATE')
      try {
        if (epoch > state().epoch) {
          if (state().owner !== owner) throw new MillraceError('SINK_FENCED', 'A newer run has opened this table.')
          const insert = db.prepare('INSERT INTO sales VALUES (?, ?)')
          for (const { id, euros } of sales) insert.run(id, euros)
          db.prepare('UPDATE state SET epoch = ?').run(epoch)
        }
        db.exec('COMMIT')
      } catch (error) {
        db.exec('ROLLBACK')
        throw error
      }
    },
    close: async () => db.close(),
  }
}

const saleSink = (file: string): Sink<Sale> => ({
  kind: 'sqlite-sales',
  guarantee: 'exactly-once',
  createWriter: saleWriter,
  createCommitter: (context) => saleCommitter(file, context),
})

function salesIn(file: string): Sale[] {
  const db = new DatabaseSync(file)
  const isThere = db.prepare(`SELECT name FROM sqlite_master WHERE name = 'sales'`).get() !== undefined
  const rows = isThere ? db.prepare('SELECT id, euros FROM sales').all() : []
  db.close()
  return rows.map((row) => ({ ...row })) as Sale[]
}

const directory = await mkdtemp(join(tmpdir(), 'custom-sink-'))
const file = join(directory, 'sales.db')
const env = StreamExecutionEnvironment.createEnvironment().setParallelism(2).enableCheckpointing(milliseconds(20))
env
  .fromDataGenerator((id): Sale => ({ id, euros: 3 * id }), { count: 100 })
  .rebalance()
  .sinkTo(saleSink(file))
const running = await env.executeAsync('sales')
await running.done
const total = salesIn(file).reduce((sum, { euros }) => sum + euros, 0)
console.log(`${salesIn(file).length} sales, ${total} euros`)

const subject: SinkSubject<Sale> = {
  rowOf: (id) => ({ id, euros: id / 4 }),
  create(empty) {
    const file = join(empty, 'sales.db')
    return { sink: () => saleSink(file), visible: () => salesIn(file) }
  },
}
for (const { run } of sinkChecks(subject, { runs: 1 })) await run()
console.log('the sink keeps every promise')
await rm(directory, { recursive: true })

/* prints:
100 sales, 14850 euros
the sink keeps every promise
*/
