/** Pieces of a cut: when they are sent, when subtasks wait, and what a failure does to this cut and the next. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { KeyedStore, WriteBatch } from '../contract/keyed-store.ts'
import { CutPieces } from './cut-pieces.ts'

const PIECE_BYTES = 64

/** A store that takes a batch when it is told to. */
function slowStore() {
  const taken: number[] = []
  const waiting: { resolve: () => void; reject: (error: Error) => void }[] = []
  const store = {
    writeInBackground(batch: WriteBatch) {
      taken.push(batch.keys.count)
      return new Promise<void>((resolve, reject) => waiting.push({ resolve, reject }))
    },
  } as unknown as KeyedStore
  return { store, taken, next: () => waiting.shift()! }
}

const ROW = new Uint8Array(16)

function addRows(pieces: CutPieces, rows: number): void {
  for (let i = 0; i < rows; i++) {
    pieces.builder.keys.add(ROW, 0, ROW.length)
    pieces.builder.endPut()
  }
}

test('a full piece is sent, one at a time, and only a second full one makes subtasks wait', async () => {
  const { store, taken, next } = slowStore()
  const pieces = new CutPieces(store, PIECE_BYTES)
  addRows(pieces, 3)
  pieces.send()
  assert.deepEqual([taken, pieces.room()], [[], null])
  addRows(pieces, 1)
  pieces.send()
  assert.deepEqual([taken, pieces.builder.count, pieces.room()], [[4], 0, null])
  addRows(pieces, 5)
  pieces.send()
  assert.deepEqual(taken, [4], 'the first is still on its way')
  const room = pieces.room()
  assert.ok(room !== null)
  next().resolve()
  await room
  pieces.send()
  assert.deepEqual(taken, [4, 5])
  addRows(pieces, 1)
  next().resolve()
  addRows(pieces, 3)
  const rest = pieces.close()
  pieces.send()
  assert.equal((await rest).keys.count, 4, 'what is left goes with the image, however much it is')
  pieces.end()
  assert.equal(pieces.builder.count, 0)
})

test('a piece that fails ends its cut, not the next', async () => {
  const { store, taken, next } = slowStore()
  const pieces = new CutPieces(store, PIECE_BYTES)
  addRows(pieces, 4)
  pieces.send()
  next().reject(new Error('no space'))
  await pieces.settled()
  addRows(pieces, 4)
  pieces.send()
  assert.deepEqual([taken, pieces.builder.count], [[4], 0], 'what is lost anyway takes no memory')
  await assert.rejects(pieces.close(), /no space/)
  pieces.end()

  addRows(pieces, 4)
  pieces.send()
  pieces.end()
  next().reject(new Error('too late to matter'))
  await pieces.settled()
  addRows(pieces, 4)
  pieces.send()
  next().resolve()
  await pieces.close()
  assert.deepEqual(taken, [4, 4, 4])
})
