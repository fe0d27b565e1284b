/**
 * Fencing on a file system: of all committers that opened a directory, only the last can replace a file in it.
 * Used by the sinks to files and to the embedded log.
 *
 * Each owner has a folder of its own, in which it makes the new file before it is renamed into place. The next
 * owner removes that folder; from then on the earlier one can neither make the file nor rename it, also when it had
 * hung between the two. Of two that open at once each may remove the other's folder: then both are fenced, and the
 * restart of either settles it.
 */
import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { outputLost } from '../engine/contract/sink.ts'
import { MillraceError } from '../engine/core/errors.ts'

const PREFIX = '.owner-'
const NEW_FILE = 'new'

export class OwnerDirectory {
  private readonly directory: string
  private readonly name = `${PREFIX}${randomUUID()}`

  /** `directory` exists when `take` is called. */
  constructor(directory: string) {
    this.directory = directory
  }

  /** Fences every earlier owner off. */
  async take(): Promise<void> {
    await mkdir(this.folder)
    for (const name of await readdir(this.directory)) {
      if (!name.startsWith(PREFIX) || name === this.name) continue
      await rm(join(this.directory, name), { recursive: true, force: true })
    }
    await syncDirectory(this.directory)
  }

  /** Throws `SINK_FENCED` when another owner came. One may come right after, so let `replace` be the deciding step. */
  async check(): Promise<void> {
    await this.fencedIfGone(stat(this.folder))
  }

  /** Replaces a file of the directory so that it is seen whole or not at all, and survives a power loss. */
  async replace(file: string, text: string): Promise<void> {
    const temp = join(this.folder, NEW_FILE)
    const handle = await this.fencedIfGone(open(temp, 'w'))
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await this.fencedIfGone(rename(temp, join(this.directory, file)))
    await syncDirectory(this.directory)
  }

  async release(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true })
  }

  private get folder(): string {
    return join(this.directory, this.name)
  }

  private async fencedIfGone<R>(step: Promise<R>): Promise<R> {
    try {
      return await step
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      throw new MillraceError('SINK_FENCED', `Another run of the job has taken over the sink to ${this.directory}.`, {
        domain: 'user',
        hint: 'This run has to stop; look for the one that took over.',
        cause: error,
      })
    }
  }
}

/** What a sink keeps in a small file of its target: its id, the epoch, and more. Throws `OUTPUT_LOST`. */
export function parseMarker<T>(path: string, text: string): T {
  try {
    return JSON.parse(text) as T
  } catch {
    throw outputLost(path, 'is damaged: it is no JSON', 'Bring it back from a copy, or write it anew by hand.')
  }
}

export async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
