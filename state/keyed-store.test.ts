/** The conformance suite for both stores, and what only one of them promises. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { MillraceError } from '../engine/core/errors.ts'
import { batchOf, type Change, keyedStoreConformance, scanAll } from './keyed-store-conformance.ts'
import { memoryStoreFactory } from './memory-store.ts'
import { loadRocksdbAddon } from './rocksdb-addon.ts'
import { rocksdbStoreFactory } from './rocksdb-store.ts'

keyedStoreConformance('memory', memoryStoreFactory)
keyedStoreConformance('rocksdb', rocksdbStoreFactory)

const root = mkdtempSync(join(tmpdir(), 'millrace-stores-'))
after(() => rmSync(root, { recursive: true, force: true }))

function hasCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof MillraceError && error.code === code
}

describe('memory snapshot file', () => {
  test('any flipped bit and any cut is noticed', async () => {
    const factory = memoryStoreFactory()
    const store = factory.create(join(root, 'memory'))
    const image = join(root, 'memory-image')
    await store.writeAndCheckpoint(
      batchOf([
        ['a', '1'],
        ['bb', ''],
        ['', 'xyz'],
      ]),
      image,
    )
    store.close()
    const whole = readFileSync(join(image, 'memory-snapshot.bin'))
    const damaged = join(root, 'damaged')
    mkdirSync(damaged)
    let target = 0
    const restore = (bytes: Buffer) => {
      writeFileSync(join(damaged, 'memory-snapshot.bin'), bytes)
      return factory.restore(damaged, join(root, `target-${target++}`))
    }
    assert.equal(scanAll(restore(whole)).length, 3)
    for (let length = 0; length < whole.length; length++) {
      assert.throws(() => restore(whole.subarray(0, length)), hasCode('SNAPSHOT_CORRUPT'), `cut at ${length}`)
    }
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const flipped = Buffer.from(whole)
      flipped[bit >> 3] ^= 1 << (bit & 7)
      assert.throws(() => restore(flipped), hasCode('SNAPSHOT_CORRUPT'), `bit ${bit}`)
    }
    assert.throws(() => restore(Buffer.concat([whole, whole])), hasCode('SNAPSHOT_CORRUPT'))
  })
})

describe('rocksdb store', () => {
  const factory = rocksdbStoreFactory()

  test('names its version', () => {
    assert.match(factory.description, /^rocksdb \d+\.\d+\.\d+$/)
  })

  test('says how to get a missing addon', () => {
    assert.throws(
      () => loadRocksdbAddon(join(root, 'nowhere.node')),
      (error) => hasCode('ROCKSDB_UNAVAILABLE')(error) && String(error).includes('native/install.ts'),
    )
  })

  test('large batches (SST files) and small ones give the same, also over each other', async () => {
    const store = factory.create(join(root, 'large'))
    const model = new Map<string, string>()
    const value = 'v'.repeat(400)
    const random = (i: number) => `key-${String((i * 48_271) % 65_537).padStart(8, '0')}`
    const large: Change[] = Array.from({ length: 20_000 }, (_, i) => [random(i), i % 5 === 0 ? null : value + i])
    const rounds: Change[][] = [
      [
        ['key-00000007', 'old'],
        ['key-00000500', 'old'],
        ['zz', 'kept'],
      ],
      large,
      [
        [random(3), 'newer'],
        [random(4), null],
        ['zz', null],
      ],
      large.map(([key], i) => [key, i % 2 === 0 ? null : `again${i}`.padEnd(600)] as const),
    ]
    for (const [i, rows] of rounds.entries()) {
      const image = join(root, `large-image-${i}`)
      await store.writeAndCheckpoint(batchOf(rows), image)
      for (const [key, v] of rows) v === null ? model.delete(key) : model.set(key, v)
      const expected = [...model].sort(([a], [b]) => (a < b ? -1 : 1))
      assert.deepEqual(scanAll(store), expected)
      const restored = factory.restore(image, join(root, `large-restored-${i}`))
      assert.deepEqual(scanAll(restored), expected)
      restored.close()
    }
    store.close()
  })

  test('hard-links table files out of an image', async () => {
    const store = factory.create(join(root, 'links'))
    const image = join(root, 'links-image')
    await store.writeAndCheckpoint(batchOf([['a', '1']]), image)
    store.close()
    factory.restore(image, join(root, 'links-restored')).close()
    const table = readdirSync(image).find((name) => name.endsWith('.sst'))!
    assert.equal(statSync(join(image, table)).ino, statSync(join(root, 'links-restored', table)).ino)
  })

  test('a cut or missing table file is a damaged image; a flipped one is noticed when read', async () => {
    const store = factory.create(join(root, 'damage'))
    const image = join(root, 'damage-image')
    const rows: Change[] = Array.from({ length: 1000 }, (_, i) => [`k${i}`, `value ${i}`])
    await store.writeAndCheckpoint(batchOf(rows), image)
    store.close()
    const table = readdirSync(image).find((name) => name.endsWith('.sst'))!
    const bytes = readFileSync(join(image, table))
    const damaged = (name: string, content: Buffer | null) => {
      const copy = join(root, name)
      mkdirSync(copy)
      for (const file of readdirSync(image)) copyFileSync(join(image, file), join(copy, file))
      rmSync(join(copy, table))
      if (content !== null) writeFileSync(join(copy, table), content)
      return () => {
        const restored = factory.restore(copy, join(root, `${name}-restored`))
        try {
          scanAll(restored)
        } finally {
          restored.close()
        }
      }
    }
    assert.throws(damaged('missing', null), hasCode('SNAPSHOT_CORRUPT'))
    assert.throws(damaged('cut', bytes.subarray(0, bytes.length >> 1)), hasCode('SNAPSHOT_CORRUPT'))
    const flipped = Buffer.from(bytes)
    flipped[100] ^= 4
    assert.throws(damaged('flipped', flipped), hasCode('STORE_CORRUPT'))
  })

  test('survives a disk that is full for a while', () => {
    // In a child process, because the limit on file sizes that stands in for a full disk is per process.
    const script = join(import.meta.dirname, 'rocksdb-full-disk.fixture.ts')
    const command = 'ulimit -S -f 2048; exec "$0" "$@"'
    const out = execFileSync('bash', ['-c', command, process.execPath, script, join(root, 'full')], {
      encoding: 'utf8',
    })
    assert.match(out, /recovered\n$/)
  })
})
