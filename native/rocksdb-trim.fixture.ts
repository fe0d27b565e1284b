/**
 * A program of rocksdb-addon.test.ts: leaves holes in the C library's heap, has them given back, and prints by
 * how many MiB the process shrank. Needs --expose-gc.
 */
import { loadRocksdbAddon } from '../state/rocksdb-addon.ts'

const HOLES = 800
/** Small enough not to be a mapping of its own. */
const HOLE_BYTES = 100 << 10

const addon = loadRocksdbAddon()
let buffers = Array.from({ length: HOLES }, () => new Uint8Array(HOLE_BYTES).fill(1))
// The last one lies above the others and keeps the heap from shrinking by itself.
buffers = buffers.slice(-1)
globalThis.gc!()
// Freed by another thread of V8.
while (process.memoryUsage().arrayBuffers > (HOLES / 10) * HOLE_BYTES)
  await new Promise((resolve) => setTimeout(resolve, 5))
const before = process.memoryUsage().rss
addon.trimHeap?.()
console.log(buffers.length === 1 ? Math.round((before - process.memoryUsage().rss) / (1 << 20)) : Number.NaN)
