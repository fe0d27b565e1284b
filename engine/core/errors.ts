/**
 * The one error type that users of Millrace see.
 *
 * Every failure says who can act on it (`domain`), what happened (`message`), what to do next
 * (`hint`) and whether trying again can help (`retryable`). Invariant violations inside the engine
 * are `internal` errors raised by `assert` (assert.ts); what a user typed never trips an assert.
 */

/** Who has to act: the author of the job, the operator of an outside system, or Millrace's authors. */
export type ErrorDomain = 'user' | 'external' | 'internal'

export interface MillraceErrorOptions {
  readonly domain?: ErrorDomain
  /** What to do next, a full sentence. */
  readonly hint?: string
  readonly retryable?: boolean
  readonly cause?: unknown
}

export class MillraceError extends Error {
  /** Stable identifier in SCREAMING_SNAKE_CASE, fit for tests and alerts. */
  readonly code: string
  readonly domain: ErrorDomain
  readonly hint: string | undefined
  readonly retryable: boolean

  constructor(code: string, message: string, options: MillraceErrorOptions = {}) {
    super(options.hint === undefined ? message : `${message} ${options.hint}`, { cause: options.cause })
    this.name = 'MillraceError'
    this.code = code
    this.domain = options.domain ?? 'user'
    this.hint = options.hint
    this.retryable = options.retryable ?? false
  }
}

/** The message of anything that was thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown)
}
