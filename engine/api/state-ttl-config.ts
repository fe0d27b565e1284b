/**
 * Time to live of state: Flink's StateTtlConfig, for descriptors' `enableTimeToLive`.
 */
import type { StateTtl } from '../contract/functions.ts'
import { MillraceError } from '../core/errors.ts'
import { type Duration, toMs } from '../core/time.ts'

/**
 * `StateTtlConfig.newBuilder(days(7)).setUpdateType('OnReadAndWrite').build()`. Time is processing time. The
 * defaults are Flink's: writing counts as use, and what has expired is never returned. Expired entries are left
 * out of checkpoints and restores, and removed in the background. Each entry of a map and each value of a list
 * lives by itself.
 */
export class StateTtlConfig implements StateTtl {
  readonly timeToLiveMs: number
  readonly updateType: StateTtl['updateType']
  readonly stateVisibility: StateTtl['stateVisibility']

  private constructor(ttl: StateTtl) {
    this.timeToLiveMs = ttl.timeToLiveMs
    this.updateType = ttl.updateType
    this.stateVisibility = ttl.stateVisibility
  }

  /** Milliseconds, or a duration. Throws `TTL_INVALID`. */
  static newBuilder(timeToLive: Duration | number): StateTtlConfigBuilder {
    const timeToLiveMs = toMs(timeToLive)
    if (!(timeToLiveMs > 0)) {
      throw new MillraceError('TTL_INVALID', `A time to live of ${timeToLiveMs} ms is not possible.`, {
        hint: 'Give more than 0 milliseconds, for example hours(1).',
      })
    }
    return new StateTtlConfigBuilder({
      timeToLiveMs,
      updateType: 'OnCreateAndWrite',
      stateVisibility: 'NeverReturnExpired',
    })
  }

  /** @internal */
  static of(ttl: StateTtl): StateTtlConfig {
    return new StateTtlConfig(ttl)
  }
}

export class StateTtlConfigBuilder {
  private ttl: StateTtl

  /** @internal */
  constructor(ttl: StateTtl) {
    this.ttl = ttl
  }

  /** Whether reading an entry makes it live longer, or only writing. */
  setUpdateType(updateType: StateTtl['updateType']): this {
    this.ttl = { ...this.ttl, updateType }
    return this
  }

  /** Whether an expired entry that is still there may be returned once more. */
  setStateVisibility(stateVisibility: StateTtl['stateVisibility']): this {
    this.ttl = { ...this.ttl, stateVisibility }
    return this
  }

  build(): StateTtlConfig {
    return StateTtlConfig.of(this.ttl)
  }
}
