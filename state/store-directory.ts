/**
 * Directory rules that both stores share: where a store may live, and how an image's files get there.
 *
 * An image is never modified: immutable files are hard-linked, files that an opened store may replace
 * or append to are copied.
 */
import { constants, copyFileSync, existsSync, linkSync, mkdirSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { MillraceError, messageOf } from '../engine/core/errors.ts'

/** A failure of the disk or the file system: worth trying again once there is room. */
export function storeIoError(action: string, cause: unknown): MillraceError {
  return new MillraceError('STORE_IO', `Cannot ${action}: ${messageOf(cause)}.`, {
    domain: 'external',
    retryable: true,
    hint: 'Check free space and permissions of the state directory.',
    cause,
  })
}

/** Creates `directory`. Throws `STORE_DIRECTORY_NOT_EMPTY` when it holds anything. */
export function claimDirectory(directory: string): void {
  try {
    mkdirSync(directory, { recursive: true })
    if (readdirSync(directory).length === 0) return
  } catch (error) {
    throw storeIoError(`create the state directory ${directory}`, error)
  }
  throw new MillraceError('STORE_DIRECTORY_NOT_EMPTY', `The state directory ${directory} is not empty.`, {
    domain: 'internal',
    hint: 'Live state is never reopened: restore a checkpoint into a new directory.',
  })
}

/** Makes sure `directory` does not exist but its parent does. Throws `STORE_DIRECTORY_NOT_EMPTY`. */
export function claimCheckpointDirectory(directory: string): void {
  if (existsSync(directory)) {
    throw new MillraceError('STORE_DIRECTORY_NOT_EMPTY', `The checkpoint directory ${directory} exists already.`, {
      domain: 'internal',
    })
  }
  try {
    mkdirSync(dirname(directory), { recursive: true })
  } catch (error) {
    throw storeIoError(`create ${dirname(directory)}`, error)
  }
}

/** Hard-links `name`, or copies it where the file system cannot link (another device, no support). */
export function linkOrCopy(image: string, directory: string, name: string): void {
  const from = join(image, name)
  const to = join(directory, name)
  try {
    linkSync(from, to)
  } catch {
    copyFileSync(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
  }
}
