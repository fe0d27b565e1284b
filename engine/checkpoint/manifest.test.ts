/**
 * Manifests: a round trip, and every torn or altered one recognised.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeManifest, encodeManifest, type Manifest, manifestName, manifestNumber } from './manifest.ts'
import { manifestOf } from './testing-manifest.ts'

const manifest: Manifest = manifestOf({
  number: 12,
  parent: 11,
  operators: [
    {
      uid: 'counts',
      name: 'zählt €',
      operatorId: 3,
      parallelism: 2,
      isKeyed: true,
      states: [null, { timers: [1, 2] }],
      tables: [{ id: 0, name: 'totals', version: 1, layout: 'doubles 2' }],
    },
  ],
  sources: [{ uid: 'in', splits: [{ id: 'a', position: { offset: 7 }, watermark: 1.5, idle: false }] }],
  stores: [{ worker: 0, files: [{ name: '000001.sst', sha256: 'ab'.repeat(32), size: 9 }] }],
  sinks: [{ id: 'out', kind: 'files', marker: 4 }],
  pending: [{ epoch: 5, sink: 'out', committables: [{ file: 'outbox/x.seg', crc32: 1 }] }],
})

test('comes back as it was', () => {
  assert.deepEqual(decodeManifest(encodeManifest(manifest), 'm'), manifest)
})

test('is refused when cut off anywhere', () => {
  const bytes = encodeManifest(manifest)
  for (let length = 0; length < bytes.length; length++) {
    assert.throws(() => decodeManifest(bytes.subarray(0, length), 'm'), { code: 'MANIFEST_CORRUPT' })
  }
})

test('is refused when any byte is altered', () => {
  const bytes = encodeManifest(manifest)
  for (let i = 0; i < bytes.length; i++) {
    for (const flip of [0x01, 0x20, 0x80]) {
      const altered = Uint8Array.from(bytes)
      altered[i]! ^= flip
      assert.throws(() => decodeManifest(altered, 'm'), { code: 'MANIFEST_CORRUPT' }, `byte ${i} by ${flip}`)
    }
  }
  assert.throws(() => decodeManifest(Buffer.concat([bytes, Buffer.from('\n')]), 'm'), { code: 'MANIFEST_CORRUPT' })
})

test('of another format says which version reads it', () => {
  const other = encodeManifest({ ...manifest, format: 99 })
  assert.throws(() => decodeManifest(other, 'm'), { code: 'MANIFEST_FORMAT', message: /99/ })
})

test('names are numbers with twelve digits', () => {
  assert.equal(manifestName(7), '000000000007.json')
  assert.equal(manifestNumber(manifestName(123_456)), 123_456)
  for (const name of ['7.json', '000000000007.json.tmp', '000000000007.corrupt'])
    assert.equal(manifestNumber(name), null)
})
