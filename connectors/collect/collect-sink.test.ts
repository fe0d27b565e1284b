/** Rows come back as they were; the exactly-once form applies each epoch once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SinkCommitterContext, SinkWriter, SinkWriterContext } from '../../engine/contract/sink.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema, schema, t } from '../../engine/core/schema.ts'
import { StringInterner } from '../../engine/core/strings.ts'
import { type CollectSink, collectSink } from './collect-sink.ts'

const segments = new Map<string, Uint8Array[]>()
const committerContext = {
  async *readOutbox({ file }) {
    yield* segments.get(file)!
  },
} as Partial<SinkCommitterContext> as SinkCommitterContext

/** An outbox of `room` bytes: above, it asks for a flush. */
function outbox() {
  let records: Uint8Array[] = []
  const self = {
    bufferedBytes: 0,
    append: (record: Uint8Array) => {
      records.push(new Uint8Array(record))
      self.bufferedBytes += record.length
    },
    flush: async () => {
      self.bufferedBytes = 0
    },
    seal: async () => {
      if (records.length === 0) return null
      const file = `segment-${segments.size}`
      segments.set(file, records)
      records = []
      return { file, records: 1, bytes: 1, crc32: 0 }
    },
    close: async () => {},
  }
  return self
}

async function openWriter(sink: CollectSink<unknown>, rowSchema: Schema, wake = () => {}): Promise<SinkWriter> {
  const context = {
    schema: rowSchema,
    worker: { interner: new StringInterner(), uniqueId: (prefix: string) => prefix },
    createOutbox: outbox,
    wake,
    post: (message: unknown) => sink.onMessage!(structuredClone(message)),
  } as unknown as SinkWriterContext
  const writer = sink.createWriter(context)
  await writer.open()
  return writer
}

const ODD_ROWS = [
  { a: 1n, b: undefined, c: Number.NaN, d: new Date(5), e: new Map([[1, 2]]) },
  null,
  undefined,
  'x',
  -0,
]

test('rows arrive at once, in order', async () => {
  const collected = collectSink()
  const writer = await openWriter(collected, OPAQUE_SCHEMA)
  assert.equal(writer.write(batchOfRows(OPAQUE_SCHEMA, ODD_ROWS), 1), ODD_ROWS.length)
  assert.equal(await writer.prepareCommit(), null)
  assert.deepEqual(collected.results, ODD_ROWS.slice(1))
  assert.deepEqual(collected.rows(), ODD_ROWS.slice(1))
  assert.equal(collected.sink.guarantee, 'at-least-once')
  assert.equal(collected.createCommitter, undefined)
  await writer.close()
})

test('with exactlyOnce, rows appear with their epoch, once, and only for the last owner', async () => {
  const collected = collectSink({ exactlyOnce: true })
  assert.equal(collected.guarantee, 'exactly-once')
  const writer = await openWriter(collected, OPAQUE_SCHEMA)
  assert.equal(await writer.prepareCommit(), null)
  writer.write(batchOfRows(OPAQUE_SCHEMA, ODD_ROWS), 0)
  const one = JSON.parse(JSON.stringify(await writer.prepareCommit()))
  writer.write(batchOfRows(OPAQUE_SCHEMA, ['later']), 0)
  const two = await writer.prepareCommit()
  assert.deepEqual(collected.results, [])

  const first = collected.createCommitter!(committerContext)
  await first.open()
  await Promise.all([first.commit(1, [one]), first.commit(1, [one])])
  await first.commit(1, [one])
  assert.deepEqual(collected.results, ODD_ROWS)

  const second = collected.createCommitter!(committerContext)
  await second.open()
  assert.equal(await second.readMarker(), 1)
  await assert.rejects(first.commit(2, [two]), { code: 'SINK_FENCED' })
  await second.commit(2, [two])
  assert.deepEqual(collected.results, [...ODD_ROWS, 'later'])
  assert.equal(await second.readMarker(), 2)
})

test('a writer with a full outbox waits for the disk', async () => {
  const collected = collectSink({ exactlyOnce: true })
  const rows = Array.from({ length: 6 }, (_, i) => ({ i, text: 'x'.repeat(1_000_000) }))
  const fields = schema({ i: t.int32(), text: t.string() })
  let wakes = 0
  const writer = await openWriter(collected, fields, () => {
    wakes++
  })
  const batch = batchOfRows(fields, rows)
  const taken = writer.write(batch, 0)
  assert.ok(taken > 0 && taken < rows.length)
  await new Promise(setImmediate)
  assert.equal(wakes, 1)
  assert.equal(writer.write(batch, taken), rows.length)
  const committer = collected.createCommitter!(committerContext)
  await committer.open()
  await committer.commit(1, [(await writer.prepareCommit())!])
  assert.deepEqual(collected.results, rows)
})
