/**
 * A port for a server of a test that has to be told one, for s3-server.ts and postgres-server.ts.
 *
 * It lies below those that systems give to outgoing connections, one of which could take it before the server listens,
 * or while the server is restarted.
 */
import { createServer } from 'node:net'

const FIRST = 20_000
const LAST = 32_000

function isFree(port: number): Promise<boolean> {
  const probe = createServer()
  return new Promise((resolve) => {
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}

export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST))
    if (await isFree(port)) return port
  }
}
