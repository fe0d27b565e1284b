/**
 * AWS Signature Version 4 for S3 requests, after AWS's own description of the algorithm (Signature Version 4
 * signing process; "Authenticating Requests: Using the Authorization Header").
 *
 * Called by s3-object-store.ts. It is a page of code over node:crypto, so that the engine keeps without npm
 * dependencies; the tests hold it to the examples that AWS publishes.
 */
import { createHash, createHmac } from 'node:crypto'

export interface S3Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: string
  /** Of temporary credentials. */
  readonly sessionToken: string | null
}

export interface S3Request {
  readonly method: string
  /** With its query, unescaped characters only where a URL has them. */
  readonly url: URL
  readonly headers: Readonly<Record<string, string>>
  /** Hex SHA-256 of the body. */
  readonly payloadHash: string
}

export const EMPTY_PAYLOAD_HASH = createHash('sha256').digest('hex')

/** Every byte but the unreserved ones of RFC 3986 as %XX. */
export function escapeStrictly(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
}

function hmac(key: string | Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest()
}

function canonicalQuery(url: URL): string {
  return [...url.searchParams]
    .map(([name, value]) => `${escapeStrictly(name)}=${escapeStrictly(value)}`)
    .sort()
    .join('&')
}

/** The headers to send: those given and `host`, `x-amz-date`, `x-amz-content-sha256` and `authorization`. */
export function signedHeaders(
  request: S3Request,
  credentials: S3Credentials,
  region: string,
  nowMs: number,
): Record<string, string> {
  const stamp = new Date(nowMs).toISOString().replace(/[-:]|\.\d{3}/g, '')
  const day = stamp.slice(0, 8)
  const headers: Record<string, string> = {
    ...request.headers,
    host: request.url.host,
    'x-amz-content-sha256': request.payloadHash,
    'x-amz-date': stamp,
  }
  if (credentials.sessionToken !== null) headers['x-amz-security-token'] = credentials.sessionToken
  const names = Object.keys(headers).sort()
  const canonical = [
    request.method,
    // The path of a URL is escaped already, by whoever built it.
    request.url.pathname,
    canonicalQuery(request.url),
    ...names.map((name) => `${name}:${headers[name]!.trim()}`),
    '',
    names.join(';'),
    request.payloadHash,
  ].join('\n')
  const scope = `${day}/${region}/s3/aws4_request`
  const toSign = ['AWS4-HMAC-SHA256', stamp, scope, createHash('sha256').update(canonical).digest('hex')].join('\n')
  const key = hmac(hmac(hmac(hmac(`AWS4${credentials.secretAccessKey}`, day), region), 's3'), 'aws4_request')
  const signature = hmac(key, toSign).toString('hex')
  headers['authorization'] =
    `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope}, SignedHeaders=${names.join(';')}, Signature=${signature}`
  return headers
}
