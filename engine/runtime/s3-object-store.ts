/**
 * The object store of `s3://bucket` URLs: Amazon S3, and servers that speak its protocol and keep
 * `If-None-Match: *` (MinIO, Ceph, Cloudflare R2, versitygw, ...).
 *
 * Opened by node-io.ts in every thread that meets such a path. Small objects, and all that are created only when they
 * are absent, are one request each; large files go up in parts (s3-multipart.ts).
 */
import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { pipeline } from 'node:stream/promises'
import type { ContentHash, ObjectInfo, ObjectStore, PutOptions } from '../contract/object-store.ts'
import type { Clock, Timers } from '../core/io.ts'
import { bytesOf, elementOf, type S3Ask, S3Client, type S3Settings, textOf } from './s3-client.ts'
import { S3Uploads } from './s3-multipart.ts'

export interface S3Options {
  /** Files above this size go up in parts of it, at least 5 MiB (S3's own limit). 64 MiB unless given. */
  readonly partBytes?: number
}

const PART_BYTES = 64 << 20

export class S3ObjectStore implements ObjectStore {
  readonly description: string
  private readonly client: S3Client
  private readonly uploads: S3Uploads

  constructor(
    settings: S3Settings,
    io: { readonly clock: Clock; readonly timers: Timers },
    { partBytes = PART_BYTES }: S3Options = {},
  ) {
    this.client = new S3Client(settings, io)
    this.description = this.client.description
    this.uploads = new S3Uploads(this.client, partBytes)
  }

  async get(key: string): Promise<Uint8Array | null> {
    return this.client.ask({ method: 'GET', key }, async (response) => {
      if (response.statusCode === 404) return this.client.nothing(response)
      await this.client.requireOk(response, `read ${key}`)
      return bytesOf(response)
    })
  }

  async put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<boolean> {
    const headers: Record<string, string> = options.ifAbsent === true ? { 'if-none-match': '*' } : {}
    const payloadHash = createHash('sha256').update(bytes).digest('hex')
    const ask: S3Ask = { method: 'PUT', key, headers, body: bytes, payloadHash, bytesOut: bytes.length }
    return this.client.ask(ask, async (response) => {
      if (options.ifAbsent === true && response.statusCode === 412) return false
      await this.client.requireOk(response, `write ${key}`)
      return true
    })
  }

  async upload(key: string, path: string, content: ContentHash): Promise<void> {
    const { sha256, size } = content
    if (size > this.uploads.partBytes) return this.uploads.send(key, path, content)
    const ask: S3Ask = { method: 'PUT', key, file: { path, from: 0 }, payloadHash: sha256, bytesOut: size }
    await this.client.ask(ask, (response) => this.client.requireOk(response, `write ${key}`))
  }

  async download(key: string, path: string): Promise<ContentHash | null> {
    return this.client.ask({ method: 'GET', key }, async (response) => {
      if (response.statusCode === 404) return this.client.nothing(response)
      await this.client.requireOk(response, `read ${key}`)
      return writeBody(response, path)
    })
  }

  async size(key: string): Promise<number | null> {
    return this.client.ask({ method: 'HEAD', key }, async (response) => {
      if (response.statusCode === 404) return null
      await this.client.requireOk(response, `look at ${key}`)
      return Number(response.headers['content-length'])
    })
  }

  async list(prefix: string): Promise<ObjectInfo[]> {
    const found: ObjectInfo[] = []
    for (let token: string | null = ''; token !== null; ) {
      const page: Record<string, string> = { 'list-type': '2', prefix }
      if (token !== '') page['continuation-token'] = token
      const text: string = await this.client.ask({ method: 'GET', key: '', query: page }, async (response) => {
        await this.client.requireOk(response, `list ${prefix}`)
        return textOf(response)
      })
      for (const [, entry] of text.matchAll(/<Contents>([\s\S]*?)<\/Contents>/g)) {
        found.push({ key: elementOf(entry!, 'Key') ?? '', size: Number(elementOf(entry!, 'Size')) })
      }
      token = elementOf(text, 'IsTruncated') === 'true' ? elementOf(text, 'NextContinuationToken') : null
    }
    return found
  }

  async remove(key: string): Promise<void> {
    await this.client.ask({ method: 'DELETE', key }, async (response) => {
      if (response.statusCode !== 404) await this.client.requireOk(response, `remove ${key}`)
    })
  }

  dropUnfinished(prefix: string): Promise<number> {
    return this.uploads.drop(prefix)
  }
}

async function writeBody(response: IncomingMessage, path: string): Promise<ContentHash> {
  const hash = createHash('sha256')
  let size = 0
  const hashed = async function* (chunks: AsyncIterable<Buffer>) {
    for await (const chunk of chunks) {
      hash.update(chunk)
      size += chunk.length
      yield chunk
    }
  }
  await pipeline(response, hashed, createWriteStream(path, { flags: 'wx', highWaterMark: 1 << 20 }))
  return { sha256: hash.digest('hex'), size }
}
