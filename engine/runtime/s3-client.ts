/**
 * Requests to Amazon S3 and to servers that speak its protocol: settings, signing, time limits, and what an answer means.
 *
 * Used by s3-object-store.ts and s3-multipart.ts. Settings come from the environment, under the
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
import { createReadStream } from 'node:fs'
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import { pipeline } from 'node:stream/promises'
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

export interface S3Ask {
  readonly method: 'GET' | 'PUT' | 'POST' | 'HEAD' | 'DELETE'
  readonly key: string
  readonly query?: Readonly<Record<string, string>>
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Uint8Array
  /** The body is `bytesOut` bytes of a file. */
  readonly file?: { readonly path: string; readonly from: number }
  readonly payloadHash?: string
  /** Bytes of the body: its length, and for the time limit. */
  readonly bytesOut?: number
  /** Bytes that the server moves before it answers, for the time limit. */
  readonly bytesWithin?: number
}

export class S3Client {
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

  /** One request. `use` reads the answer, for which there is a limit of its own. */
  async ask<T>(ask: S3Ask, use: (response: IncomingMessage) => Promise<T>): Promise<T> {
    const abort = new AbortController()
    const limit = (bytes: number): (() => void) => {
      const ms = REQUEST_MS + bytes / BYTES_PER_MS_MIN
      return this.io.timers.schedule(ms, () => abort.abort(new Error(`no answer within ${ms} ms`)))
    }
    let cancel = limit((ask.bytesOut ?? 0) + (ask.bytesWithin ?? 0))
    let response: IncomingMessage | null = null
    try {
      response = await this.send(ask, abort.signal)
      cancel()
      // An answer without a length is short, or still being made.
      cancel = limit(Number(response.headers['content-length'] ?? ask.bytesWithin ?? 0))
      return await use(response)
    } catch (error) {
      throw error instanceof MillraceError ? error : this.unavailable(`${ask.method} ${ask.key}`, error)
    } finally {
      cancel()
      // The socket serves the next request once the answer is read to its end.
      response?.resume()
    }
  }

  private send(ask: S3Ask, signal: AbortSignal): Promise<IncomingMessage> {
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
    if (ask.method === 'PUT' || ask.method === 'POST') headers['content-length'] = String(ask.bytesOut ?? 0)
    const open = url.protocol === 'https:' ? httpsRequest : httpRequest
    return new Promise((resolve, reject) => {
      const sending = open(url, { method: ask.method, headers, agent: this.agent, signal })
      sending.on('response', resolve)
      sending.on('error', reject)
      if (ask.file === undefined) {
        sending.end(ask.body)
        return
      }
      const { path, from } = ask.file
      const end = from + (ask.bytesOut ?? 0) - 1
      // A refusal may come before the file is sent: what the request says counts, not that the file was cut off.
      pipeline(createReadStream(path, { start: from, end, highWaterMark: 1 << 20 }), sending).catch(reject)
    })
  }

  /** What a 404 means for an object, as against a bucket that does not exist. */
  async nothing(response: IncomingMessage): Promise<null> {
    if (elementOf(await textOf(response), 'Code') !== 'NoSuchBucket') return null
    throw this.refused('use it', 'NoSuchBucket', 'it does not exist')
  }

  /** Throws unless the request was granted. */
  async requireOk(response: IncomingMessage, action: string): Promise<void> {
    const status = response.statusCode ?? 0
    if (status >= 200 && status < 300) return
    throw this.failure(response, await textOf(response), action)
  }

  /** What an answer with an error in its text means. */
  failure(response: IncomingMessage, text: string, action: string): MillraceError {
    const status = response.statusCode ?? 0
    const code = elementOf(text, 'Code') ?? String(status)
    const message = elementOf(text, 'Message') ?? response.statusMessage ?? ''
    // 409: another conditional write of the key is under way. 501: the server does not know the request.
    const passes = (status >= 500 && status !== 501) || status === 409 || status === 429 || RETRIED.has(code)
    return passes ? this.unavailable(action, new S3Failure(code, message)) : this.refused(action, code, message)
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

/** The cause of an error that may pass. */
export class S3Failure extends Error {
  /** As S3 names it, or the HTTP status. */
  readonly code: string

  constructor(code: string, message: string) {
    super(`${code}: ${message}`)
    this.code = code
  }
}

/** The body was hurt or cut off, the server is busy, or somebody cleaned up an upload that then begins anew. */
const RETRIED: ReadonlySet<string> = new Set([
  'RequestTimeout',
  'BadDigest',
  'IncompleteBody',
  'XAmzContentSHA256Mismatch',
  'SlowDown',
  'InternalError',
  'NoSuchUpload',
])

/** The text of the first `<name>`; S3's answers are flat enough for that. */
export function elementOf(xml: string, name: string): string | null {
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

export async function bytesOf(response: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

export async function textOf(response: IncomingMessage): Promise<string> {
  return (await bytesOf(response)).toString('utf8')
}
