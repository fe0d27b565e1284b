/**
 * Changelogs between subtasks: whatever the room, each channel gets its changes in order, pairs whole and halves of
 * pairs as changes of their own.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Batch, withKinds } from '../core/batch.ts'
import { fieldKeyExtractor, subtaskOfKeyGroup } from '../core/keys.ts'
import { isRetraction, RowKind } from '../core/row-kinds.ts'
import { batchOfRows, rowReader } from '../core/rows.ts'
import { schema, t } from '../core/schema.ts'
import { StringInterner } from '../core/strings.ts'
import { LocalChannel, type Message } from './channel.ts'
import { OutputRouter } from './output-router.ts'

const KEY_GROUPS = 16
const CHANGE = schema({ key: t.int32(), id: t.int32() })

interface Change {
  readonly isPair: boolean
  readonly isDelete: boolean
  /** Of the second row of a pair. */
  readonly key: number
  readonly before: number
}

const anyChange: fc.Arbitrary<Change> = fc.record({
  isPair: fc.boolean(),
  isDelete: fc.boolean(),
  key: fc.nat(3),
  before: fc.nat(3),
})

function batchOf(changes: readonly Change[], firstId: number): Batch {
  const rows: { key: number; id: number }[] = []
  const kinds: number[] = []
  for (const { isPair, isDelete, key, before } of changes) {
    if (isPair) {
      rows.push({ key: before, id: firstId + rows.length })
      kinds.push(RowKind.UPDATE_BEFORE)
    }
    rows.push({ key, id: firstId + rows.length })
    kinds.push(isPair ? RowKind.UPDATE_AFTER : isDelete ? RowKind.DELETE : RowKind.INSERT)
  }
  return withKinds(batchOfRows(CHANGE, rows), Uint8Array.from(kinds))
}

/** All that a channel holds, a text a row; fails where a message parts a pair. */
function drain(channel: LocalChannel, isBatch: (message: Message) => void): string[] {
  const read = rowReader(CHANGE, new StringInterner(), 'drain')
  const seen: string[] = []
  for (let message = channel.peek(); message !== null; message = channel.peek()) {
    isBatch(message)
    if (message.kind === 'batch') {
      const { batch } = message
      const kinds = batch.kinds!
      for (let i = 0; i < batch.length; i++) {
        if (kinds[i] === RowKind.UPDATE_BEFORE) assert.equal(kinds[i + 1], RowKind.UPDATE_AFTER)
        if (kinds[i] === RowKind.UPDATE_AFTER) assert.equal(kinds[i - 1], RowKind.UPDATE_BEFORE)
        const { key, id } = read(batch, i) as { key: number; id: number }
        seen.push(`${isRetraction(kinds[i]!) ? '-' : '+'} ${key} ${id}`)
      }
    } else seen.push(message.kind)
    channel.pop()
  }
  return seen
}

test('pairs stay whole through parts, overflow and barriers', () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(anyChange, { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 6 }),
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 5 }),
      (batches, targets, rowsAllowed) => {
        const channels = Array.from(
          { length: targets },
          () =>
            new LocalChannel(
              1,
              () => {},
              () => {},
            ),
        )
        for (const channel of channels) channel.allow(rowsAllowed)
        const router = new OutputRouter([
          {
            partitioning: 'hash',
            keys: fieldKeyExtractor(CHANGE, 0),
            sideTag: null,
            writers: channels,
            keyGroups: KEY_GROUPS,
            subtask: 0,
          },
        ])
        const expected = channels.map((): string[] => [])
        const keys = fieldKeyExtractor(CHANGE, 0)
        const read = rowReader(CHANGE, new StringInterner(), 'expected')
        let pairs = 0
        batches.forEach((changes, b) => {
          const batch = batchOf(changes, b * 100)
          const { hashes } = keys(batch)
          for (let i = 0; i < batch.length; i++) {
            const target = subtaskOfKeyGroup((hashes[i]! >>> 0) % KEY_GROUPS, targets, KEY_GROUPS)
            const { key, id } = read(batch, i) as { key: number; id: number }
            expected[target]!.push(`${isRetraction(batch.kinds![i]!) ? '-' : '+'} ${key} ${id}`)
          }
          router.emit(batch)
          router.control({ kind: 'barrier', attempt: b })
          for (const rows of expected) rows.push('barrier')
        })
        const seen = channels.map((): string[] => [])
        const look = (message: Message): void => {
          if (message.kind === 'batch' && message.batch.kinds!.includes(RowKind.UPDATE_BEFORE)) pairs++
        }
        for (let settled = false; !settled; ) {
          channels.forEach((channel, k) => {
            seen[k]!.push(...drain(channel, look))
          })
          settled = router.flush()
        }
        channels.forEach((channel, k) => {
          seen[k]!.push(...drain(channel, look))
        })
        assert.deepEqual(seen, expected)
        if (targets === 1 && batches.flat().some((change) => change.isPair)) assert.ok(pairs > 0)
      },
    ),
  )
})
