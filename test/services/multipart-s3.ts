/**
 * Uploads in parts against a real S3 server, through a proxy that loses requests and replies: what is there afterwards
 * is the whole content or nothing, parts that arrived are not sent again, and nothing stays behind.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { sweepLeftovers } from '../../engine/checkpoint/gc.ts'
import { objectDisk } from '../../engine/checkpoint/object-disk.ts'
import { manifestOf } from '../../engine/checkpoint/testing-manifest.ts'
import { nodeIo } from '../../engine/runtime/node-io.ts'
import { s3SettingsOf } from '../../engine/runtime/s3-client.ts'
import { S3ObjectStore } from '../../engine/runtime/s3-object-store.ts'
import { type S3Proxy, startProxy } from './s3-proxy.ts'
import { type S3Server, startS3 } from './s3-server.ts'

/** The least that S3 takes. */
const PART_BYTES = 5 << 20
const SIZE = 4 * PART_BYTES + 123_457

const folder = mkdtempSync(join(tmpdir(), 'millrace-parts-'))
const path = join(folder, 'file')
const bytes = randomBytes(SIZE)
let server: S3Server
let proxy: S3Proxy
let content: { readonly sha256: string; readonly size: number }

before(async () => {
  server = await startS3()
  proxy = await startProxy(server.endpoint)
  writeFileSync(path, bytes)
  content = await nodeIo.disk.hash(path)
})
after(async () => {
  await proxy?.stop()
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})
beforeEach(() => {
  proxy.requests.length = 0
  proxy.fate = () => 'answered'
})

function storeOf(): S3ObjectStore {
  const env = { ...server.env, AWS_ENDPOINT_URL_S3: proxy.endpoint }
  return new S3ObjectStore(s3SettingsOf(server.url, env), nodeIo, { partBytes: PART_BYTES })
}

const isPart = (request: string): boolean => request.includes('partNumber=')
const isCompletion = (request: string): boolean => request.startsWith('POST') && request.includes('uploadId=')
const isAbort = (request: string): boolean => request.startsWith('DELETE') && request.includes('uploadId=')
const partNumbers = (): number[] =>
  proxy.requests.filter(isPart).map((request) => Number(/partNumber=(\d+)/.exec(request)![1]))

let files = 0

/** The object is there, and nothing unfinished is beside it. */
async function isWhole(store: S3ObjectStore, key: string): Promise<void> {
  const back = join(folder, `back-${files++}`)
  assert.deepEqual(await store.download(key, back), content)
  assert.ok(readFileSync(back).equals(bytes))
  assert.equal(await store.dropUnfinished(key), 0)
}

test('a large file goes up in parts, a file of one part in one request', async () => {
  const store = storeOf()
  await store.upload('whole/large', path, content)
  assert.deepEqual(partNumbers().sort(), [1, 2, 3, 4, 5])
  await isWhole(store, 'whole/large')
  // The same bytes once more are no error.
  await store.upload('whole/large', path, content)
  await isWhole(store, 'whole/large')

  proxy.requests.length = 0
  const small = join(folder, 'small')
  writeFileSync(small, bytes.subarray(0, PART_BYTES))
  await store.upload('whole/small', small, await nodeIo.disk.hash(small))
  assert.equal(proxy.requests.length, 1)
  assert.equal(await store.size('whole/small'), PART_BYTES)
})

for (const fate of ['refused', 'busy', 'lost'] as const) {
  test(`a part whose request is ${fate}: the next try sends what is missing`, async () => {
    const store = storeOf()
    let left = 1
    proxy.fate = (request) => (request.includes('partNumber=2&') && left-- > 0 ? fate : 'answered')
    await assert.rejects(store.upload(`part/${fate}`, path, content), {
      code: 'OBJECT_STORE_UNAVAILABLE',
      retryable: true,
    })
    assert.equal(await store.size(`part/${fate}`), null)
    const arrived = new Set(partNumbers())
    arrived.delete(2)
    proxy.requests.length = 0
    await store.upload(`part/${fate}`, path, content)
    assert.deepEqual(
      partNumbers().sort(),
      [1, 2, 3, 4, 5].filter((number) => !arrived.has(number)),
    )
    assert.ok(!proxy.requests.some((request) => request.endsWith('?uploads=')), 'a second upload was begun')
    await isWhole(store, `part/${fate}`)
  })
}

test('a completion without an answer: the next try leaves the object whole', async () => {
  const store = storeOf()
  for (const fate of ['refused', 'lost'] as const) {
    let left = 1
    proxy.fate = (request) => (isCompletion(request) && left-- > 0 ? fate : 'answered')
    const key = `completion/${fate}`
    await assert.rejects(store.upload(key, path, content), { code: 'OBJECT_STORE_UNAVAILABLE', retryable: true })
    assert.equal((await store.size(key)) === null, fate === 'refused')
    // Through the disk, which tries again: a server may have forgotten an upload that it completed.
    const disk = objectDisk({ ...nodeIo, local: nodeIo.disk, open: async () => store })
    await disk.link(path, `${server.url}/${key}`, content)
    await isWhole(store, key)
  }
})

test('a file that is not what was hashed, and an upload that is refused, leave nothing', async () => {
  const store = storeOf()
  const other = { ...content, sha256: '0'.repeat(64) }
  await assert.rejects(store.upload('wrong/hash', path, other), { code: 'STATE_FILE_CORRUPT', retryable: false })
  await assert.rejects(store.upload('wrong/size', path, { ...content, size: SIZE + 1 }), { code: 'STATE_FILE_CORRUPT' })
  assert.deepEqual(proxy.requests, [])

  // Parts below S3's own limit are refused at the end.
  const small = new S3ObjectStore(s3SettingsOf(server.url, server.env), nodeIo, { partBytes: PART_BYTES >> 1 })
  await assert.rejects(small.upload('wrong/parts', path, content), {
    code: 'OBJECT_STORE_REFUSED',
    message: /EntityTooSmall/,
  })
  assert.equal(await small.size('wrong/parts'), null)
  assert.equal(await store.dropUnfinished('wrong/'), 0)
})

test('what nobody comes back for is dropped: by the process when it is too much, by its successor otherwise', async () => {
  const store = storeOf()
  const small = join(folder, 'two-parts')
  writeFileSync(small, bytes.subarray(0, PART_BYTES + 1))
  const two = await nodeIo.disk.hash(small)
  proxy.fate = (request) => (isCompletion(request) ? 'busy' : 'answered')
  for (let i = 0; i < 10; i++) await assert.rejects(store.upload(`job/shared/${i}`, small, two))
  await assert.rejects(store.upload('job2/shared/x', small, two))
  assert.equal(proxy.requests.filter(isAbort).length, 3)

  proxy.fate = () => 'answered'
  const disk = objectDisk({ ...nodeIo, local: nodeIo.disk, open: async () => storeOf() })
  await sweepLeftovers(disk, `${server.url}/job`, manifestOf({}), join(folder, 'live'))
  assert.equal(await store.dropUnfinished('job/'), 0)
  assert.equal(await store.dropUnfinished('job2/'), 1, 'another job keeps its uploads')

  // Who still was at one of them begins anew.
  await assert.rejects(store.upload('job/shared/9', small, two), { retryable: true, message: /NoSuchUpload/ })
  await store.upload('job/shared/9', small, two)
  assert.deepEqual(await store.download('job/shared/9', join(folder, 'nine')), two)
})

test('manifests stay single conditional requests, whatever their size', async () => {
  const store = storeOf()
  const outcomes = await Promise.all([1, 2].map(() => store.put('manifest', bytes, { ifAbsent: true })))
  assert.deepEqual(outcomes.sort(), [false, true])
  assert.deepEqual(new Set(proxy.requests), new Set(['PUT /checkpoints/manifest']))
})
