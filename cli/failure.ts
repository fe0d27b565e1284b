/**
 * How errors look on a terminal: what happened, the line of the user's own code, the causes.
 *
 * Used by every command. Exit code 2 means wrong usage, 1 any other failure.
 */
import { fileURLToPath } from 'node:url'
import { type MillraceError, messageOf } from '../engine/core/errors.ts'
import { IS_BUNDLED, packageFolders } from '../engine/core/own-module.ts'

export const EXIT_FAILURE = 1
export const EXIT_USAGE = 2

const CAUSES_MAX = 5

/** Folders of the package whose frames are not the user's own. */
const OWN_FOLDERS = packageFolders(['engine', 'operators', 'connectors', 'state', 'cli', 'sql'])

/** Told by its name: a job may have its own copy of this package, as a bundled one does. */
function isMillraceError(error: unknown): error is MillraceError {
  return error instanceof Error && error.name === 'MillraceError'
}

export function isUsageError(error: unknown): boolean {
  return (error as { code?: unknown } | null)?.code === 'USAGE'
}

export function exitCodeForError(error: unknown): number {
  return isUsageError(error) ? EXIT_USAGE : EXIT_FAILURE
}

function causesOf(error: unknown): unknown[] {
  const chain: unknown[] = []
  for (let at = error; at !== undefined && at !== null && chain.length < CAUSES_MAX; at = (at as Error).cause) {
    chain.push(at)
  }
  return chain
}

/** `file:line:column` of a frame of a stack, or null for lines that are none, and frames of Node. */
function locationOf(line: string): string | null {
  const match = /^\s*at (?:async )?(?:.*\()?(.+?):(\d+):(\d+)\)?$/.exec(line)
  if (match === null || match[1]!.startsWith('node:')) return null
  const [, place, row, column] = match
  try {
    return `${place!.startsWith('file:') ? fileURLToPath(place!) : place!}:${row}:${column}`
  } catch {
    return null
  }
}

/** Errors in which the first frame that is not known to be the engine's is a user's also in a bundle of both. */
const OF_USERS: ReadonlySet<string> = new Set(['USER_FUNCTION_FAILED', 'TASK_FAILED'])

/** The first frame in the user's own code, innermost cause first, as `file:line:column`. */
export function userFrame(error: unknown): string | null {
  if (IS_BUNDLED && isMillraceError(error) && !OF_USERS.has(error.code)) return null
  for (const cause of causesOf(error).reverse()) {
    if (!(cause instanceof Error)) continue
    for (const line of (cause.stack ?? '').split('\n')) {
      const location = locationOf(line)
      if (location === null || location.includes('/node_modules/')) continue
      const isOwn = OWN_FOLDERS.some((folder) => location.startsWith(folder) && !/\.(test|fixture)\.ts:/.test(location))
      if (!isOwn) return location
    }
  }
  return null
}

/** For a syntax error the file, line and caret that Node prints above the stack; else empty. */
function syntaxExcerpt(error: unknown): string[] {
  if (!(error instanceof SyntaxError)) return []
  const lines = (error.stack ?? '').split('\n')
  const end = lines.findIndex((line) => line.startsWith('SyntaxError'))
  return end > 0 ? lines.slice(0, end).filter((line) => line.trim() !== '') : []
}

/** The lines of a failure, without a line break at the end. */
export function formatFailure(error: unknown): string {
  const chain = causesOf(error)
  const first = chain[0]
  const code = isMillraceError(first) && !isUsageError(first) ? `${first.code}: ` : ''
  const lines = [`millrace: ${code}${messageOf(error)}`, ...syntaxExcerpt(error)]
  const told = [messageOf(error)]
  for (const cause of chain.slice(1)) {
    const text = messageOf(cause)
    // Many a message quotes its cause.
    if (told.some((earlier) => earlier.includes(text))) continue
    told.push(text)
    lines.push(`  caused by: ${text}`)
  }
  const frame = userFrame(error)
  if (frame !== null && !isUsageError(error) && !lines.some((line) => line.includes(frame))) lines.push(`  at ${frame}`)
  return lines.join('\n')
}

export function printFailure(error: unknown): void {
  process.stderr.write(`${formatFailure(error)}\n`)
}
