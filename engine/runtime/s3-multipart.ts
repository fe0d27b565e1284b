/**
 * Uploads of large files to S3 in parts, a few at a time: one request takes 5 GB at most, and after a failure only the
 * parts that are missing are sent again.
 *
 * Used by s3-object-store.ts. Invariants:
 * - The object appears when all parts are there, whole, or not at all. The server checks each part against its hash;
 *   that the parts together are the content asked for is checked here, before the first is sent.
 * - `send` is one try. What a try that may be repeated has brought is kept for the next one of the same content; of
 *   those that nobody comes back for the oldest are dropped, as is an upload that cannot succeed.
 * - What a process that died has left is dropped by whoever takes its directory over (`drop`). Should that be an upload
 *   that somebody is still at, it begins anew at the next try: nothing but time is lost.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import type { ContentHash } from '../contract/object-store.ts'
import { mapBounded } from '../core/bounded.ts'
import { MillraceError } from '../core/errors.ts'
import { elementOf, type S3Ask, type S3Client, S3Failure, textOf } from './s3-client.ts'

/** Of one file. A worker sends four files at a time, and a thread has sixteen connections. */
const PARTS_AT_ONCE = 3
/** S3's own limit. */
const PARTS_MAX = 10_000
/** Uploads kept for another try. */
const PAUSED_MAX = 8
const REQUESTS_AT_ONCE = 8

interface Part {
  /** Counted from 1. */
  readonly number: number
  readonly from: number
  readonly bytes: number
  readonly sha256: string
}

interface Upload {
  readonly key: string
  readonly id: string
  /** Of the whole content. */
  readonly sha256: string
  /** Tags of the parts that the server has, by number. */
  readonly tags: Map<number, string>
}

export class S3Uploads {
  /** Larger files go up in parts of this size. */
  readonly partBytes: number
  private readonly client: S3Client
  private readonly paused = new Map<string, Upload>()

  constructor(client: S3Client, partBytes: number) {
    this.client = client
    this.partBytes = partBytes
  }

  async send(key: string, path: string, content: ContentHash): Promise<void> {
    const parts = await partsOf(path, content, this.partBytes)
    const upload = await this.begin(key, content)
    try {
      const missing = parts.filter(({ number }) => !upload.tags.has(number))
      await mapBounded(missing, PARTS_AT_ONCE, (part) => this.sendPart(upload, path, part))
      await this.complete(upload, content.size)
    } catch (error) {
      await this.failed(upload, error)
      throw error
    }
  }

  /** The upload of an earlier try, or a new one. */
  private async begin(key: string, { sha256 }: ContentHash): Promise<Upload> {
    const paused = this.paused.get(key)
    if (paused?.sha256 === sha256) {
      this.paused.delete(key)
      return paused
    }
    const text = await this.client.ask({ method: 'POST', key, query: { uploads: '' } }, async (response) => {
      await this.client.requireOk(response, `begin to write ${key}`)
      return textOf(response)
    })
    return { key, id: elementOf(text, 'UploadId') ?? '', sha256, tags: new Map() }
  }

  private async sendPart({ key, id, tags }: Upload, path: string, part: Part): Promise<void> {
    const ask: S3Ask = {
      method: 'PUT',
      key,
      query: { partNumber: String(part.number), uploadId: id },
      file: { path, from: part.from },
      payloadHash: part.sha256,
      bytesOut: part.bytes,
    }
    const tag = await this.client.ask(ask, async (response) => {
      await this.client.requireOk(response, `write part ${part.number} of ${key}`)
      return response.headers.etag ?? ''
    })
    tags.set(part.number, tag)
  }

  private async complete({ key, id, tags }: Upload, size: number): Promise<void> {
    const body = Buffer.from(completionOf(tags))
    const payloadHash = createHash('sha256').update(body).digest('hex')
    const ask: S3Ask = {
      ...{ method: 'POST', key, query: { uploadId: id } },
      ...{ body, payloadHash, bytesOut: body.length, bytesWithin: size },
    }
    await this.client.ask(ask, async (response) => {
      await this.client.requireOk(response, `complete ${key}`)
      // It may be answered with 200 before it is known how it ends; then the text says that it failed.
      const text = await textOf(response)
      if (text.includes('<Error>')) throw this.client.failure(response, text, `complete ${key}`)
    })
  }

  private async failed(upload: Upload, error: unknown): Promise<void> {
    if (!(error instanceof MillraceError && error.retryable)) return this.abandon(upload)
    if (error.cause instanceof S3Failure && error.cause.code === 'NoSuchUpload') return
    const replaced = this.paused.get(upload.key)
    this.paused.delete(upload.key)
    this.paused.set(upload.key, upload)
    const [oldest] = this.paused.values()
    if (replaced !== undefined) await this.abandon(replaced)
    else if (this.paused.size > PAUSED_MAX) {
      this.paused.delete(oldest!.key)
      await this.abandon(oldest!)
    }
  }

  /** Best effort: what stays goes with the next `drop`. */
  private async abandon({ key, id }: Pick<Upload, 'key' | 'id'>): Promise<void> {
    await this.abort(key, id).catch(() => {})
  }

  private async abort(key: string, id: string): Promise<void> {
    await this.client.ask({ method: 'DELETE', key, query: { uploadId: id } }, async (response) => {
      if (response.statusCode !== 404) await this.client.requireOk(response, `give up writing ${key}`)
    })
  }

  /** Drops every unfinished upload to a key that starts with `prefix`, and says how many there were. */
  async drop(prefix: string): Promise<number> {
    const found = await this.list(prefix)
    await mapBounded(found, REQUESTS_AT_ONCE, ({ key, id }) => this.abort(key, id))
    return found.length
  }

  private async list(prefix: string): Promise<{ key: string; id: string }[]> {
    const found: { key: string; id: string }[] = []
    for (let after: Record<string, string> | null = {}; after !== null; ) {
      const query: Record<string, string> = { uploads: '', prefix, ...after }
      const text: string = await this.client.ask({ method: 'GET', key: '', query }, async (response) => {
        await this.client.requireOk(response, `list unfinished uploads of ${prefix}`)
        return textOf(response)
      })
      for (const [, entry] of text.matchAll(/<Upload>([\s\S]*?)<\/Upload>/g)) {
        found.push({ key: elementOf(entry!, 'Key') ?? '', id: elementOf(entry!, 'UploadId') ?? '' })
      }
      const isLast = elementOf(text, 'IsTruncated') !== 'true'
      const key = elementOf(text, 'NextKeyMarker') ?? ''
      after = isLast ? null : { 'key-marker': key, 'upload-id-marker': elementOf(text, 'NextUploadIdMarker') ?? '' }
    }
    return found
  }
}

/** The parts of a file with their hashes, by one pass over it. Throws `STATE_FILE_CORRUPT` when it is not `content`. */
async function partsOf(path: string, content: ContentHash, partBytes: number): Promise<Part[]> {
  const most = Math.max(partBytes, Math.ceil(content.size / PARTS_MAX))
  const whole = createHash('sha256')
  const parts: Part[] = []
  let size = 0
  for (let from = 0; from < content.size; from += most) {
    const hash = createHash('sha256')
    const bytes = Math.min(most, content.size - from)
    const stream = createReadStream(path, { start: from, end: from + bytes - 1, highWaterMark: 1 << 20 })
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      hash.update(chunk)
      whole.update(chunk)
      size += chunk.length
    }
    parts.push({ number: parts.length + 1, from, bytes, sha256: hash.digest('hex') })
  }
  if (size === content.size && whole.digest('hex') === content.sha256) return parts
  throw new MillraceError('STATE_FILE_CORRUPT', `${path} is not what it was when it was hashed.`, {
    domain: 'external',
    hint: 'Look at the local disk: only Millrace writes there.',
  })
}

function completionOf(tags: ReadonlyMap<number, string>): string {
  const parts = [...tags]
    .sort(([a], [b]) => a - b)
    .map(([number, tag]) => `<Part><PartNumber>${number}</PartNumber><ETag>${tag}</ETag></Part>`)
  const namespace = 'http://s3.amazonaws.com/doc/2006-03-01/'
  return `<CompleteMultipartUpload xmlns="${namespace}">${parts.join('')}</CompleteMultipartUpload>`
}
