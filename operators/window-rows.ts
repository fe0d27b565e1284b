/**
 * What every window operator does with rows apart from aggregating them: it puts late ones aside, and refuses
 * rows without event time and state of other windows.
 */
import type { OperatorContext, Output } from '../engine/contract/operator.ts'
import type { Trigger, WindowAssigner } from '../engine/contract/windows.ts'
import { BATCH_ROWS_MAX, type Batch, gatherBatch, withKeys } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import type { JsonValue } from '../engine/core/json-value.ts'
import { asyncFunctionError, isPromise } from './user-function.ts'

/** The rows of a batch that no window takes any more. */
export class LateRows {
  private readonly tag: string | null
  private readonly rows = new Int32Array(BATCH_ROWS_MAX)
  private count = 0

  /** Without a tag late rows are only counted, as `lateDropped`. */
  constructor(tag: string | null) {
    this.tag = tag
  }

  add(row: number): void {
    this.rows[this.count++] = row
  }

  /** Sends the rows on that were added since, or counts them. */
  emit(batch: Batch, context: OperatorContext, output: Output): void {
    if (this.count === 0) return
    if (this.tag === null) context.counters.lateDropped += this.count
    else output.emitSide(this.tag, gatherBatch(withKeys(batch, null), this.rows, this.count))
    this.count = 0
  }
}

/** Throws `WINDOW_INVALID` on a negative lateness. */
export function checkLateness(latenessMs: number): void {
  if (latenessMs >= 0) return
  throw new MillraceError('WINDOW_INVALID', `Allowed lateness cannot be ${latenessMs} ms.`, { hint: 'Give 0 or more.' })
}

export function timestampMissing(operatorName: string): MillraceError {
  return new MillraceError(
    'TIMESTAMP_MISSING',
    `Operator ${JSON.stringify(operatorName)} got a row without event time.`,
    {
      hint: 'Give the source a WatermarkStrategy with a timestamp assigner, or call assignTimestampsAndWatermarks before the window.',
    },
  )
}

export function assignedInvalid(operatorName: string, assigner: WindowAssigner, assigned: unknown): MillraceError {
  if (isPromise(assigned)) return asyncFunctionError(operatorName)
  return new MillraceError(
    'WINDOW_INVALID',
    `The assigner ${assigner} of operator ${JSON.stringify(operatorName)} gave ${String(assigned)} for an element.`,
    { hint: 'Return an array of TimeWindow from assignWindows; an empty one leaves the element out.' },
  )
}

export function triggerResultInvalid(operatorName: string, trigger: Trigger, result: unknown): MillraceError {
  if (isPromise(result)) return asyncFunctionError(operatorName)
  return new MillraceError(
    'TRIGGER_RESULT_INVALID',
    `The trigger ${trigger} of operator ${JSON.stringify(operatorName)} returned ${String(result)}.`,
    { hint: 'Return TriggerResult.CONTINUE, FIRE, PURGE or FIRE_AND_PURGE from each of its methods.' },
  )
}

/** Throws `STATE_INCOMPATIBLE` when restored windows were cut or aggregated in another way. */
export function refuseOtherWindows(context: OperatorContext, signature: string): void {
  for (const state of context.restored) {
    const saved = (state as { signature?: JsonValue }).signature
    if (saved === signature) continue
    throw new MillraceError(
      'STATE_INCOMPATIBLE',
      `The windows of operator ${JSON.stringify(context.name)} ${changeOf(String(saved), signature)}.`,
      { hint: 'Keep the windows and aggregates, or give the operator another uid to start it empty.' },
    )
  }
}

const COLUMNS = ' columns '

/** Names the columns of built-in aggregates that came or went, where nothing else changed. */
function changeOf(saved: string, now: string): string {
  const [windowsBefore, columnsBefore] = saved.split(COLUMNS)
  const [windowsNow, columnsNow] = now.split(COLUMNS)
  if (windowsBefore !== windowsNow || columnsBefore === undefined || columnsNow === undefined) {
    return `were saved as ${saved}, but are now ${now}`
  }
  const before = columnsBefore.split(',')
  const after = columnsNow.split(',')
  const added = after.filter((column) => !before.includes(column))
  const removed = before.filter((column) => !after.includes(column))
  const parts = [
    added.length === 0 ? '' : `keep ${added.join(' and ')} now, of which the saved ones know nothing`,
    removed.length === 0 ? '' : `were saved with ${removed.join(' and ')}, which no aggregate asks for any more`,
    added.length + removed.length > 0 ? '' : 'keep the same columns in another order',
  ]
  return parts.filter((part) => part !== '').join(', and ')
}
