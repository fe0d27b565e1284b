/**
 * A thread of raw-download.ts: says `ready`, and at any message fetches its objects by plain GETs into files, says
 * `done` and ends.
 *
 * Bytes go from the socket to the disk and nowhere else, so that the time is that of the transfer alone.
 */
import assert from 'node:assert/strict'
import { createWriteStream } from 'node:fs'
import { Agent as HttpAgent, get as httpGet, type IncomingMessage } from 'node:http'
import { Agent as HttpsAgent, get as httpsGet } from 'node:https'
import { pipeline } from 'node:stream/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { mapBounded } from '../engine/core/bounded.ts'
import { type S3Settings, s3UrlOf } from '../engine/runtime/s3-client.ts'
import { EMPTY_PAYLOAD_HASH, signedHeaders } from '../engine/runtime/s3-signature.ts'

export interface RawDownload {
  readonly settings: S3Settings
  readonly files: readonly { readonly key: string; readonly path: string }[]
  /** Downloads at a time. */
  readonly atOnce: number
}

const { settings, files, atOnce } = workerData as RawDownload
const isSecure = s3UrlOf(settings, '').protocol === 'https:'
const agent = new (isSecure ? HttpsAgent : HttpAgent)({ keepAlive: true, maxSockets: atOnce })

function begin(url: URL): Promise<IncomingMessage> {
  const request = { method: 'GET', url, headers: {}, payloadHash: EMPTY_PAYLOAD_HASH }
  const headers = signedHeaders(request, settings.credentials, settings.region, Date.now())
  return new Promise((resolve, reject) => {
    ;(isSecure ? httpsGet : httpGet)(url, { headers, agent }, resolve).on('error', reject)
  })
}

parentPort!.once('message', async () => {
  await mapBounded(files, atOnce, async ({ key, path }) => {
    const response = await begin(s3UrlOf(settings, key))
    assert.equal(response.statusCode, 200, key)
    await pipeline(response, createWriteStream(path, { flags: 'wx', highWaterMark: 1 << 20 }))
  })
  agent.destroy()
  parentPort!.postMessage('done')
})
parentPort!.postMessage('ready')
