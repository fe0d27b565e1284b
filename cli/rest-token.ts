/**
 * Where a running process leaves the token of its REST API, and where `savepoint` and `cancel` find it.
 *
 * Always in the user's folder of the system's temporary directory, by port; also beside the checkpoints
 * when they have a directory. Files are readable by the user alone; a folder that belongs to somebody
 * else is refused.
 */
import { chmodSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isObjectUrl } from '../engine/contract/object-store.ts'
import { MillraceError } from '../engine/core/errors.ts'

/** Ids do not exist on Windows, where the temporary directory is the user's own. */
function userId(): number {
  return process.getuid?.() ?? 0
}

function tokenFolder(): string {
  return join(tmpdir(), `millrace-${userId()}`)
}

export function tokenPath(port: number): string {
  return join(tokenFolder(), `port-${port}.token`)
}

function checkedFolder(): string {
  const folder = tokenFolder()
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const found = lstatSync(folder)
  if (!found.isDirectory() || (process.getuid !== undefined && found.uid !== userId())) {
    throw new MillraceError('TOKEN_FOLDER_FOREIGN', `${folder} does not belong to this user.`, {
      domain: 'external',
      hint: 'Remove it, or set TMPDIR to a directory of your own.',
    })
  }
  chmodSync(folder, 0o700)
  return folder
}

function writePrivate(path: string, token: string): void {
  // A file left by an earlier process could be open to others, and `mode` only counts for new files.
  rmSync(path, { force: true })
  writeFileSync(path, `${token}\n`, { mode: 0o600, flag: 'wx' })
}

/** Stores a token; the returned function removes it. */
export function storeToken(port: number, token: string, checkpointDirectory: string | null): () => void {
  checkedFolder()
  const paths = [tokenPath(port)]
  if (checkpointDirectory !== null && !isObjectUrl(checkpointDirectory)) {
    mkdirSync(checkpointDirectory, { recursive: true })
    paths.push(join(checkpointDirectory, 'rest-token'))
  }
  for (const path of paths) writePrivate(path, token)
  return () => {
    for (const path of paths) rmSync(path, { force: true })
  }
}

/** The token of the process that listens on `port`. Throws `TOKEN_NOT_FOUND`. */
export function readToken(port: number): string {
  try {
    return readFileSync(tokenPath(port), 'utf8').trim()
  } catch (cause) {
    throw new MillraceError('TOKEN_NOT_FOUND', `There is no token for port ${port}.`, {
      cause,
      hint: 'Is a job of this user running there? Its start prints "dashboard http://127.0.0.1:PORT".',
    })
  }
}
