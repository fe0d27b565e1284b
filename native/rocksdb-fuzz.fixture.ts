/**
 * Run by rocksdb-addon.test.ts in a process of its own, because what it looks for is a crash.
 *
 * Calls every function of the addon with wrong kinds, bad arenas and dead handles, mixed with valid
 * calls. Each call must return or throw an Error with a code, and the store must still work at the end.
 */
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { loadRocksdbAddon, type RocksdbAddon } from '../state/rocksdb-addon.ts'

const root = process.argv[2]!
const rounds = Number(process.argv[3])
let seed = Number(process.argv[4])
mkdirSync(root, { recursive: true })

function random(below: number): number {
  seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
  return Math.floor((seed / 2 ** 32) * below)
}
const oneOf = <T>(items: readonly T[]): T => items[random(items.length)]

const addon: RocksdbAddon = loadRocksdbAddon()
const functions = Object.entries(addon).filter(([, value]) => typeof value === 'function') as [
  keyof RocksdbAddon & string,
  (...args: unknown[]) => unknown,
][]
let databases = 0
let directories = 0
let codes = new Set<string>()
let store = addon.open(join(root, `db-${databases++}`), false, 4 << 20)
let scan = addon.scanOpen(store, new Uint8Array(), null)
const pending: Promise<unknown>[] = []

function detached(): Uint8Array {
  const bytes = new Uint8Array(8)
  structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
  return bytes
}

function offsets(): Uint32Array {
  const length = random(6)
  const result = new Uint32Array(oneOf([() => new ArrayBuffer(length * 4), () => new SharedArrayBuffer(length * 4)])())
  let at = 0
  for (let i = 0; i < length; i++) result[i] = oneOf([() => (at += random(4)), () => random(40), () => 0xffff_ffff])()
  return result
}

/** An argument: mostly of a plausible kind, so that deeper checks are reached. */
function argument(): unknown {
  return oneOf<() => unknown>([
    () => store,
    () => scan,
    () => random(5),
    () => random(5),
    () => oneOf([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 32, 2 ** 53]),
    () => new Uint8Array(random(30)).fill(random(256)),
    () => new Uint8Array(new SharedArrayBuffer(random(30))),
    () => Buffer.from('some bytes'),
    offsets,
    offsets,
    offsets,
    detached,
    () => new Float64Array(4),
    () => new Uint8ClampedArray(4),
    () => new DataView(new ArrayBuffer(8)),
    () => null,
    () => undefined,
    () => oneOf([true, false]),
    () => oneOf(['', 'a\0b', join(root, `image-${directories++}`), join(root, 'no', 'such', 'folder')]),
    () => ({}),
    () => Symbol('s'),
    () => 10n,
  ])()
}

/** A call that fits the signature, with arenas that may be wrong. */
function shaped(name: string): unknown[] {
  const bytes = () => new Uint8Array(random(40)).fill(random(256))
  const count = () => oneOf([0, 1, 2, 3, 5, 100])
  const deletes = () => oneOf([null, new Uint8Array(random(6)).fill(1)])
  switch (name) {
    case 'multiGet':
      return [store, bytes(), offsets(), count(), bytes(), new Uint32Array(random(8)), new Uint8Array(random(8))]
    case 'write':
      return [store, bytes(), offsets(), bytes(), offsets(), count(), deletes()]
    case 'writeAndCheckpoint': {
      const directory = join(root, `image-${directories++}`)
      return [store, bytes(), offsets(), bytes(), offsets(), count(), deletes(), directory, oneOf([0, 1 << 30])]
    }
    case 'scanOpen':
    case 'deleteRange':
      return [store, bytes(), oneOf([bytes(), null])]
    case 'scanNext':
      return [scan, bytes(), offsets(), bytes(), offsets(), random(100), new Uint32Array(random(6))]
    default:
      return [argument()]
  }
}

function call(name: string, body: (...args: unknown[]) => unknown, args: unknown[]): void {
  try {
    const result = body(...args)
    if (result instanceof Promise) pending.push(result.catch(check))
    else if (name === 'scanOpen') scan = result as typeof scan
  } catch (error) {
    check(error)
  }
}

function check(error: unknown): void {
  assert.ok(error instanceof Error && 'code' in error, String(error))
  assert.match(String(error.code), /^(ADDON_|STORE_|LOCK_)/)
  codes.add(String(error.code))
}

for (let round = 0; round < rounds; round++) {
  const [name, body] = oneOf(functions)
  // Stores and locks are opened in their own way below.
  if (name === 'open' || name === 'lockFile') {
    if (round % 50 === 0) call(name, body, [argument(), {}, argument()])
    continue
  }
  const args = random(3) === 0 ? Array.from({ length: random(10) }, argument) : shaped(name)
  // Closing the good handles all the time would leave only dead ones to test.
  if (name === 'close' && random(20) !== 0) continue
  call(name, body, args)
  if (round % 64 === 0) {
    if (random(2) === 0) await Promise.all(pending.splice(0))
    if (random(4) === 0) addon.close(store)
    store = addon.open(join(root, `db-${databases++}`), false, 4 << 20)
    scan = addon.scanOpen(store, new Uint8Array(), null)
  }
}
await Promise.all(pending)

const ok = addon.open(join(root, 'last'), false, 4 << 20)
addon.write(ok, Buffer.from('k'), Uint32Array.of(0, 1), Buffer.from('v'), Uint32Array.of(0, 1), 1, null)
const out = new Uint8Array(1)
assert.equal(
  addon.multiGet(ok, Buffer.from('k'), Uint32Array.of(0, 1), 1, out, new Uint32Array(2), new Uint8Array(1)),
  1,
)
assert.equal(out[0], 'v'.charCodeAt(0))
addon.close(ok)
assert.ok(codes.has('ADDON_ARGUMENT') && codes.has('ADDON_CLOSED'), [...codes].join())
codes = new Set()
console.log('survived')
