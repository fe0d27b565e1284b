/**
 * What every keyed store has to do, as a suite: the contract in engine/contract/keyed-store.ts, run
 * against a plain Map. keyed-store.test.ts runs it for each store.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import type { Arena, KeyedStore, KeyedStoreFactory, WriteBatch } from '../engine/contract/keyed-store.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { GrowingArena } from './growing-arena.ts'

/** One change: `value` null deletes. Keys and values are latin1 text, a character a byte. */
export type Change = readonly [key: string, value: string | null]

const bytesOf = (text: string): Buffer => Buffer.from(text, 'latin1')

export function arenaOf(items: readonly string[]): Arena {
  const arena = new GrowingArena(1, 1)
  for (const item of items) arena.push(bytesOf(item))
  return arena
}

export function batchOf(changes: readonly Change[]): WriteBatch {
  return {
    keys: arenaOf(changes.map(([key]) => key)),
    values: arenaOf(changes.map(([, value]) => value ?? '')),
    deletes: changes.some(([, value]) => value === null)
      ? Uint8Array.from(changes, ([, value]) => (value === null ? 1 : 0))
      : null,
  }
}

function itemAt(arena: Arena, row: number): string {
  return Buffer.from(arena.bytes.subarray(arena.offsets[row], arena.offsets[row + 1])).toString('latin1')
}

export function lookUp(store: KeyedStore, keys: readonly string[]): (string | null)[] {
  const { values, found } = store.multiGet(arenaOf(keys))
  assert.equal(values.count, keys.length)
  return keys.map((_, row) => {
    const value = itemAt(values, row)
    if (found[row] === 1) return value
    assert.equal(value, '')
    return null
  })
}

/** All rows of [from, to), checking that every chunk holds something. */
export function scanAll(store: KeyedStore, from = '', to: string | null = null, maxBytes?: number): [string, string][] {
  const scan = store.scan(bytesOf(from), to === null ? null : bytesOf(to))
  const rows: [string, string][] = []
  for (let chunk = scan.next(maxBytes); chunk !== null; chunk = scan.next(maxBytes)) {
    assert.ok(chunk.keys.count > 0)
    assert.equal(chunk.values.count, chunk.keys.count)
    for (let row = 0; row < chunk.keys.count; row++) rows.push([itemAt(chunk.keys, row), itemAt(chunk.values, row)])
  }
  scan.close()
  return rows
}

function sortedRows(model: ReadonlyMap<string, string>, from = '', to: string | null = null): [string, string][] {
  const inRange = [...model].filter(([key]) => key >= from && (to === null || key < to))
  return inRange.sort(([a], [b]) => (a < b ? -1 : 1))
}

function applyTo(model: Map<string, string>, changes: readonly Change[]): void {
  for (const [key, value] of changes) {
    if (value === null) model.delete(key)
    else model.set(key, value)
  }
}

function deleteRangeIn(model: Map<string, string>, from: string, to: string): void {
  for (const key of [...model.keys()]) if (key >= from && key < to) model.delete(key)
}

function hasCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof MillraceError && error.code === code
}

// Few distinct keys, so that commands meet; 0x00 and 0xff try the order of unsigned bytes.
const keys = fc
  .array(fc.constantFrom('\x00', 'a', 'b', '\x7f', '\xff'), { maxLength: 3 })
  .map((parts) => parts.join(''))
const changes = fc.array(fc.tuple(keys, fc.option(fc.string({ unit: 'binary-ascii', maxLength: 6 }))), {
  maxLength: 12,
})
const command = fc.oneof(
  fc.record({ kind: fc.constant('write' as const), changes }),
  fc.record({ kind: fc.constant('get' as const), keys: fc.array(keys, { maxLength: 8 }) }),
  fc.record({ kind: fc.constant('deleteRange' as const), a: keys, b: keys }),
  fc.record({
    kind: fc.constant('scan' as const),
    a: keys,
    b: fc.option(keys),
    maxBytes: fc.integer({ min: 1, max: 40 }),
  }),
  fc.record({
    kind: fc.constant('checkpoint' as const),
    changes,
    later: changes,
    a: keys,
    b: keys,
    awaitFirst: fc.boolean(),
    isImaged: fc.boolean(),
    isScanned: fc.boolean(),
  }),
)
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never

/** Scratch folders of one suite. */
class Scratch {
  readonly root = mkdtempSync(join(tmpdir(), 'millrace-store-'))
  #next = 0
  fresh(): string {
    return join(this.root, String(this.#next++))
  }
}

/** One random run: the store and a Map get the same commands; each checkpoint is restored and compared. */
async function runCommands(factory: KeyedStoreFactory, scratch: Scratch, commands: readonly Command[]): Promise<void> {
  const model = new Map<string, string>()
  let store = factory.create(scratch.fresh())
  try {
    for (const step of commands) {
      switch (step.kind) {
        case 'write':
          store.write(batchOf(step.changes))
          applyTo(model, step.changes)
          break
        case 'get':
          assert.deepEqual(
            lookUp(store, step.keys),
            step.keys.map((key) => model.get(key) ?? null),
          )
          break
        case 'deleteRange': {
          const [from, to] = step.a < step.b ? [step.a, step.b] : [step.b, step.a]
          store.deleteRange(bytesOf(from), bytesOf(to))
          deleteRangeIn(model, from, to)
          break
        }
        case 'scan': {
          const [from, to] = step.b !== null && step.b < step.a ? [step.b, step.a] : [step.a, step.b]
          assert.deepEqual(scanAll(store, from, to, step.maxBytes), sortedRows(model, from, to))
          break
        }
        case 'checkpoint':
          store = await checkpointStep(factory, scratch, store, model, step)
      }
    }
    assert.deepEqual(scanAll(store), sortedRows(model))
  } finally {
    store.close()
  }
}

/** Changes made while the checkpoint or write runs are seen by reads, and are not in its image. */
async function checkpointStep(
  factory: KeyedStoreFactory,
  scratch: Scratch,
  store: KeyedStore,
  model: Map<string, string>,
  step: Extract<Command, { kind: 'checkpoint' }>,
): Promise<KeyedStore> {
  const image = scratch.fresh()
  const batch = batchOf(step.changes)
  const running = step.isImaged ? store.writeAndCheckpoint(batch, image) : store.writeInBackground(batch)
  applyTo(model, step.changes)
  const expected = sortedRows(model)
  if (step.awaitFirst) await running
  else if (step.isScanned) assert.deepEqual(scanAll(store), expected)
  const [from, to] = step.a < step.b ? [step.a, step.b] : [step.b, step.a]
  store.deleteRange(bytesOf(from), bytesOf(to))
  deleteRangeIn(model, from, to)
  store.write(batchOf(step.later))
  applyTo(model, step.later)
  const asked = [...new Set([...step.changes, ...step.later].map(([key]) => key)), step.a, step.b]
  assert.deepEqual(
    lookUp(store, asked),
    asked.map((key) => model.get(key) ?? null),
  )
  await running
  assert.deepEqual(scanAll(store), sortedRows(model))
  if (!step.isImaged) return store

  const restored = factory.restore(image, scratch.fresh())
  assert.deepEqual(scanAll(restored), expected)
  // Go on with the restored store: it must be as good as the old one.
  store.close()
  model.clear()
  for (const [key, value] of expected) model.set(key, value)
  return restored
}

/** Registers the suite for one factory. */
export function keyedStoreConformance(name: string, makeFactory: () => KeyedStoreFactory): void {
  describe(`keyed store: ${name}`, () => {
    const factory = makeFactory()
    const scratch = new Scratch()
    after(() => rmSync(scratch.root, { recursive: true, force: true }))

    const withStore = async (body: (store: KeyedStore) => void | Promise<void>): Promise<void> => {
      const store = factory.create(scratch.fresh())
      try {
        await body(store)
      } finally {
        store.close()
      }
    }

    test('behaves like a Map under random commands', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(command, { maxLength: 12 }), (commands) => runCommands(factory, scratch, commands)),
        { numRuns: 40 },
      )
    })

    test('orders keys as unsigned bytes, shorter first, the empty key before all', () =>
      withStore((store) => {
        const ordered = [
          '',
          '\x00',
          '\x00\x00',
          'a',
          'a\x00',
          'aa',
          'b',
          '\x7f',
          '\x80',
          '\xff',
          '\xff\x00',
          '\xff\xff',
        ]
        store.write(batchOf(ordered.toReversed().map((key) => [key, `v${key}`])))
        assert.deepEqual(
          scanAll(store),
          ordered.map((key) => [key, `v${key}`]),
        )
        assert.deepEqual(
          scanAll(store, 'a', 'b').map(([key]) => key),
          ['a', 'a\x00', 'aa'],
        )
        assert.deepEqual(scanAll(store, 'aa', 'aa'), [])
        assert.deepEqual(lookUp(store, ['', 'aaa', 'a']), ['v', null, 'va'])
      }))

    test('tells an empty value from a missing key', () =>
      withStore((store) => {
        store.write(batchOf([['k', '']]))
        assert.deepEqual(lookUp(store, ['k', 'l', 'k']), ['', null, ''])
        assert.deepEqual(scanAll(store), [['k', '']])
      }))

    test('the last row of a key wins within a batch, in both ways of writing', async () => {
      const rows: Change[] = [
        ['k', '1'],
        ['gone', 'x'],
        ['k', '2'],
        ['gone', null],
        ['back', null],
        ['back', 'y'],
        ['k', '3'],
      ]
      await withStore(async (store) => {
        store.write(batchOf(rows))
        assert.deepEqual(scanAll(store), [
          ['back', 'y'],
          ['k', '3'],
        ])
      })
      await withStore(async (store) => {
        await store.writeAndCheckpoint(batchOf(rows), scratch.fresh())
        assert.deepEqual(scanAll(store), [
          ['back', 'y'],
          ['k', '3'],
        ])
      })
    })

    test('borrows arguments only for the call', () =>
      withStore(async (store) => {
        const batch = batchOf([
          ['key', 'value'],
          ['dead', null],
        ])
        store.write(batch)
        const from = bytesOf('a')
        const to = bytesOf('z')
        const scan = store.scan(from, to)
        for (const used of [batch.keys.bytes, batch.values.bytes, from, to]) used.fill(0xee)
        batch.keys.offsets.fill(7)
        assert.equal(itemAt(scan.next()!.values, 0), 'value')
        scan.close()
        assert.deepEqual(scanAll(store), [['key', 'value']])
        const late = batchOf([['late', 'x']])
        const image = scratch.fresh()
        await store.writeAndCheckpoint(late, image)
        late.keys.bytes.fill(0xee)
        assert.deepEqual(scanAll(store), [
          ['key', 'value'],
          ['late', 'x'],
        ])
      }))

    test('reads and writes shared memory', () =>
      withStore((store) => {
        const share = (arena: Arena): Arena => {
          const bytes = new Uint8Array(new SharedArrayBuffer(arena.bytes.length))
          bytes.set(arena.bytes)
          const offsets = new Uint32Array(new SharedArrayBuffer(arena.offsets.byteLength))
          offsets.set(arena.offsets)
          return { bytes, offsets, count: arena.count }
        }
        store.write({ keys: share(arenaOf(['a', 'b'])), values: share(arenaOf(['1', '2'])), deletes: null })
        const { values, found } = store.multiGet(share(arenaOf(['b', 'c'])))
        assert.deepEqual([itemAt(values, 0), found[0], found[1]], ['2', 1, 0])
      }))

    test('a scan keeps the view it was opened on', () =>
      withStore((store) => {
        store.write(
          batchOf([
            ['a', '1'],
            ['b', '2'],
            ['c', '3'],
          ]),
        )
        const scan = store.scan(bytesOf(''), null)
        store.write(
          batchOf([
            ['a', null],
            ['b', 'changed'],
            ['bb', 'new'],
          ]),
        )
        store.deleteRange(bytesOf('c'), bytesOf('d'))
        const rows: string[] = []
        for (let chunk = scan.next(1); chunk !== null; chunk = scan.next(1)) {
          assert.equal(chunk.keys.count, 1)
          rows.push(itemAt(chunk.keys, 0) + itemAt(chunk.values, 0))
        }
        scan.close()
        assert.deepEqual(rows, ['a1', 'b2', 'c3'])
      }))

    test('moves big values, and many keys, through every call', () =>
      withStore(async (store) => {
        const big = Buffer.alloc(5 << 20, 'big').toString('latin1')
        const model = new Map<string, string>([['big', big]])
        const rows: Change[] = Array.from({ length: 20_000 }, (_, i) => [`k${(i * 7919) % 20_000}`, `v${i}`])
        applyTo(model, [['big too', big], ...rows])
        store.write(batchOf([['big', big], ...rows.slice(0, 5_000)]))
        await store.writeInBackground(batchOf([...rows.slice(5_000, 10_000), ['big too', big]]))
        const image = scratch.fresh()
        const files = await store.writeAndCheckpoint(batchOf(rows.slice(10_000)), image)
        assert.ok(files.length > 0)
        for (const { name, size } of files) assert.equal(statSync(join(image, name)).size, size)
        assert.equal(readdirSync(image).length, files.length)
        assert.deepEqual(lookUp(store, ['k1', 'big', 'nothing', 'k2', 'big']), [
          model.get('k1'),
          big,
          null,
          model.get('k2'),
          big,
        ])
        const asked = [...model.keys()]
        assert.deepEqual(
          lookUp(store, asked),
          asked.map((key) => model.get(key)),
        )
        const restored = factory.restore(image, scratch.fresh())
        assert.deepEqual(scanAll(restored, '', null, 10_000), sortedRows(model))
        assert.ok(restored.memoryBytes() >= 0)
        restored.close()
      }))

    test('restores one image twice and leaves it as it was', () =>
      withStore(async (store) => {
        store.write(
          batchOf([
            ['a', '1'],
            ['b', '2'],
          ]),
        )
        const image = scratch.fresh()
        await store.writeAndCheckpoint(batchOf([['c', '3']]), image)
        const digest = () =>
          readdirSync(image)
            .sort()
            .map((name) => [name, readFileSync(join(image, name)).toString('latin1')])
        const before = digest()
        const first = factory.restore(image, scratch.fresh())
        first.write(batchOf([['a', 'changed']]))
        first.deleteRange(bytesOf('b'), bytesOf('c'))
        await first.writeAndCheckpoint(batchOf([['d', '4']]), scratch.fresh())
        const second = factory.restore(image, scratch.fresh())
        assert.deepEqual(scanAll(second), [
          ['a', '1'],
          ['b', '2'],
          ['c', '3'],
        ])
        assert.deepEqual(scanAll(first), [
          ['a', 'changed'],
          ['c', '3'],
          ['d', '4'],
        ])
        first.close()
        second.close()
        assert.deepEqual(digest(), before)
      }))

    test('checkpoints an empty store, and one checkpoint after another', () =>
      withStore(async (store) => {
        const images = [scratch.fresh(), scratch.fresh(), scratch.fresh()]
        await store.writeAndCheckpoint(batchOf([]), images[0])
        await store.writeAndCheckpoint(batchOf([['a', '1']]), images[1])
        await store.writeAndCheckpoint(batchOf([['a', null]]), images[2])
        const restored = images.map((image) => {
          const copy = factory.restore(image, scratch.fresh())
          const rows = scanAll(copy)
          copy.close()
          return rows
        })
        assert.deepEqual(restored, [[], [['a', '1']], []])
      }))

    test('refuses a second checkpoint at once, and directories that exist', () =>
      withStore(async (store) => {
        const image = scratch.fresh()
        const first = store.writeAndCheckpoint(batchOf([['a', '1']]), image)
        await assert.rejects(store.writeAndCheckpoint(batchOf([]), scratch.fresh()), hasCode('STORE_MISUSED'))
        await first
        await assert.rejects(store.writeAndCheckpoint(batchOf([]), image), hasCode('STORE_DIRECTORY_NOT_EMPTY'))
        assert.ok(existsSync(image))
        assert.throws(() => factory.create(image), hasCode('STORE_DIRECTORY_NOT_EMPTY'))
        await store.writeAndCheckpoint(batchOf([]), scratch.fresh())
      }))

    test('refuses ranges that end before they start, and batches whose parts differ', () =>
      withStore((store) => {
        assert.throws(() => store.deleteRange(bytesOf('b'), bytesOf('a')), hasCode('STORE_MISUSED'))
        assert.throws(() => store.scan(bytesOf('b'), bytesOf('a')), hasCode('STORE_MISUSED'))
        const uneven = { keys: arenaOf(['a', 'b']), values: arenaOf(['1']), deletes: null }
        assert.throws(() => store.write(uneven), hasCode('STORE_MISUSED'))
      }))

    test('after close every call gives an error, and closing again does nothing', () => {
      const store = factory.create(scratch.fresh())
      store.write(batchOf([['a', '1']]))
      const scan = store.scan(bytesOf(''), null)
      store.close()
      store.close()
      assert.throws(() => lookUp(store, ['a']), hasCode('STORE_CLOSED'))
      assert.throws(() => store.write(batchOf([['a', '1']])), hasCode('STORE_CLOSED'))
      assert.throws(() => scan.next(), hasCode('STORE_CLOSED'))
      scan.close()
      scan.close()
    })

    test('a missing image is a damaged one', () => {
      assert.throws(() => factory.restore(scratch.fresh(), scratch.fresh()), hasCode('SNAPSHOT_CORRUPT'))
    })
  })
}
