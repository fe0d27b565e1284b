/**
 * Tells whether code runs at the top level of the file that Node was started with. Only then may worker
 * threads import that file again; anywhere else (a service, a test, a prompt) that would start it twice.
 *
 * The stack tells: a frame of the entry file at module level is either called by the module loader, or
 * awaits (`at async <entry file>`), or is all that is left of a module after a top-level await. A callback
 * of a timer, a promise or an event emitter in the same file is none of these, save an anonymous promise
 * callback, whose frame looks like the last case; it counts as top level only if nothing else is there.
 */
import { realpathSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** What detection looks at, all of it, so that tests can give their own. */
export interface EntryEvidence {
  /** `process.argv[1]`, absent under `node -e` and at a prompt. */
  readonly entryArgument: string | undefined
  /** A stack that begins inside `execute`. */
  readonly stack: string
  readonly isMainThread: boolean
  /** Running under node:test. */
  readonly isTest: boolean
}

/** A frame of a stack: the function, empty at module level, and the file as a path. */
interface Frame {
  readonly functionName: string
  readonly isAsync: boolean
  readonly file: string
}

const FRAME = /^\s*at (async )?(?:(.*) \()?(.*?):\d+:\d+\)?$/

function parseFrame(line: string): Frame | null {
  const match = FRAME.exec(line)
  if (match === null) return null
  const location = match[3]!
  let file = location
  if (location.startsWith('file:')) {
    try {
      file = fileURLToPath(location.replace(/[?#].*$/, ''))
    } catch {
      return null
    }
  }
  return { isAsync: match[1] !== undefined, functionName: match[2] ?? '', file }
}

function realPath(path: string): string | null {
  try {
    return realpathSync(path)
  } catch {
    return null
  }
}

/** A stack as deep as V8 gives it. */
export function deepStack(): string {
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 200
  const { stack } = new Error('stack')
  Error.stackTraceLimit = limit
  return stack ?? ''
}

/** URL of the entry file when `evidence` shows its top level, else null. */
export function entryModuleUrl(evidence: EntryEvidence): string | null {
  if (!evidence.isMainThread || evidence.isTest || evidence.entryArgument === undefined) return null
  const entry = realPath(evidence.entryArgument)
  if (entry === null) return null
  const frames = evidence.stack
    .split('\n')
    .map(parseFrame)
    .filter((frame) => frame !== null)
  return frames.some((frame, i) => isModuleLevel(frame, frames[i + 1], entry)) ? pathToFileURL(entry).href : null
}

function isModuleLevel(frame: Frame, caller: Frame | undefined, entry: string): boolean {
  if (frame.functionName !== '' && frame.functionName !== 'Object.<anonymous>') return false
  if (frame.file !== entry && realPath(frame.file) !== entry) return false
  if (frame.isAsync) return true
  if (caller === undefined) return true
  return /^(ModuleJob\.run|Module\._compile|ModuleJobSync\.run)/.test(caller.functionName)
}
