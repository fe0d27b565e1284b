/** The micro benchmark runs, and all ways of gathering give the same bytes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { gatherStrings } from '../../engine/core/strings.ts'
import { benchGather, gatherByBytes, stringsOf, wasmGather } from './strings.ts'

test('all ways of gathering agree', () => {
  const wasm = wasmGather()
  for (const length of [1, 7, 8, 16, 17, 40]) {
    const strings = stringsOf(100, length)
    const { bytes, starts, ends, rows } = strings
    const plain = new Uint8Array(bytes.length)
    const words = new Uint8Array(bytes.length)
    assert.equal(gatherByBytes(strings, plain), bytes.length)
    assert.equal(gatherStrings(bytes, starts, ends, rows, rows.length, words, 0), bytes.length)
    wasm.load(strings)
    assert.deepEqual(words, plain)
    assert.deepEqual(new Uint8Array(wasm.gather()), plain)
  }
})

test('the benchmark runs', () => {
  for (const ns of Object.values(benchGather(17, 1))) assert.ok(ns >= 0)
})
