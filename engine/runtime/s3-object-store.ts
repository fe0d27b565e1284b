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
 * takes too long is given up, and its outcome is then unknown.
 *
 * It uses node:http rather than `fetch`, which in Node 24 ends the process by an assertion of its own when a server
 * closes a connection whose answer is not read yet.
 */
import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { pipeline } from 'node:stream/promises'
import type { ContentHash, ObjectInfo, ObjectStore, PutOptions } from '../contract/object-store.ts'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { Clock, Timers } from '../core/io.ts'
import { EMPTY_PAYLOAD_HASH, escapeStrictly, type S3Credentials, signedHeaders } from './s3-signature.ts'

/** A small request gets this long, a large one as long as its bytes take at the slowest rate that is waited for. */
const REQUEST_MS = 15_000
const BYTES_PER_MS_MIN = 250
/** A thread's connections. */
const SOCKETS_MAX = 16

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

/** The URL of an object, or with an empty key that of the bucket. */
export function s3UrlOf({ bucket, endpoint, region }: S3Settings, key: string): URL {
  const base =
    endpoint === null
      ? `https://${bucket}.s3.${region}.amazonaws.com`
      : `${endpoint.replace(/\/+$/, '')}/${escapeStrictly(bucket)}`
  return new URL(`${base}/${key.split('/').map(escapeStrictly).join('/')}`)
}

interface Ask {
  readonly method: 'GET' | 'PUT' | 'HEAD' | 'DELETE'
  readonly key: string
  readonly query?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  /** The body is this file. */
  readonly file?: string
  readonly payloadHash?: string
  /** Bytes of the body, and those expected in return: for the length and the time-out. */
  readonly bytesOut?: number
  readonly bytesIn?: number
}

/** Bytes that a download is given time for before its size is known. */
const DOWNLOAD_BYTES_GUESS = 256 << 20

export class S3ObjectStore implements ObjectStore {
  readonly description: string
  private readonly settings: S3Settings
  private readonly io: { readonly clock: Clock; readonly timers: Timers }
  private readonly agent: HttpAgent

  constructor(settings: S3Settings, io: { readonly clock: Clock; readonly timers: Timers }) {
    this.settings = settings
    this.io = io
    this.description = `s3 bucket ${settings.bucket} at ${settings.endpoint ?? 'amazonaws.com'}`
    const pool = { keepAlive: true, maxSockets: SOCKETS_MAX }
    this.agent = s3UrlOf(settings, '').protocol === 'https:' ? new HttpsAgent(pool) : new HttpAgent(pool)
  }

  async get(key: string): Promise<Uint8Array | null> {
    return this.ask({ method: 'GET', key, bytesIn: DOWNLOAD_BYTES_GUESS }, async (response) => {
      if (response.statusCode === 404) return this.nothing(response)
      await this.requireOk(response, `read ${key}`)
      return bytesOf(response)
    })
  }

  async put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<boolean> {
    const headers: Record<string, string> = options.ifAbsent === true ? { 'if-none-match': '*' } : {}
    const payloadHash = createHash('sha256').update(bytes).digest('hex')
    const ask: Ask = { method: 'PUT', key, headers, body: bytes, payloadHash, bytesOut: bytes.length }
    return this.ask(ask, async (response) => {
      if (options.ifAbsent === true && response.statusCode === 412) return false
      await this.requireOk(response, `write ${key}`)
      return true
    })
  }

  async upload(key: string, path: string, content: ContentHash): Promise<void> {
    const ask: Ask = { method: 'PUT', key, file: path, payloadHash: content.sha256, bytesOut: content.size }
    await this.ask(ask, (response) => this.requireOk(response, `write ${key}`))
  }

  async download(key: string, path: string): Promise<ContentHash | null> {
    return this.ask({ method: 'GET', key, bytesIn: DOWNLOAD_BYTES_GUESS }, async (response) => {
      if (response.statusCode === 404) return this.nothing(response)
      await this.requireOk(response, `read ${key}`)
      return writeBody(response, path)
    })
  }

  async size(key: string): Promise<number | null> {
    return this.ask({ method: 'HEAD', key }, async (response) => {
      if (response.statusCode === 404) return null
      await this.requireOk(response, `look at ${key}`)
      return Number(response.headers['content-length'])
    })
  }

  async list(prefix: string): Promise<ObjectInfo[]> {
    const found: ObjectInfo[] = []
    for (let token: string | null = ''; token !== null; ) {
      const page: Record<string, string> = { 'list-type': '2', prefix }
      if (token !== '') page['continuation-token'] = token
      const text: string = await this.ask({ method: 'GET', key: '', query: page }, async (response) => {
        await this.requireOk(response, `list ${prefix}`)
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
    await this.ask({ method: 'DELETE', key }, async (response) => {
      if (response.statusCode !== 404) await this.requireOk(response, `remove ${key}`)
    })
  }

  /** One request; `use` reads the answer within the same time limit. */
  private async ask<T>(ask: Ask, use: (response: IncomingMessage) => Promise<T>): Promise<T> {
    const { timers } = this.io
    const abort = new AbortController()
    const limitMs = REQUEST_MS + ((ask.bytesOut ?? 0) + (ask.bytesIn ?? 0)) / BYTES_PER_MS_MIN
    const cancel = timers.schedule(limitMs, () => abort.abort(new Error(`no answer within ${limitMs} ms`)))
    let response: IncomingMessage | null = null
    try {
      response = await this.send(ask, abort.signal)
      return await use(response)
    } catch (error) {
      throw error instanceof MillraceError ? error : this.unavailable(`${ask.method} ${ask.key}`, error)
    } finally {
      cancel()
      // The socket serves the next request once the answer is read to its end.
      response?.resume()
    }
  }

  private send(ask: Ask, signal: AbortSignal): Promise<IncomingMessage> {
    const url = s3UrlOf(this.settings, ask.key)
    for (const [name, value] of Object.entries(ask.query ?? {})) url.searchParams.set(name, value)
    const request = {
      method: ask.method,
      url,
      headers: ask.headers ?? {},
      payloadHash: ask.payloadHash ?? EMPTY_PAYLOAD_HASH,
    }
    const { credentials, region } = this.settings
    const headers = signedHeaders(request, credentials, region, this.io.clock.nowMs())
    if (ask.method === 'PUT') headers['content-length'] = String(ask.bytesOut ?? 0)
    const open = url.protocol === 'https:' ? httpsRequest : httpRequest
    return new Promise((resolve, reject) => {
      const sending = open(url, { method: ask.method, headers, agent: this.agent, signal })
      sending.on('response', resolve)
      sending.on('error', reject)
      if (ask.file === undefined) sending.end(ask.body)
      // A refusal may come before the file is sent: what the request says counts, not that the file was cut off.
      else pipeline(createReadStream(ask.file, { highWaterMark: 1 << 20 }), sending).catch(reject)
    })
  }

  /** What a 404 means for an object, as against a bucket that does not exist. */
  private async nothing(response: IncomingMessage): Promise<null> {
    if (elementOf(await textOf(response), 'Code') !== 'NoSuchBucket') return null
    throw this.refused('use it', 'NoSuchBucket', 'it does not exist')
  }

  private async requireOk(response: IncomingMessage, action: string): Promise<void> {
    const status = response.statusCode ?? 0
    if (status >= 200 && status < 300) return
    const text = await textOf(response)
    const code = elementOf(text, 'Code') ?? String(status)
    const message = elementOf(text, 'Message') ?? response.statusMessage ?? ''
    // 409: another conditional write of the key is under way. 400 with these codes: the body was hurt or cut off.
    const passes = status >= 500 || status === 409 || status === 429 || RETRIED.has(code)
    if (!passes) throw this.refused(action, code, message)
    throw this.unavailable(action, new Error(`${code}: ${message}`))
  }

  private unavailable(action: string, error: unknown): MillraceError {
    const reason = messageOf(error) || String((error as NodeJS.ErrnoException).code)
    return new MillraceError('OBJECT_STORE_UNAVAILABLE', `Cannot ${action} in ${this.description}: ${reason}.`, {
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

async function bytesOf(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

async function textOf(response: IncomingMessage): Promise<string> {
  return (await bytesOf(response)).toString('utf8')
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
