/**
 * Streaming or batch execution; given to `env.setRuntimeMode`.
 *
 * Batch jobs run on the same tasks as streams: what differs is that no watermark comes before the end of input,
 * and that operators which refine results emit only the last ones.
 */
import { MillraceError } from '../core/errors.ts'
import type { RuntimeMode } from '../runtime/launcher-types.ts'

/** Flink's class of the same name. */
export const RuntimeExecutionMode = { STREAMING: 'streaming', BATCH: 'batch', AUTOMATIC: 'automatic' } as const
export type RuntimeExecutionMode = (typeof RuntimeExecutionMode)[keyof typeof RuntimeExecutionMode]

/** The mode of a job with these unbounded sources. Throws `BATCH_UNBOUNDED`. */
export function runtimeModeOf(mode: RuntimeExecutionMode, unboundedSources: readonly string[]): RuntimeMode {
  const [endless] = unboundedSources
  if (mode === 'streaming') return 'streaming'
  if (endless === undefined) return 'batch'
  if (mode === 'automatic') return 'streaming'
  throw new MillraceError('BATCH_UNBOUNDED', `The source "${endless}" never ends, so a batch job over it would not.`, {
    hint: 'Bound the source, or use RuntimeExecutionMode.STREAMING or AUTOMATIC.',
  })
}
