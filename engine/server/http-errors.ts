/**
 * Turns whatever a route throws into the JSON error of the REST API: `{ code, message, hint }`.
 *
 * Called by server.ts and routes.ts. Invariant: no answer carries a stack trace or the message of an
 * unexpected exception; those go to the logger.
 */
import { type ErrorDomain, MillraceError } from '../core/errors.ts'

export interface ErrorBody {
  readonly code: string
  readonly message: string
  /** What to do next, or null. */
  readonly hint: string | null
}

/** An error that already knows its HTTP status. */
export class HttpError extends Error {
  readonly status: number
  readonly body: ErrorBody

  constructor(status: number, code: string, message: string, hint: string | null = null) {
    super(message)
    this.name = 'HttpError'
    this.status = status
    this.body = { code, message, hint }
  }
}

/** A job that refuses conflicts with its state; an outside system may be back later; the rest is our fault. */
const statusOfDomain: Readonly<Record<ErrorDomain, number>> = { user: 409, external: 503, internal: 500 }

/** What Fastify rejects before a route runs: malformed, too large, of the wrong type. */
const requestErrors: Readonly<Record<number, readonly [code: string, message: string, hint: string]>> = {
  400: ['BAD_REQUEST', 'The request is malformed.', 'Send a JSON object without "__proto__" keys, or no body.'],
  404: ['NOT_FOUND', 'There is nothing at this path.', 'GET /api/jobs lists the jobs.'],
  413: ['BODY_TOO_LARGE', 'The body is too large.', 'The largest request this API takes is 4 KiB.'],
  414: ['URI_TOO_LONG', 'The path is too long.', 'GET /api/jobs lists the jobs.'],
  415: ['UNSUPPORTED_MEDIA_TYPE', 'The body is not JSON.', 'Send "content-type: application/json".'],
}

/** MillraceError appends its hint to its message; the API keeps them apart. */
function messageWithoutHint(error: MillraceError): string {
  const suffix = error.hint === undefined ? '' : ` ${error.hint}`
  return suffix !== '' && error.message.endsWith(suffix) ? error.message.slice(0, -suffix.length) : error.message
}

function statusCodeOf(error: unknown): number | null {
  const status = (error as { statusCode?: unknown } | null)?.statusCode
  return typeof status === 'number' ? status : null
}

/** Status and body for anything thrown; `expected` is false when it should be logged as a fault. */
export function toHttpError(error: unknown): { status: number; body: ErrorBody; expected: boolean } {
  if (error instanceof HttpError) return { status: error.status, body: error.body, expected: true }
  if (error instanceof MillraceError) {
    const body = { code: error.code, message: messageWithoutHint(error), hint: error.hint ?? null }
    return { status: statusOfDomain[error.domain], body, expected: error.domain !== 'internal' }
  }
  const status = statusCodeOf(error)
  const known = status === null ? undefined : requestErrors[status]
  if (status !== null && known !== undefined) {
    const [code, message, hint] = known
    return { status, body: { code, message, hint }, expected: true }
  }
  const body = { code: 'INTERNAL', message: 'The server could not answer.', hint: "The job's log has the cause." }
  return { status: 500, body, expected: false }
}
