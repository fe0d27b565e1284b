/**
 * Outbox segments: records come back in order, cuts are made at the call, damage is noticed, and what the
 * disk has not taken counts as buffered.
 */
import assert from 'node:assert/strict'
import { open, rm, truncate, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import type { OutboxSegment } from '../contract/sink.ts'
import type { Disk } from '../core/io.ts'
import { nodeIo } from '../runtime/node-io.ts'
import { layout } from './layout.ts'
import { manifestName } from './manifest.ts'
import { createOutbox, readOutbox } from './outbox.ts'
import { withCheckpointDirectory } from './testing-manifest.ts'

function outboxIn(directory: string, disk: Disk = nodeIo.disk, onError: (error: unknown) => void = () => {}) {
  return createOutbox({ disk, directory, liveDirectory: directory, prefix: 'p', onError })
}

async function recordsOf(directory: string, segment: OutboxSegment | null): Promise<string[]> {
  if (segment === null) return []
  const records: string[] = []
  for await (const record of readOutbox(nodeIo.disk, directory, segment))
    records.push(Buffer.from(record).toString('hex'))
  assert.equal(records.length, segment.records)
  return records
}

test('records come back in order, cut where seal was called', () =>
  withCheckpointDirectory(async (directory) => {
    let run = 0
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(fc.uint8Array({ maxLength: 30 })), { maxLength: 5 }), async (segments) => {
        const outbox = createOutbox({
          liveDirectory: directory,
          disk: nodeIo.disk,
          directory,
          prefix: `r${run++}`,
          onError: (error) => assert.fail(String(error)),
        })
        const scratch = new Uint8Array(30)
        const sealing = segments.map((records) => {
          for (const record of records) {
            scratch.set(record)
            outbox.append(scratch.subarray(0, record.length))
            scratch.fill(0xee)
          }
          return outbox.seal()
        })
        const sealed = await Promise.all(sealing)
        for (const [i, records] of segments.entries()) {
          assert.equal(sealed[i] === null, records.length === 0)
          assert.deepEqual(
            await recordsOf(directory, sealed[i]!),
            records.map((record) => Buffer.from(record).toString('hex')),
          )
        }
        await outbox.close()
      }),
      { numRuns: 15 },
    )
  }))

test('a damaged or shortened segment is noticed', () =>
  withCheckpointDirectory(async (directory) => {
    const outbox = outboxIn(directory)
    outbox.append(Buffer.from('hello'))
    outbox.append(Buffer.alloc(0))
    outbox.append(Buffer.from('world'))
    const segment = (await outbox.seal())!
    const path = `${directory}/${segment.file}`
    const bytes = Buffer.from(await nodeIo.disk.read(path))
    assert.equal(bytes.length, segment.bytes)
    for (let i = 0; i < bytes.length; i++) {
      const altered = Buffer.from(bytes)
      altered[i]! ^= 1
      await writeFile(path, altered)
      await assert.rejects(recordsOf(directory, segment), { code: 'OUTPUT_LOST' })
    }
    await writeFile(path, bytes)
    assert.equal((await recordsOf(directory, segment)).length, 3)
    await truncate(path, bytes.length - 1)
    await assert.rejects(recordsOf(directory, segment), { code: 'OUTPUT_LOST' })
  }))

test('a large segment is read in pieces, and gives no record before all of it was checked', () =>
  withCheckpointDirectory(async (directory) => {
    const outbox = outboxIn(directory)
    const lengths = [0, 1, 3 << 20, 5, 9 << 20, 100_000, 7]
    for (const [i, length] of lengths.entries()) outbox.append(Buffer.alloc(length, i))
    const segment = (await outbox.seal())!
    let longest = 0
    const disk: Disk = {
      ...nodeIo.disk,
      read: () => assert.fail('as a whole it may be larger than memory'),
      readRange(path, at, length) {
        longest = Math.max(longest, length)
        return nodeIo.disk.readRange!(path, at, length)
      },
    }
    const read: number[] = []
    for await (const record of readOutbox(disk, directory, segment)) {
      assert.ok(Buffer.alloc(record.length, read.length).equals(record))
      read.push(record.length)
    }
    assert.deepEqual(read, lengths)
    assert.ok(longest <= 4 << 20)

    const file = await open(`${directory}/${segment.file}`, 'r+')
    await file.write(Buffer.of(1), 0, 1, segment.bytes - 1)
    await file.close()
    const records = readOutbox(disk, directory, segment)
    await assert.rejects(records.next(), { code: 'OUTPUT_LOST', message: /does not match its checksum/ })
  }))

test('a segment is gone when its directory is there; what is read wrong once is read again', () =>
  withCheckpointDirectory(async (directory) => {
    const outbox = outboxIn(directory)
    outbox.append(Buffer.from('hello'))
    const segment = (await outbox.seal())!
    let reads = 0
    const disk: Disk = {
      ...nodeIo.disk,
      async read(path) {
        const bytes = await nodeIo.disk.read(path)
        return reads++ === 0 ? bytes.subarray(1) : bytes
      },
    }
    for await (const record of readOutbox(disk, directory, segment)) assert.equal(String(record), 'hello')
    assert.equal(reads, 2)
    await rm(`${directory}/${segment.file}`)
    // Without any manifest it may be a volume that is not mounted.
    await assert.rejects(recordsOf(directory, segment), { code: 'ENOENT' })
    await writeFile(layout.manifest(directory, manifestName(1)), '')
    await assert.rejects(recordsOf(directory, segment), { code: 'OUTPUT_LOST', message: /p-000000\.seg is gone/ })
  }))

/** A disk whose appends wait for `go`, or fail. */
function slowDisk(go: () => Promise<void>): Disk {
  return {
    ...nodeIo.disk,
    async create(path) {
      const file = await nodeIo.disk.create(path)
      return { ...file, append: async (bytes) => go().then(() => file.append(bytes)) }
    },
  }
}

test('what the disk has not taken counts as buffered', () =>
  withCheckpointDirectory(async (directory) => {
    let open: () => void = () => {}
    const go = new Promise<void>((resolve) => {
      open = resolve
    })
    const outbox = outboxIn(
      directory,
      slowDisk(() => go),
    )
    const record = Buffer.alloc(100_000)
    for (let i = 0; i < 50; i++) outbox.append(record)
    assert.ok(outbox.bufferedBytes >= 5_000_000, `${outbox.bufferedBytes}`)
    open()
    await outbox.flush()
    assert.equal(outbox.bufferedBytes, 0)
    assert.equal((await recordsOf(directory, await outbox.seal())).length, 50)
  }))

test('errors of the disk reach whoever seals, and onError while appending', () =>
  withCheckpointDirectory(async (directory) => {
    const errors: unknown[] = []
    const outbox = outboxIn(
      directory,
      slowDisk(() => Promise.reject(new Error('no space'))),
      (error) => errors.push(error),
    )
    for (let i = 0; i < 10; i++) outbox.append(Buffer.alloc(100_000))
    await assert.rejects(outbox.seal(), /no space/)
    assert.ok(errors.length > 0)
    outbox.append(Buffer.from('x'))
    await assert.rejects(outbox.seal(), /no space/)
    await outbox.close()
  }))
