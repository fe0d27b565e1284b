/** The socket source against real TCP connections. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { test } from 'node:test'
import { StreamExecutionEnvironment } from '../../engine/api/index.ts'
import { readRows, TestReaderContext } from '../testing-context.ts'
import { socketSource } from './index.ts'

/** Serves each connection with `serve`. */
async function withServer<R>(serve: (socket: Socket) => void, body: (port: number) => Promise<R>): Promise<R> {
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    serve(socket)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    return await body((server.address() as AddressInfo).port)
  } finally {
    for (const socket of sockets) socket.destroy()
    server.close()
  }
}

test('reads lines however they are cut into packets, the last one without a newline too', async () => {
  const text = 'one\r\ntwo\n\nfür dich\nlast'
  const serve = (socket: Socket) => {
    const bytes = Buffer.from(text)
    let at = 0
    const next = (): void => {
      if (at === bytes.length) socket.end()
      else socket.write(bytes.subarray(at, ++at), () => setImmediate(next))
    }
    next()
  }
  await withServer(serve, async (port) => {
    const { rows, ended } = await readRows(socketSource({ host: '127.0.0.1', port }))
    assert.deepEqual(rows, ['one', 'two', '', 'für dich', 'last'])
    assert.equal(ended, true)
  })
})

test('a job counts words of a socket, with another delimiter', async () => {
  await withServer(
    (socket) => socket.end('a;b;a;c;a;'),
    async (port) => {
      const env = StreamExecutionEnvironment.createEnvironment()
      const rows = await env
        .socketTextStream('127.0.0.1', port, { delimiter: ';' })
        .map((word) => `${word}!`)
        .executeAndCollect()
      assert.deepEqual(rows, ['a!', 'b!', 'a!', 'c!', 'a!'])
    },
  )
})

test('connects again after the peer closed, as often as it may', async () => {
  let connections = 0
  await withServer(
    (socket) => socket.end(`connection ${++connections}\n`),
    async (port) => {
      const { rows } = await readRows(socketSource({ host: '127.0.0.1', port, maxRetries: 1 }))
      assert.deepEqual(rows, ['connection 1', 'connection 2'])
    },
  )
})

test('nobody listening fails the job with advice; records too long are dead letters', async () => {
  // A port that was free a moment ago may be another process's now; nobody has the first one.
  await assert.rejects(readRows(socketSource({ host: '127.0.0.1', port: 1 })), { code: 'SOCKET_FAILED' })
  assert.throws(() => socketSource({ host: 'x', port: 0 }), { code: 'OPTION_INVALID' })
  await withServer(
    (socket) => socket.end('short\nfar too long\nend\n'),
    async (open) => {
      const { rows, letters } = await readRows(socketSource({ host: '127.0.0.1', port: open, recordBytesMax: 5 }))
      assert.deepEqual(rows, ['short', 'end'])
      assert.equal(Buffer.from(letters[0]!.bytes).toString(), 'far too long')
    },
  )
})

test('a slow reader pushes back on the peer', async () => {
  const total = 32 * 1_024 * 1_024
  let written = 0
  const line = Buffer.from(`${'x'.repeat(1_023)}\n`)
  const serve = (socket: Socket) => {
    const more = (): void => {
      while (written < total) {
        written += line.length
        if (!socket.write(line)) return
      }
      socket.end()
    }
    socket.on('drain', more)
    more()
  }
  await withServer(serve, async (port) => {
    const context = new TestReaderContext()
    const reader = socketSource({ host: '127.0.0.1', port }).createReader(context)
    await reader.open([{ id: 'socket', position: null }])
    await new Promise((resolve) => setTimeout(resolve, 200))
    assert.ok(written < total, 'the peer had to wait')
    let rows = 0
    for (;;) {
      const polled = reader.poll(2_048)
      if (polled.kind === 'end') break
      if (polled.kind === 'batch') rows += polled.batch.length
      else await context.woke()
    }
    assert.equal(rows, total / line.length)
    await reader.close()
  })
})
