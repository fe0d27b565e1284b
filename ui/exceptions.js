/**
 * What failed, for the page's list: a job that restarts again and again for one reason has one entry. Pure; used by
 * panels.js.
 */

/** Newest first; what came again and again is one entry, with how often. */
export function groupExceptions(exceptions) {
  const groups = []
  for (const exception of exceptions) {
    // Whichever subtask met it.
    const task = exception.where.replace(/ #\d+$/, '')
    const last = groups.at(-1)
    if (last !== undefined && last.task === task && last.exception.message === exception.message) {
      last.exception = exception
      last.count++
    } else groups.push({ task, exception, count: 1, firstAtMs: exception.atMs })
  }
  return groups.reverse()
}
