/**
 * A failure on its way to the job master and, as the job's error, to who started the job.
 *
 * Made by workers and by the job master itself. On the calling thread what a user's function threw comes through as it
 * is; from a worker thread as a plain Error with its name, message, stack and code, because a thread's own classes and
 * whatever hangs on an error do not pass between threads.
 */
import { type ErrorDomain, MillraceError, messageOf } from '../core/errors.ts'

export interface WorkerFailure {
  readonly where: string
  readonly code: string | null
  readonly message: string
  readonly stack: string | null
  /** False when another try cannot help, as for a wrong job. */
  readonly restartable: boolean
  /** What a MillraceError says besides. */
  readonly domain?: ErrorDomain
  readonly hint?: string | undefined
  readonly retryable?: boolean
  /** What was thrown at first. */
  readonly cause?: unknown
}

const CAUSES_MAX = 8

export function failureAt(where: string, error: unknown, finalCodes: ReadonlySet<string>): WorkerFailure {
  const stack = error instanceof Error ? (error.stack ?? null) : null
  const common = { where, message: messageOf(error), stack }
  if (!(error instanceof MillraceError)) return { ...common, code: null, restartable: true, cause: error }
  const { code, domain, hint, retryable, cause } = error
  return { ...common, code, restartable: !finalCodes.has(code), domain, hint, retryable, cause }
}

/** The job's error. */
export function errorOf({ where, code, message, stack, domain, hint, retryable, cause }: WorkerFailure): MillraceError {
  // The message ends in the hint already, and the constructor adds it.
  const bare = hint !== undefined && message.endsWith(` ${hint}`) ? message.slice(0, -hint.length - 1) : message
  const error = new MillraceError(code ?? 'TASK_FAILED', `${where}: ${bare}`, {
    ...(domain === undefined ? {} : { domain }),
    ...(hint === undefined ? {} : { hint }),
    ...(retryable === undefined ? {} : { retryable }),
    cause,
  })
  if (stack !== null) error.stack = stack
  return error
}

/** For people: the stack, then those of the causes, the user's own among them. */
export function stackWithCauses({ stack, code, cause }: WorkerFailure): string | null {
  // Without a code the failure is what was thrown itself.
  let thrown = code === null && cause instanceof Error ? cause.cause : cause
  let text = stack ?? ''
  for (let i = 0; i < CAUSES_MAX && thrown instanceof Error; i++) {
    text += `\ncaused by: ${thrown.stack ?? thrown.message}`
    thrown = thrown.cause
  }
  return text === '' ? null : text
}

/** What a message between threads keeps of anything that was thrown. */
type Thrown =
  | { readonly kind: 'value'; readonly value: string | number | bigint | boolean | null | undefined }
  | {
      readonly kind: 'error'
      readonly name: string
      readonly message: string
      readonly stack: string | undefined
      readonly code: string | number | undefined
      readonly cause: Thrown
    }

/** The same failure as data that any thread can take; `receivedFailure` is for the thread that got it. */
export function sentFailure(failure: WorkerFailure): WorkerFailure {
  return { ...failure, cause: dataOf(failure.cause, CAUSES_MAX) }
}

export function receivedFailure(failure: WorkerFailure): WorkerFailure {
  return { ...failure, cause: thrownOf(failure.cause as Thrown) }
}

function dataOf(thrown: unknown, causesMax: number): Thrown {
  if (thrown instanceof Error) {
    const { name, message, stack, cause, code } = thrown as Error & { readonly code?: unknown }
    return {
      kind: 'error',
      name: String(name),
      message: String(message),
      stack: typeof stack === 'string' ? stack : undefined,
      code: typeof code === 'string' || typeof code === 'number' ? code : undefined,
      cause: causesMax > 1 ? dataOf(cause, causesMax - 1) : { kind: 'value', value: undefined },
    }
  }
  switch (typeof thrown) {
    case 'string':
    case 'number':
    case 'bigint':
    case 'boolean':
    case 'undefined':
      return { kind: 'value', value: thrown }
    default:
      return { kind: 'value', value: thrown === null ? null : String(thrown) }
  }
}

function thrownOf(data: Thrown): unknown {
  if (data.kind === 'value') return data.value
  const error: Error & { code?: string | number } = new Error(data.message)
  // As the built-in ones, so that they are no part of what is printed.
  Object.defineProperty(error, 'name', { value: data.name, configurable: true, writable: true })
  const cause = thrownOf(data.cause)
  if (cause !== undefined) Object.defineProperty(error, 'cause', { value: cause, configurable: true, writable: true })
  if (data.stack !== undefined) error.stack = data.stack
  if (data.code !== undefined) error.code = data.code
  return error
}
