/**
 * The files sink's committer: moves the parts of an epoch to their buckets' folders and then replaces the marker. Made by
 * files-sink.ts, which says what readers may rely on.
 *
 * Both steps may be repeated: a file that is in place already with the right size is done. A part that is gone or does not
 * match its checksum is not shown, and ends the job. Only the committer that opened
 * last can replace the marker (owner-directory.ts).
 *
 * Left-over pending files of earlier attempts are removed after a commit, when a newer attempt's file was committed:
 * everything that a manifest still names from older attempts was committed before it.
 */
import { mkdir, open, readdir, readFile, rename, stat, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { outputLost, type SinkCommitter, type SinkCommitterContext } from '../../engine/contract/sink.ts'
import { MillraceError } from '../../engine/core/errors.ts'
import type { JsonValue } from '../../engine/core/json-value.ts'
import { OwnerDirectory, parseMarker, syncDirectory } from '../owner-directory.ts'
import { type PartCommittable, type PartCommittables, PENDING_DIRECTORY } from './files-writer.ts'

export const MARKER_FILE = '.millrace-marker'
const READ_BYTES = 1_024 * 1_024

export class FilesCommitter implements SinkCommitter {
  private readonly path: string
  private readonly prefix: string
  private readonly context: SinkCommitterContext
  private readonly owner: OwnerDirectory

  constructor(path: string, prefix: string, context: SinkCommitterContext) {
    this.path = path
    this.owner = new OwnerDirectory(path)
    this.prefix = prefix
    this.context = context
  }

  async open(): Promise<void> {
    await mkdir(join(this.path, PENDING_DIRECTORY), { recursive: true })
    await this.owner.take()
  }

  async readMarker(): Promise<number> {
    let text: string
    try {
      text = await readFile(join(this.path, MARKER_FILE), 'utf8')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0
      throw error
    }
    const marker = parseMarker<{ sink: string; epoch: number }>(join(this.path, MARKER_FILE), text)
    if (marker.sink !== this.context.sinkId) {
      throw new MillraceError(
        'SINK_DIRECTORY_TAKEN',
        `${this.path} belongs to the sink ${JSON.stringify(marker.sink)}.`,
        {
          hint: 'Give each files sink its own directory.',
        },
      )
    }
    return marker.epoch
  }

  peekMarker(): Promise<number> {
    return this.readMarker()
  }

  async commit(epoch: number, committables: readonly JsonValue[]): Promise<void> {
    if (epoch <= (await this.readMarker())) return
    const { io } = this.context
    // A part by itself is how earlier versions wrote it.
    const parts = (committables as unknown as readonly (PartCommittable | PartCommittables)[]).flatMap((committable) =>
      'parts' in committable ? committable.parts : [committable],
    )
    const folders = await this.makeFolders(parts)
    /** Parts so far of a subtask in a bucket. */
    const counts = new Map<string, number>()
    for (const part of parts) {
      const { bucket = '', subtask, extension = 'jsonl' } = part
      const place = `${subtask} ${bucket}`
      const nth = counts.get(place) ?? 0
      counts.set(place, nth + 1)
      await this.owner.check()
      const suffix = nth === 0 ? '' : `-${nth}`
      const name = `${this.prefix}-${String(epoch).padStart(8, '0')}-${subtask}${suffix}.${extension}`
      await this.finish(part, join(this.path, bucket, name))
      io.failpoint?.('sink-part-renamed')
    }
    for (const folder of folders) await syncDirectory(folder)
    io.failpoint?.('sink-parts-in-place')
    await this.owner.replace(MARKER_FILE, JSON.stringify({ sink: this.context.sinkId, epoch }))
    io.failpoint?.('sink-marker-moved')
    if (parts.length > 0) await this.sweep(Math.max(...parts.map((part) => part.attempt)))
  }

  async close(): Promise<void> {
    await this.owner.release()
  }

  /** Makes the buckets' folders; returns those whose entries change, with those that a new folder may lie in. */
  private async makeFolders(parts: readonly PartCommittable[]): Promise<Set<string>> {
    const folders = new Set([this.path])
    for (const bucket of new Set(parts.map((part) => part.bucket ?? ''))) {
      if (bucket === '') continue
      await this.owner.check()
      await mkdir(join(this.path, bucket), { recursive: true })
      for (let below = bucket; below !== '.'; below = dirname(below)) folders.add(join(this.path, below))
    }
    return folders
  }

  private async finish(part: PartCommittable, final: string): Promise<void> {
    const temp = join(this.path, PENDING_DIRECTORY, part.temp)
    const size = await sizeOf(temp)
    if (size === null && (await sizeOf(final)) === part.bytes) return
    if (size === null) throw outputLost(temp, 'is gone')
    if (size !== part.bytes) throw outputLost(temp, `has ${size} bytes instead of ${part.bytes}`)
    // Read once more before it is called damaged: bytes can also be hurt on the way.
    const isSound = (await checksumOf(temp)) === part.crc32 || (await checksumOf(temp)) === part.crc32
    if (!isSound) throw outputLost(temp, 'does not match its checksum')
    await rename(temp, final)
  }

  /** Removes pending files of attempts before `attempt`. */
  private async sweep(attempt: number): Promise<void> {
    const directory = join(this.path, PENDING_DIRECTORY)
    for (const name of await readdir(directory)) {
      const older = /^(\d+)-.*\.inprogress$/.exec(name)
      if (older !== null && Number(older[1]) < attempt) await unlink(join(directory, name))
    }
  }
}

/** CRC-32 of a file; reading and this cost a small part of what writing it did. */
async function checksumOf(path: string): Promise<number> {
  const handle = await open(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(READ_BYTES)
    let checksum = 0
    for (;;) {
      const { bytesRead } = await handle.read(buffer)
      if (bytesRead === 0) return checksum
      checksum = crc32(buffer.subarray(0, bytesRead), checksum)
    }
  } finally {
    await handle.close()
  }
}

async function sizeOf(path: string): Promise<number | null> {
  try {
    return (await stat(path)).size
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}
