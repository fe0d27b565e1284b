/**
 * What happens after a failure. Given to `env.setRestartStrategy`.
 */
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'
import type { RestartStrategy } from '../runtime/launcher-types.ts'

export const RestartStrategies = {
  /** A failure ends the job. */
  noRestart: (): RestartStrategy => ({ attempts: 0, delayMs: 0 }),
  /** At most `attempts` restarts from the last checkpoint, `delay` apart. Throws `RESTART_INVALID`. */
  fixedDelayRestart(attempts: number, delay: Duration | number): RestartStrategy {
    const delayMs = toMs(delay)
    const isCount = attempts === Number.POSITIVE_INFINITY || Number.isInteger(attempts)
    if (!isCount || attempts < 0 || !(delayMs >= 0)) {
      throw new MillraceError('RESTART_INVALID', `${attempts} restarts, ${delayMs} ms apart, are not possible.`, {
        hint: 'Give a whole number of attempts (or Infinity) and a delay of 0 or more.',
      })
    }
    return { attempts, delayMs }
  },
} as const
