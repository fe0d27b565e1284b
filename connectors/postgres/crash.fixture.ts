/**
 * A process that commits epochs to the PGlite directory named by its first argument until it is killed, in
 * transactions of about as many bytes as the second one says.
 * Started by pglite.test.ts. Prints `open`, then each epoch once its commit has resolved.
 */
import { MemoryOutboxes } from '../memory-outbox.ts'
import { postgresSink } from './postgres-sink.ts'

/** Rows an epoch; enough chunks that a kill falls inside a transaction. */
const ROWS = 300

const outboxes = new MemoryOutboxes()
const sink = postgresSink({
  table: 'crash',
  columns: { epoch: 'integer not null', row: 'integer not null', padding: 'text' },
  connection: { kind: 'pglite', directory: process.argv[2]! },
  chunkRowsMax: 10,
  transactionBytesMax: Number(process.argv[3]),
})
const committer = sink.createCommitter!(outboxes.committerContext('crash'))
await committer.open()
process.stdout.write('open\n')
for (let epoch = (await committer.readMarker()) + 1; ; epoch++) {
  const records = Array.from(
    { length: ROWS },
    (_, row) => `{"epoch":${epoch},"row":${row},"padding":"${'x'.repeat(200)}"}`,
  )
  await committer.commit(epoch, [{ ...outboxes.add(records) }])
  process.stdout.write(`${epoch}\n`)
}
