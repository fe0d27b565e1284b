/**
 * Holds sources to what they promise (engine/contract/source.ts), so that a mistake in one is said where it is made
 * and never gets into a checkpoint. Used where splits are listed, polled and saved.
 */
import type { SplitState } from '../contract/source.ts'
import { MillraceError } from '../core/errors.ts'
import { checkJson } from '../core/json-value.ts'

/** Throws `SOURCE_INVALID` or `NOT_JSON` unless `splits` are splits, each with an id of its own. */
export function checkSplits(source: string, splits: readonly SplitState[]): readonly SplitState[] {
  if (!Array.isArray(splits))
    throw invalid(source, `its splits are ${kindOf(splits)}`, 'Resolve to an array of splits.')
  const ids = new Set<string>()
  for (const { id, position } of splits) {
    if (typeof id !== 'string') throw invalid(source, `the id of a split is ${kindOf(id)}`, 'Give each split a text.')
    if (ids.has(id)) throw invalid(source, `two splits have the id ${JSON.stringify(id)}`, 'Give each its own.')
    ids.add(id)
    checkPosition(source, id, position)
  }
  return splits
}

/** Throws `SOURCE_INVALID` or `NOT_JSON` unless `snapshot` gave positions of splits that the reader has. */
export function checkPositions(
  source: string,
  splits: readonly SplitState[],
  known: { has(id: string): boolean },
): void {
  for (const { id, position } of splits) {
    if (!known.has(id)) throw unknownSplit(source, 'snapshot', id)
    checkPosition(source, id, position)
  }
}

export function unknownSplit(source: string, method: string, id: unknown): MillraceError {
  const hint = `Name only splits that open or addSplits brought, by their ids.`
  return invalid(source, `${method} names the split ${JSON.stringify(id)}, which its reader does not have`, hint)
}

export function unknownPoll(source: string, polled: unknown): MillraceError {
  const hint = 'Return at once, with the kind batch, finished, pending or end.'
  return invalid(source, `poll gave ${kindOf((polled as { kind?: unknown } | undefined)?.kind ?? polled)}`, hint)
}

function checkPosition(source: string, id: string, position: unknown): void {
  checkJson(position, `The position of split ${JSON.stringify(id)} of ${JSON.stringify(source)}`)
}

/** What to call a value that should not be there. */
export function kindOf(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  return value instanceof Promise ? 'a promise' : value === null ? 'null' : typeof value
}

function invalid(source: string, what: string, hint: string): MillraceError {
  return new MillraceError(
    'SOURCE_INVALID',
    `The source ${JSON.stringify(source)} does not keep its promises: ${what}.`,
    {
      hint,
    },
  )
}
