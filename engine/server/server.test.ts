/**
 * The server over real HTTP: every route, token, Host check, ports, the page and its stream.
 */
import assert from 'node:assert/strict'
import { get, type IncomingMessage } from 'node:http'
import { createServer, type Server } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import { MillraceError } from '../core/errors.ts'
import type { JobControl } from '../runtime/status.ts'
import { type ServerHandle, startServer } from './server.ts'
import { send, type TestAnswer } from './server-client.ts'
import { type FixtureJob, fixtureJob, fixtureNowMs, fixtureRefusal, fixtureStatus } from './server-fixture.ts'

type Json = Record<string, unknown>

function errorCode(answer: TestAnswer): unknown {
  const body = answer.json() as Json
  assert.deepEqual(Object.keys(body).sort(), ['code', 'hint', 'message'])
  assert.doesNotMatch(answer.text, /\bat .*\.(ts|js):\d+|node_modules/)
  return body['code']
}

function occupy(port: number): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve(server))
  })
}

function release(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()))
}

async function rejection(promise: Promise<unknown>): Promise<MillraceError> {
  const error: unknown = await promise.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof MillraceError, `rejects with a MillraceError, got ${String(error)}`)
  return error
}

describe('a server with a job', () => {
  let job: FixtureJob
  let jobs: JobControl[]
  let server: ServerHandle
  const warnings: string[] = []
  const read = (path: string) => send(server.port, path)
  const post = (path: string, body?: string, headers: Record<string, string> = {}) =>
    send(server.port, path, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${server.token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body }),
    })

  before(async () => {
    const logger = { info() {}, warn: (message: string) => warnings.push(message) }
    server = await startServer({ port: 0, jobs: () => jobs, nowMs: () => fixtureNowMs, logger })
  })
  beforeEach(() => {
    job = fixtureJob()
    jobs = [job]
    warnings.length = 0
  })
  after(() => server.close())

  test('health', async () => {
    assert.deepEqual([(await read('/health/live')).status, (await read('/health/ready')).status], [200, 200])
    job.set(fixtureStatus({ state: 'restarting' }))
    const notReady = await read('/health/ready')
    assert.equal(notReady.status, 503)
    assert.deepEqual(notReady.json(), { status: 'not-ready', states: ['restarting'] })
    jobs = []
    assert.equal((await read('/health/ready')).status, 503)
    assert.equal((await read('/health/live')).status, 200)
  })

  test('jobs and one job', async () => {
    const { jobs: list } = (await read('/api/jobs')).json() as { jobs: Json[] }
    assert.equal(list.length, 1)
    assert.deepEqual(list[0]?.['totals'], {
      recordsIn: 1500,
      recordsOut: 148,
      late: 4,
      filtered: 3,
      deadLettered: 7,
      stateBytes: 3072,
    })
    const one = (await read('/api/jobs/job-1')).json() as Json
    assert.equal(one['name'], 'Pattern "detection"')
    assert.equal(one['watermarkMs'], fixtureNowMs - 6000)
    assert.equal((one['exceptions'] as Json[])[0]?.['stack'], null, 'stacks only through the exceptions route')
  })

  test('graph, subtasks, checkpoints and exceptions', async () => {
    const graph = (await read('/api/jobs/job-1/graph')).json() as { vertices: Json[]; edges: Json[] }
    assert.deepEqual([graph.vertices.length, graph.edges.length], [3, 2])
    const { subtasks } = (await read('/api/jobs/job-1/subtasks')).json() as { subtasks: Json[] }
    assert.deepEqual(subtasks.map((subtask) => subtask['vertexName']).slice(1, 3), ['learning-events', 'windows'])
    const checkpoints = (await read('/api/jobs/job-1/checkpoints')).json() as Json
    assert.deepEqual([checkpoints['completed'], checkpoints['failed']], [40, 1])
    assert.equal((checkpoints['checkpoints'] as Json[])[0]?.['durationMs'], 34)
    const { exceptions } = (await read('/api/jobs/job-1/exceptions')).json() as { exceptions: Json[] }
    assert.match(String(exceptions[0]?.['stack']), /job\.ts:12/)
  })

  test('watermarks name the split that holds time back', async () => {
    const view = (await read('/api/jobs/job-1/watermarks')).json() as Json
    const held = view['heldBackBy'] as Json
    assert.equal(held['split'], 'learning-events-1', 'the idle split is older, but holds nothing back')
    assert.equal(held['vertexName'], 'learning-events')
    assert.equal(held['behindMs'], 4000)
    assert.equal(view['lagMs'], 6000)
    const splits = view['splits'] as Json[]
    assert.deepEqual(
      splits.map((split) => split['holdsTimeBack']),
      [false, true, false, false],
    )
  })

  test('what is not there is 404', async () => {
    for (const path of ['/api/jobs/nope', '/api/jobs/nope/graph', '/api/jobs/nope/events']) {
      const answer = await read(path)
      assert.deepEqual([answer.status, errorCode(answer)], [404, 'JOB_NOT_FOUND'], path)
    }
    for (const path of ['/nope', '/api/jobs/job-1/nope', '/../package.json', '/ui/main.js', '/main.js/..%2f..%2fx']) {
      const answer = await read(path)
      assert.deepEqual([answer.status, errorCode(answer)], [404, 'NOT_FOUND'], path)
    }
    assert.equal(errorCode(await post('/api/jobs/nope/stop')), 'JOB_NOT_FOUND')
    assert.equal((await read('/api/jobs/%zz')).status, 400)
  })

  test('actions reach the job', async () => {
    const savepoint = await post('/api/jobs/job-1/savepoints')
    assert.deepEqual([savepoint.status, savepoint.json()], [200, { path: 'checkpoints/savepoint-45' }])
    assert.equal((await post('/api/jobs/job-1/rescale', '{"parallelism":4}')).status, 200)
    assert.equal((await post('/api/jobs/job-1/stop', '')).status, 200)
    assert.equal((await post('/api/jobs/job-1/cancel', '{}')).status, 200)
    assert.deepEqual(job.calls, ['savepoint', 'rescale 4', 'stop', 'cancel'])
  })

  test('actions need the token, whatever else is right', async () => {
    const wrong = [undefined, 'Bearer', 'Bearer ', `Bearer ${server.token}x`, `Basic ${server.token}`, server.token]
    for (const action of ['savepoints', 'stop', 'cancel', 'rescale']) {
      for (const authorization of wrong) {
        const headers = authorization === undefined ? {} : { authorization }
        const answer = await send(server.port, `/api/jobs/job-1/${action}`, { method: 'POST', headers, body: '{' })
        assert.deepEqual([answer.status, errorCode(answer)], [401, 'TOKEN_REQUIRED'], `${action} ${authorization}`)
        assert.match(String(answer.headers['www-authenticate']), /^Bearer/)
        assert.ok(!answer.text.includes(server.token))
      }
    }
    assert.deepEqual(job.calls, [])
  })

  test('bad bodies are refused', async () => {
    const path = '/api/jobs/job-1/rescale'
    for (const body of ['{}', '[]', 'null', '4', '{"parallelism":0}', '{"parallelism":1.5}', '{"parallelism":"2"}']) {
      const answer = await post(path, body)
      assert.deepEqual([answer.status, errorCode(answer)], [400, 'BAD_PARALLELISM'], body)
    }
    for (const body of ['{', '{"__proto__":{"parallelism":2}}', '{"constructor":{"prototype":1}}']) {
      const answer = await post(path, body)
      assert.deepEqual([answer.status, errorCode(answer)], [400, 'BAD_REQUEST'], body)
    }
    const large = await post(path, JSON.stringify({ parallelism: 2, pad: 'x'.repeat(5000) }))
    assert.deepEqual([large.status, errorCode(large)], [413, 'BODY_TOO_LARGE'])
    const text = await post(path, 'parallelism=2', { 'content-type': 'text/plain' })
    assert.deepEqual([text.status, errorCode(text)], [415, 'UNSUPPORTED_MEDIA_TYPE'])
    assert.deepEqual(job.calls, [])
  })

  test('a job in the wrong state is a conflict', async () => {
    job.set(fixtureStatus({ state: 'finished' }))
    for (const action of ['savepoints', 'stop', 'cancel']) {
      const answer = await post(`/api/jobs/job-1/${action}`)
      assert.deepEqual([answer.status, errorCode(answer)], [409, 'JOB_STATE'], action)
    }
    job.set(fixtureStatus({ state: 'restarting' }))
    assert.equal((await post('/api/jobs/job-1/rescale', '{"parallelism":2}')).status, 409)
    assert.equal((await post('/api/jobs/job-1/stop')).status, 200)
    assert.deepEqual(job.calls, ['stop'])
  })

  test('what the job throws becomes a plain error', async () => {
    job.failNext(fixtureRefusal)
    const refused = await post('/api/jobs/job-1/savepoints')
    assert.equal(refused.status, 409)
    assert.deepEqual(refused.json(), {
      code: 'CHECKPOINT_RUNNING',
      message: 'A checkpoint is running.',
      hint: 'Try again in a second.',
    })
    job.failNext(new MillraceError('DISK_FULL', 'The disk is full.', { domain: 'external' }))
    assert.equal((await post('/api/jobs/job-1/savepoints')).status, 503)
    job.failNext(new Error('secret detail'))
    const broken = await post('/api/jobs/job-1/savepoints')
    assert.deepEqual([broken.status, errorCode(broken)], [500, 'INTERNAL'])
    assert.ok(!broken.text.includes('secret'))
    assert.deepEqual(warnings, ['POST /api/jobs/:id/savepoints failed: secret detail'])
  })

  test('only known Host headers are answered', async () => {
    const { port } = server
    for (const host of ['localhost', `localhost:${port}`, `127.0.0.1:${port}`, '[::1]:80', 'LOCALHOST']) {
      assert.equal((await send(port, '/api/jobs', { headers: { host } })).status, 200, host)
    }
    for (const host of ['evil.example', `evil.example:${port}`, 'localhost.evil.example', '10.0.0.1', 'a@127.0.0.1']) {
      for (const path of ['/', '/api/jobs', '/metrics', '/nope', '/api/jobs/job-1/events']) {
        const answer = await send(port, path, { headers: { host } })
        assert.deepEqual([answer.status, errorCode(answer)], [403, 'HOST_NOT_ALLOWED'], `${host} ${path}`)
      }
    }
  })

  test('security headers everywhere, and no CORS', async () => {
    const origin = { origin: 'http://evil.example' }
    for (const path of ['/', '/main.js', '/api/jobs', '/nope', '/metrics']) {
      const { headers } = await send(server.port, path, { headers: origin })
      assert.match(String(headers['content-security-policy']), /default-src 'none'/, path)
      assert.equal(headers['x-content-type-options'], 'nosniff')
      assert.equal(headers['access-control-allow-origin'], undefined)
    }
    const preflight = await send(server.port, '/api/jobs/job-1/stop', { method: 'OPTIONS', headers: origin })
    assert.equal(preflight.status, 404)
  })

  test('the page and every module it imports are served', async () => {
    const page = await read('/')
    assert.equal(page.headers['content-type'], 'text/html; charset=utf-8')
    const open = [...page.text.matchAll(/(?:src|href)="(\/[a-z-]+\.\w+)"/g)].map((match) => String(match[1]))
    const seen = new Set<string>()
    for (let path = open.pop(); path !== undefined; path = open.pop()) {
      if (seen.has(path)) continue
      seen.add(path)
      const answer = await read(path)
      assert.equal(answer.status, 200, path)
      for (const match of answer.text.matchAll(/from '\.(\/[a-z-]+\.js)'/g)) open.push(String(match[1]))
    }
    assert.ok(seen.has('/style.css') && seen.has('/main.js') && seen.has('/layout.js'))
  })
})

describe('events', () => {
  const openStream = (port: number, path = '/api/jobs/job-1/events') =>
    new Promise<IncomingMessage>((resolve, reject) => {
      get({ host: '127.0.0.1', port, path, agent: false }, resolve).on('error', reject)
    })

  /** Reads until the text has what is looked for; rejects at the end of the stream. */
  const readUntil = (stream: IncomingMessage, pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      let text = ''
      const onData = (chunk: Buffer) => {
        text += chunk.toString('utf8')
        if (!pattern.test(text)) return
        stream.off('data', onData)
        resolve(text)
      }
      stream.on('data', onData)
      stream.on('end', () => reject(new Error(`ended after: ${text.slice(-200)}`)))
    })

  test('the status comes at once and then twice a second', async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] })
    const job = fixtureJob()
    let looks = 0
    const jobs = () => {
      looks++
      return [job]
    }
    const server = await startServer({ port: 0, jobs })
    try {
      const stream = await openStream(server.port)
      assert.equal(stream.headers['content-type'], 'text/event-stream; charset=utf-8')
      assert.match(String(stream.headers['content-security-policy']), /default-src/)
      const first = await readUntil(stream, /\n\n.*\n\n/s)
      const data = JSON.parse(/^data: (.*)$/m.exec(first)?.[1] ?? '') as Json
      assert.equal(data['state'], 'running')
      assert.equal((data['heldBackBy'] as Json)['split'], 'learning-events-1')
      job.set(fixtureStatus({ state: 'stopping' }))
      const looksAtFirst = looks
      t.mock.timers.tick(499)
      assert.equal(looks, looksAtFirst)
      t.mock.timers.tick(1)
      assert.equal(looks, looksAtFirst + 1)
      await readUntil(stream, /"state":"stopping"/)
      stream.destroy()
    } finally {
      await server.close()
    }
  })

  test('a job that is gone ends the stream; so does closing the server', async () => {
    let jobs: JobControl[] = [fixtureJob()]
    const server = await startServer({ port: 0, jobs: () => jobs })
    const gone = await openStream(server.port)
    jobs = []
    await readUntil(gone, /event: gone/)
    jobs = [fixtureJob()]
    const other = await openStream(server.port)
    await readUntil(other, /event: status/)
    const ended = new Promise((resolve) => other.on('close', resolve))
    let rest = ''
    other.on('data', (chunk) => {
      rest += chunk
    })
    jobs = [fixtureJob(fixtureStatus({ state: 'finished' }))]
    await server.close()
    await ended
    assert.match(rest, /"state":"finished".*\n\n$/, 'the last event says how the job ended')
    assert.ok(other.complete, 'an open stream is ended, and not cut off once closing has waited for it')
  })

  test('streams are bounded, and one that disconnects makes room', async () => {
    const server = await startServer({ port: 0, jobs: () => [fixtureJob()] })
    try {
      const streams = await Promise.all(Array.from({ length: 32 }, () => openStream(server.port)))
      for (const stream of streams) assert.equal(stream.statusCode, 200)
      const refused = await send(server.port, '/api/jobs/job-1/events')
      assert.deepEqual([refused.status, errorCode(refused)], [503, 'TOO_MANY_STREAMS'])
      streams[0]?.destroy()
      let status = 503
      for (let attempt = 0; attempt < 50 && status === 503; attempt++) {
        await new Promise((resolve) => setTimeout(resolve, 20))
        const stream = await openStream(server.port)
        status = stream.statusCode ?? 0
        stream.destroy()
      }
      assert.equal(status, 200)
      for (const stream of streams) stream.destroy()
    } finally {
      await server.close()
    }
  })
})

describe('starting', () => {
  const jobs = () => []

  test('the default port gives way to the next free one', async () => {
    // Other jobs on this machine may hold ports from 8081 on, and let go of them at any time.
    const blocker = await occupy(8081).catch(() => null)
    const first = await startServer({ jobs })
    const second = await startServer({ jobs })
    try {
      const least = blocker === null ? 8081 : 8082
      assert.ok(
        Math.min(first.port, second.port) >= least && first.port !== second.port,
        `${first.port} ${second.port}`,
      )
      assert.ok(Math.max(first.port, second.port) < 8081 + 100, `${first.port} ${second.port}`)
      assert.equal(second.url, `http://127.0.0.1:${second.port}`)
      assert.equal((await send(second.port, '/health/live')).status, 200)
      assert.notEqual(first.token, second.token)
      assert.ok(first.token.length >= 43)
    } finally {
      await Promise.all([first.close(), second.close(), blocker === null ? null : release(blocker)])
    }
  })

  test('an explicit port that is taken is an error with advice', async () => {
    const running = await startServer({ port: 0, jobs })
    const error = await rejection(startServer({ port: running.port, jobs }))
    assert.equal(error.code, 'PORT_TAKEN')
    assert.match(error.message, new RegExp(`${running.port}.*--port`))
    await running.close()
    const again = await startServer({ port: running.port, jobs })
    await again.close()
  })

  test('ports and hosts that cannot be', async () => {
    for (const port of [-1, 65_536, 1.5, Number.NaN]) {
      assert.equal((await rejection(startServer({ port, jobs }))).code, 'BAD_PORT')
    }
    const token = 'a-token-of-enough-characters'
    assert.equal((await rejection(startServer({ port: 0, host: '192.0.2.1', token, jobs }))).code, 'HOST_NOT_AVAILABLE')
  })

  test('a public address needs a token that cannot be guessed', async () => {
    for (const host of ['0.0.0.0', '::', '192.168.1.5', 'example.com']) {
      assert.equal((await rejection(startServer({ port: 0, host, jobs }))).code, 'TOKEN_REQUIRED', host)
      assert.equal((await rejection(startServer({ port: 0, host, token: '', jobs }))).code, 'TOKEN_REQUIRED', host)
    }
    assert.equal(
      (await rejection(startServer({ port: 0, host: '0.0.0.0', token: 'short', jobs }))).code,
      'TOKEN_TOO_SHORT',
    )
  })

  test('on a public address reading needs the token too, but not health and the page', async () => {
    const warnings: string[] = []
    const logger = { info() {}, warn: (message: string) => warnings.push(message) }
    const token = 'a-token-of-enough-characters'
    const server = await startServer({ port: 0, host: '0.0.0.0', token, jobs: () => [fixtureJob()], logger })
    try {
      assert.match(warnings.join(), /without TLS/)
      assert.equal(server.url, `http://127.0.0.1:${server.port}`)
      for (const path of ['/health/live', '/health/ready', '/', '/main.js']) {
        assert.equal((await send(server.port, path)).status, 200, path)
      }
      for (const path of ['/api/jobs', '/metrics', '/api/jobs/job-1', '/api/jobs/job-1/exceptions']) {
        assert.equal((await send(server.port, path)).status, 401, path)
        const headers = { authorization: `Bearer ${token}` }
        assert.equal((await send(server.port, path, { headers })).status, 200, path)
      }
      assert.equal((await send(server.port, '/api/jobs/job-1/events')).status, 401)
      assert.equal((await send(server.port, '/', { headers: { host: '10.1.2.3:8081' } })).status, 200)
      assert.equal((await send(server.port, '/', { headers: { host: 'evil.example' } })).status, 403)
    } finally {
      await server.close()
    }
  })
})
