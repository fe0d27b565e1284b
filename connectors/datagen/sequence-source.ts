/**
 * The numbers from one to another: Flink's NumberSequenceSource, behind `env.fromSequence`.
 *
 * Splits are runs of numbers, read one after the other, so that one subtask gives all numbers in order and
 * several share the work. A split's position is the next number.
 */
import type { Source, SourcePoll, SourceReader, SplitState } from '../../engine/contract/source.ts'
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import { BatchBuilder } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema } from '../../engine/core/schema.ts'

/** Most subtasks that share the work. */
const SPLITS_MAX = 64

/** The whole numbers from `from` to `to`, both included; none when `to` is smaller. Throws `OPTION_INVALID`. */
export function sequenceSource(from: number, to: number): Source<number> {
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to) || !Number.isSafeInteger(to - from)) {
    throw new MillraceError('OPTION_INVALID', `There is no sequence from ${from} to ${to}.`, {
      hint: 'Give whole numbers up to 2^53 - 1.',
    })
  }
  const count = Math.max(0, to - from + 1)
  const splits = Math.min(SPLITS_MAX, count)
  const startOf = (split: number): number => from + Math.floor((count / splits) * split)
  return {
    kind: 'sequence',
    schema: OPAQUE_SCHEMA as Schema<number>,
    boundedness: 'bounded',
    // The end is part of the name: a split of another sequence is another split.
    splits: async () =>
      Array.from({ length: splits }, (_, split) => {
        const end = split + 1 === splits ? to + 1 : startOf(split + 1)
        return { id: `${startOf(split)}-${end}`, position: { next: startOf(split), end } }
      }),
    createReader: () => new SequenceReader(),
  }
}

class SequenceReader implements SourceReader {
  private readonly builder = new BatchBuilder(OPAQUE_SCHEMA)
  private splits: { readonly id: string; next: number; readonly end: number }[] = []

  async open(splits: readonly SplitState[]): Promise<void> {
    this.splits = splits.map(({ id, position }) => ({ id, ...(position as { next: number; end: number }) }))
  }

  poll(rowsMax: number): SourcePoll {
    const split = this.splits.find(({ next, end }) => next < end)
    if (split === undefined) return { kind: 'end' }
    const to = Math.min(split.end, split.next + Math.min(rowsMax, BATCH_ROWS_MAX))
    for (; split.next < to; split.next++) this.builder.append(split.next, Number.NaN)
    return { kind: 'batch', split: split.id, batch: this.builder.build() }
  }

  snapshot(): readonly SplitState[] {
    return this.splits.map(({ id, next, end }) => ({ id, position: { next, end } }))
  }

  async close(): Promise<void> {}
}
