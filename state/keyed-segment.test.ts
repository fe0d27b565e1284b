/**
 * Tests of one segment in memory: equal hashes, removal from the index, arena compaction, memory that
 * stays flat, and what a scan hands out.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import type { KeyColumn } from '../engine/core/batch.ts'
import { newSegmentMemory, type SegmentMemory } from './keyed-flags.ts'
import { Segment } from './keyed-segment.ts'
import type { SegmentShared } from './keyed-slots.ts'

function columnOf(keys: readonly string[], hashOf: (key: string) => number): KeyColumn {
  const bytes = Buffer.from(keys.join(''))
  const starts = new Int32Array(keys.length)
  const ends = new Int32Array(keys.length)
  let at = 0
  keys.forEach((key, i) => {
    starts[i] = at
    at += Buffer.byteLength(key)
    ends[i] = at
  })
  return { bytes, starts, ends, hashes: Int32Array.from(keys.map(hashOf)) }
}

function segmentOf(): { segment: Segment; memory: SegmentMemory } {
  const memory = newSegmentMemory()
  const shared: SegmentShared = {
    operatorId: 0,
    stateId: 0,
    composite: false,
    cut: { bytes: 0 },
    clears: { segments: 0 },
    clearedEntriesMax: 256,
    encoded: { bytesMean: 64, objects: 0 },
    isExpired: null,
    tableName: 'test',
    layout: { kind: 'doubles', initial: [0] },
    keyGroups: { from: 0, to: 8, total: 8 },
    // A complete segment never asks its store; null makes a call fail loudly.
    store: null as unknown as KeyedStore,
    counters: { lateDropped: 0, filtered: 0, coldReads: 0 },
    memory,
    memoryBudgetBytes: Number.POSITIVE_INFINITY,
    coldKeysBytesMax: 1 << 20,
  }
  return { segment: new Segment(0, shared, true), memory }
}

test('keys with equal hashes are told apart, through removals in any order', () => {
  const step = fc.record({
    keys: fc.array(fc.integer({ min: 0, max: 120 }), { minLength: 1, maxLength: 30 }),
    remove: fc.array(fc.integer({ min: 0, max: 120 }), { maxLength: 12 }),
    buckets: fc.constantFrom(1, 2, 7, 1_000),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), fc.constantFrom(1, 3, 64), (steps, spread) => {
      const { segment } = segmentOf()
      const model = new Map<string, number>()
      const name = (n: number) => `k${n % 3 === 0 ? 'long-enough-to-differ-in-length-'.repeat(2) : ''}${n}`
      const hashOf = (key: string) => Number(key.replace(/\D/g, '')) % spread
      for (const { keys, remove } of steps) {
        const names = keys.map(name)
        const slots = new Int32Array(names.length)
        segment.upsert(columnOf(names, hashOf), null, names.length, slots)
        names.forEach((key, j) => {
          segment.doubles[0][slots[j]] += 1
          model.set(key, (model.get(key) ?? 0) + 1)
        })
        const gone = [...new Set(remove)].map(name)
        const found = new Int32Array(gone.length)
        segment.find(columnOf(gone, hashOf), null, gone.length, found)
        gone.forEach((key, j) => {
          assert.equal(found[j] >= 0, model.has(key))
          if (found[j] >= 0) segment.remove(found[j])
          model.delete(key)
        })
        const all = [...model.keys()]
        const at = new Int32Array(all.length)
        segment.find(columnOf(all, hashOf), null, all.length, at)
        assert.deepEqual(
          all.map((_, j) => segment.doubles[0][at[j]]),
          [...model.values()],
        )
        assert.equal(segment.liveCount, model.size)
      }
    }),
    { numRuns: 200 },
  )
})

test('rows select and repeat keys; a fresh slot holds the initial values again after reuse', () => {
  const { segment } = segmentOf()
  const keys = columnOf(['a', 'b', 'c'], (key) => key.charCodeAt(0))
  const slots = new Int32Array(4)
  segment.upsert(keys, Int32Array.from([2, 0, 2, 2]), 4, slots)
  assert.equal(slots[0], slots[2])
  assert.equal(slots[0], slots[3])
  assert.notEqual(slots[0], slots[1])
  segment.doubles[0][slots[0]] = 5
  segment.remove(slots[0])
  segment.find(keys, null, 3, slots)
  assert.deepEqual([slots[0] >= 0, slots[1], slots[2]], [true, -1, -1])
  segment.upsert(keys, Int32Array.from([1]), 1, slots)
  assert.equal(segment.doubles[0][slots[0]], 0)
})

test('memory stays flat while keys come and go', () => {
  const { segment, memory } = segmentOf()
  const slots = new Int32Array(500)
  let highest = 0
  for (let round = 0; round < 400; round++) {
    const keys = columnOf(
      Array.from({ length: 500 }, (_, i) => `round-${round}-key-${i}`),
      (key) => Math.imul(key.length + Number(key.slice(-3).replace(/\D/g, '')), 0x85ebca6b) ^ round,
    )
    segment.upsert(keys, null, 500, slots)
    for (const slot of new Set(slots)) segment.remove(slot)
    if (round === 20) highest = memory.arrayBytes
  }
  assert.equal(segment.liveCount, 0)
  assert.ok(memory.arrayBytes <= highest * 1.5, `${memory.arrayBytes} bytes, ${highest} early on`)
})
