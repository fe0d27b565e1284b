/**
 * Tells whether code runs at the top level of the file that Node was started with. Only then may worker
 * threads import that file again; anywhere else (a service, a test, a prompt) that would start it twice.
 *
 * The stack tells: it has a frame of the entry file whose function is the module itself, which begins at
 * line 1, column 1. That also holds below functions called from there, and after awaits; it does not hold
 * in callbacks of timers, promises or events, which begin where they are written.
 */
import { realpathSync } from 'node:fs'
import { fileURLToPath, pathToFileURL } from 'node:url'

/** A frame of a stack. */
export interface StackFrame {
  /** Null for the module itself and for functions without a name. */
  readonly functionName: string | null
  /** Path or file URL. */
  readonly file: string
  /** Where the frame's function begins, both counted from 1. */
  readonly functionLine: number
  readonly functionColumn: number
}

/** What detection looks at, all of it, so that tests can give their own. */
export interface EntryEvidence {
  /** `process.argv[1]`, absent under `node -e` and at a prompt. */
  readonly entryArgument: string | undefined
  /** The stack of the call of `execute`. */
  readonly frames: readonly StackFrame[]
  readonly isMainThread: boolean
  /** Running under node:test. */
  readonly isTest: boolean
}

const FRAMES_MAX = 200

/** The stack here, awaiting callers included. */
export function currentFrames(): StackFrame[] {
  const { stackTraceLimit, prepareStackTrace } = Error
  const holder: { stack?: unknown } = {}
  try {
    Error.stackTraceLimit = FRAMES_MAX
    Error.prepareStackTrace = (_, sites) => sites
    Error.captureStackTrace(holder)
    // The stack is prepared when it is read.
    return ((holder.stack ?? []) as NodeJS.CallSite[]).map((site) => ({
      functionName: site.getFunctionName(),
      file: site.getFileName() ?? '',
      functionLine: site.getEnclosingLineNumber() ?? 0,
      functionColumn: site.getEnclosingColumnNumber() ?? 0,
    }))
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    if (prepareStackTrace === undefined) Reflect.deleteProperty(Error, 'prepareStackTrace')
    else Error.prepareStackTrace = prepareStackTrace
  }
}

function realPath(file: string): string | null {
  if (file === '' || file.startsWith('node:')) return null
  try {
    return realpathSync(file.startsWith('file:') ? fileURLToPath(file) : file)
  } catch {
    return null
  }
}

/** URL of the entry file when `evidence` shows its top level, else null. */
export function entryModuleUrl(evidence: EntryEvidence): string | null {
  if (!evidence.isMainThread || evidence.isTest || evidence.entryArgument === undefined) return null
  const entry = realPath(evidence.entryArgument)
  if (entry === null) return null
  // The innermost module decides: one that the entry file imports while it runs is not the entry file.
  const module = evidence.frames.find(
    ({ functionName, file, functionLine, functionColumn }) =>
      functionName === null && functionLine === 1 && functionColumn === 1 && realPath(file) !== null,
  )
  return module !== undefined && realPath(module.file) === entry ? pathToFileURL(entry).href : null
}
