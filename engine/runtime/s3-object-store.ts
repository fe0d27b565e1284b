/**
 * The object store of `s3://bucket` URLs: Amazon S3, and servers that speak its protocol and keep
 * `If-None-Match: *` (MinIO, Ceph, Cloudflare R2, versitygw, ...).
 *
 * Opened by node-io.ts in every thread that meets such a path. Settings come from the environment, under the
 * names that AWS's own tools read: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION
 * (or AWS_DEFAULT_REGION; us-east-1 unless given), AWS_ENDPOINT_URL_S3 (or AWS_ENDPOINT_URL). With an endpoint the
 * bucket is part of the path, without one it is Amazon's `https://BUCKET.s3.REGION.amazonaws.com`.
 *
 * Invariants: a request sends the hash of its body, so the server refuses what was hurt on the way; one that
 * makes no progress for a while is given up, and its outcome is then unknown.
 */
import { createHash } from 'node:crypto'
import { openAsBlob } from 'node:fs'
import { open } from 'node:fs/promises'
import type { ContentHash, ObjectInfo, ObjectStore, PutOptions } from '../contract/object-store.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Clock, Timers } from '../core/io.ts'
import { EMPTY_PAYLOAD_HASH, escapeStrictly, type S3Credentials, signedHeaders } from './s3-signature.ts'

/** A small request gets this long, a large one as long as its bytes take at the slowest rate that is waited for. */
const REQUEST_MS = 15_000
const BYTES_PER_MS_MIN = 250

export interface S3Settings {
  readonly bucket: string
  readonly region: string
  /** Null for Amazon's own. */
  readonly endpoint: string | null
  readonly credentials: S3Credentials
}

/** Reads settings as described above. Throws `S3_CREDENTIALS_MISSING` or `S3_ENDPOINT_INVALID`. */
export function s3SettingsOf(url: string, env: Readonly<Record<string, string | undefined>>): S3Settings {
  const bucket = url.replace(/^s3:\/\//, '')
  const accessKeyId = env['AWS_ACCESS_KEY_ID']
  const secretAccessKey = env['AWS_SECRET_ACCESS_KEY']
  if (accessKeyId === undefined || secretAccessKey === undefined) {
    throw new MillraceError('S3_CREDENTIALS_MISSING', `There are no credentials for ${url}.`, {
      hint: 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.',
    })
  }
  const endpoint = env['AWS_ENDPOINT_URL_S3'] ?? env['AWS_ENDPOINT_URL'] ?? null
  if (endpoint !== null && !/^https?:\/\/[^/]/.test(endpoint)) {
    throw new MillraceError('S3_ENDPOINT_INVALID', `The S3 endpoint ${endpoint} is no URL.`, {
      hint: 'Write AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000.',
    })
  }
  return {
    bucket,
    region: env['AWS_REGION'] ?? env['AWS_DEFAULT_REGION'] ?? 'us-east-1',
    endpoint,
    credentials: { accessKeyId, secretAccessKey, sessionToken: env['AWS_SESSION_TOKEN'] ?? null },
  }
}

interface Ask {
  readonly method: 'GET' | 'PUT' | 'HEAD' | 'DELETE'
  readonly key: string
  readonly query?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array | Blob
  readonly payloadHash?: string
  /** Bytes expected to travel, for the time-out. */
  readonly bytes?: number
}

export class S3ObjectStore implements ObjectStore {
  readonly description: string
  private readonly settings: S3Settings
  private readonly io: { readonly clock: Clock; readonly timers: Timers }
  private readonly base: string

  constructor(settings: S3Settings, io: { readonly clock: Clock; readonly timers: Timers }) {
    this.settings = settings
    this.io = io
    const { bucket, endpoint, region } = settings
    this.base =
      endpoint === null
        ? `https://${bucket}.s3.${region}.amazonaws.com`
        : `${endpoint.replace(/\/+$/, '')}/${escapeStrictly(bucket)}`
    this.description = `s3 bucket ${bucket} at ${endpoint ?? 'amazonaws.com'}`
  }

  async get(key: string): Promise<Uint8Array | null> {
    return this.ask({ method: 'GET', key, bytes: 64 << 20 }, async (response) => {
      if (response.status === 404) return this.nothing(response)
      await this.requireOk(response, `read ${key}`)
      return new Uint8Array(await response.arrayBuffer())
    })
  }

  async put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<boolean> {
    const headers: Record<string, string> = options.ifAbsent === true ? { 'if-none-match': '*' } : {}
    const payloadHash = createHash('sha256').update(bytes).digest('hex')
    const ask: Ask = { method: 'PUT', key, headers, body: bytes, payloadHash, bytes: bytes.length }
    return this.ask(ask, async (response) => {
      if (options.ifAbsent === true && response.status === 412) {
        await response.body?.cancel()
        return false
      }
      await this.requireOk(response, `write ${key}`)
      return true
    })
  }

  async upload(key: string, path: string, content: ContentHash): Promise<void> {
    const body = await openAsBlob(path)
    const ask: Ask = { method: 'PUT', key, body, payloadHash: content.sha256, bytes: content.size }
    await this.ask(ask, (response) => this.requireOk(response, `write ${key}`))
  }

  async download(key: string, path: string): Promise<ContentHash | null> {
    return this.ask({ method: 'GET', key, bytes: 256 << 20 }, async (response) => {
      if (response.status === 404) return this.nothing(response)
      await this.requireOk(response, `read ${key}`)
      return writeBody(response, path)
    })
  }

  async size(key: string): Promise<number | null> {
    return this.ask({ method: 'HEAD', key }, async (response) => {
      if (response.status === 404) return this.nothing(response)
      await this.requireOk(response, `look at ${key}`)
      return Number(response.headers.get('content-length'))
    })
  }

  async list(prefix: string): Promise<ObjectInfo[]> {
    const found: ObjectInfo[] = []
    for (let token: string | null = ''; token !== null; ) {
      const page: Record<string, string> = { 'list-type': '2', prefix }
      if (token !== '') page['continuation-token'] = token
      const text: string = await this.ask({ method: 'GET', key: '', query: page }, async (response) => {
        await this.requireOk(response, `list ${prefix}`)
        return response.text()
      })
      for (const [, entry] of text.matchAll(/<Contents>([\s\S]*?)<\/Contents>/g)) {
        found.push({ key: elementOf(entry!, 'Key') ?? '', size: Number(elementOf(entry!, 'Size')) })
      }
      token = elementOf(text, 'IsTruncated') === 'true' ? elementOf(text, 'NextContinuationToken') : null
    }
    return found
  }

  async remove(key: string): Promise<void> {
    await this.ask({ method: 'DELETE', key }, async (response) => {
      if (response.status !== 404) await this.requireOk(response, `remove ${key}`)
    })
  }

  /** One request; `use` reads the answer within the same time limit. */
  private async ask<T>(ask: Ask, use: (response: Response) => Promise<T>): Promise<T> {
    const { clock, timers } = this.io
    const path = ask.key.split('/').map(escapeStrictly).join('/')
    const url = new URL(`${this.base}/${path}`)
    for (const [name, value] of Object.entries(ask.query ?? {})) url.searchParams.set(name, value)
    const request = {
      method: ask.method,
      url,
      headers: ask.headers ?? {},
      payloadHash: ask.payloadHash ?? EMPTY_PAYLOAD_HASH,
    }
    const headers = signedHeaders(request, this.settings.credentials, this.settings.region, clock.nowMs())
    // It signs the host; `fetch` sets the header itself.
    delete headers['host']
    const abort = new AbortController()
    const limitMs = REQUEST_MS + (ask.bytes ?? 0) / BYTES_PER_MS_MIN
    const cancel = timers.schedule(limitMs, () => abort.abort(new Error(`no answer within ${limitMs} ms`)))
    try {
      const body = (ask.body ?? null) as NonNullable<RequestInit['body']> | null
      return await use(await fetch(url, { method: ask.method, headers, body, signal: abort.signal, redirect: 'error' }))
    } catch (error) {
      throw error instanceof MillraceError ? error : this.unavailable(`${ask.method} ${ask.key}`, error)
    } finally {
      cancel()
    }
  }

  /** What a 404 means for an object, as against a bucket that does not exist. */
  private async nothing(response: Response): Promise<null> {
    const text = await response.text()
    if (elementOf(text, 'Code') === 'NoSuchBucket') throw this.refused('use it', 'NoSuchBucket', 'it does not exist')
    return null
  }

  private async requireOk(response: Response, action: string): Promise<void> {
    if (response.ok) {
      if (response.status === 204 || response.headers.get('content-length') === '0') await response.body?.cancel()
      return
    }
    const text = await response.text()
    const code = elementOf(text, 'Code') ?? String(response.status)
    const message = elementOf(text, 'Message') ?? response.statusText
    // 409: another conditional write of the key is under way. 400 with these codes: the body was hurt or cut off.
    const passes = response.status >= 500 || response.status === 409 || response.status === 429 || RETRIED.has(code)
    if (!passes) throw this.refused(action, code, message)
    throw this.unavailable(action, new Error(`${code}: ${message}`))
  }

  private unavailable(action: string, error: unknown): MillraceError {
    const cause = (error as { cause?: unknown } | null)?.cause
    const detail = cause === undefined ? messageOf(error) : `${messageOf(error)}: ${messageOf(cause)}`
    return new MillraceError('OBJECT_STORE_UNAVAILABLE', `Cannot ${action} in ${this.description}: ${detail}.`, {
      domain: 'external',
      retryable: true,
      cause: error,
    })
  }

  private refused(action: string, code: string, message: string): MillraceError {
    return new MillraceError('OBJECT_STORE_REFUSED', `${this.description} refused to ${action}: ${code}, ${message}.`, {
      domain: 'external',
      hint: 'Check the bucket, AWS_REGION, AWS_ENDPOINT_URL_S3 and the rights of the credentials.',
    })
  }
}

const RETRIED: ReadonlySet<string> = new Set([
  'RequestTimeout',
  'BadDigest',
  'IncompleteBody',
  'XAmzContentSHA256Mismatch',
  'SlowDown',
])

/** The text of the first `<name>`; S3's answers are flat enough for that. */
function elementOf(xml: string, name: string): string | null {
  const match = new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)
  return match === null ? null : unescapeXml(match[1]!)
}

const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

function unescapeXml(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name: string) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16))
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal))
    return ENTITIES[name] ?? whole
  })
}

async function writeBody(response: Response, path: string): Promise<ContentHash> {
  const hash = createHash('sha256')
  let size = 0
  const file = await open(path, 'wx')
  try {
    for await (const chunk of response.body ?? []) {
      hash.update(chunk)
      for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten
      size += chunk.length
    }
  } finally {
    await file.close()
  }
  return { sha256: hash.digest('hex'), size }
}
