/**
 * A proxy in front of an S3 server that loses requests or replies, for tests. It passes the `Host` that the client sent
 * on, so signatures hold.
 */
import { createServer, type IncomingMessage, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'

/** What becomes of one request: `refused` is cut off unread, `lost` has its effect and no answer, `busy` is a 503. */
export type RequestFate = 'answered' | 'refused' | 'lost' | 'busy'

export interface S3Proxy {
  readonly endpoint: string
  /** As in `PUT /bucket/key?partNumber=1&uploadId=x`, in the order in which they came. */
  readonly requests: string[]
  /** Asked before each request. */
  fate: (request: string) => RequestFate
  stop(): Promise<void>
}

export async function startProxy(target: string): Promise<S3Proxy> {
  const server = createServer(async (incoming, outgoing) => {
    const line = `${incoming.method} ${incoming.url}`
    proxy.requests.push(line)
    const fate = proxy.fate(line)
    if (fate === 'refused') return void incoming.socket.destroy()
    if (fate === 'busy') {
      incoming.resume()
      outgoing.writeHead(503).end('<Error><Code>SlowDown</Code><Message>Later.</Message></Error>')
      return
    }
    const { method, headers } = incoming
    const forwarded = request(new URL(incoming.url!, target), { method: method!, headers, agent: false })
    const answer = new Promise<IncomingMessage>((resolve, reject) => {
      forwarded.on('response', resolve).on('error', reject)
    })
    try {
      await pipeline(incoming, forwarded)
      const response = await answer
      if (fate === 'lost') {
        for await (const _ of response);
        incoming.socket.destroy()
        return
      }
      outgoing.writeHead(response.statusCode!, response.headers)
      await pipeline(response, outgoing)
    } catch {
      incoming.socket.destroy()
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const proxy: S3Proxy = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests: [],
    fate: () => 'answered',
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return proxy
}
