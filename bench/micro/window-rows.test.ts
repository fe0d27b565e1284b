/** The benchmark runs, on tiny inputs: the list's checkpoints grow with the window, those of pieces do not. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runWork } from './window-rows.ts'

test('benchmark of windows that keep their rows', () => {
  const [list, pieces] = [runWork('list', 4, 2, 10), runWork('pieces', 4, 2, 10)]
  assert.ok(list[1]!.bytes > 1.8 * list[0]!.bytes, 'a list is written whole')
  assert.ok(pieces[1]!.bytes < 1.5 * pieces[0]!.bytes, 'pieces are written once')
})
