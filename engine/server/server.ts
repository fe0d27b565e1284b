/**
 * The HTTP server of a running process: REST, Prometheus metrics and the live page.
 *
 * The command line starts one per process, and closes it after the last job. Invariants: binds to
 * loopback unless told otherwise, never to a public address without a token; no CORS; no request path
 * reaches the file system; `close` ends every stream and waits a bounded time for answers under way.
 */
import type { AddressInfo } from 'node:net'
import { type FastifyInstance, fastify } from 'fastify'
import { MillraceError, messageOf } from '../core/errors.ts'
import type { JobControl } from '../runtime/status.ts'
import { EventStreams } from './events.ts'
import { HttpError, toHttpError } from './http-errors.ts'
import { ProcessMetrics } from './process-metrics.ts'
import { findJob, registerRoutes } from './routes.ts'
import { chooseToken, isHostAllowed, isLoopbackHost, securityHeaders } from './security.ts'
import { readStaticFiles } from './static-files.ts'

const portDefault = 8081
const portsTried = 100
const bodyBytesMax = 4096
const closeMsMax = 2000

export interface ServerLogger {
  info(message: string): void
  warn(message: string): void
}

export interface ServerOptions {
  /** An explicit port must be free; 0 lets the system choose. Default: 8081, else the next free one. */
  readonly port?: number | undefined
  /** Address or name to listen on, default 127.0.0.1. */
  readonly host?: string | undefined
  /** At least 16 characters. Without one a random token is made, on loopback only. */
  readonly token?: string | undefined
  /** The jobs of this process, asked anew for every request. */
  readonly jobs: () => readonly JobControl[]
  readonly logger?: ServerLogger | undefined
  /** Processing time, milliseconds since 1970 UTC. */
  readonly nowMs?: (() => number) | undefined
}

export interface ServerHandle {
  /** `http://HOST:PORT`, with an address that works on this machine. */
  readonly url: string
  readonly port: number
  /** What POST requests must present; to be stored for the command line with mode 0600. */
  readonly token: string
  close(): Promise<void>
}

function registerJson(server: FastifyInstance): void {
  const parse = server.getDefaultJsonParser('error', 'error')
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    const text = String(body)
    if (text === '') done(null, undefined)
    else parse(request, text, done)
  })
}

function registerPolicies(server: FastifyInstance, host: string, logger: ServerLogger | undefined): void {
  server.addHook('onRequest', async (request, reply) => {
    reply.headers({ ...securityHeaders, 'cache-control': 'no-store' })
    if (!isHostAllowed(request.headers.host, host)) {
      const hint = 'Open the address that was printed at start.'
      throw new HttpError(403, 'HOST_NOT_ALLOWED', 'This Host header is not one of this server.', hint)
    }
  })
  server.setErrorHandler(async (error, request, reply) => {
    const { status, body, expected } = toHttpError(error)
    if (!expected) logger?.warn(`${request.method} ${request.routeOptions.url ?? '?'} failed: ${messageOf(error)}`)
    return reply.code(status).type('application/json; charset=utf-8').send(body)
  })
  server.setNotFoundHandler(async () => {
    throw new HttpError(404, 'NOT_FOUND', 'There is nothing at this path.', 'GET /api/jobs lists the jobs.')
  })
}

function registerPage(server: FastifyInstance): void {
  for (const file of readStaticFiles()) {
    server.get(file.path, async (_request, reply) =>
      reply.header('cache-control', 'no-cache').type(file.type).send(file.body),
    )
  }
}

function listenError(error: unknown, host: string, port: number): MillraceError {
  const code = (error as NodeJS.ErrnoException | null)?.code
  const options = { domain: 'user' as const, cause: error }
  switch (code) {
    case 'EADDRINUSE':
      return new MillraceError('PORT_TAKEN', `Port ${port} on ${host} is taken.`, {
        ...options,
        hint: 'Choose another with --port, or leave --port out to get the next free one.',
      })
    case 'EACCES':
      return new MillraceError('PORT_NOT_ALLOWED', `This user may not listen on port ${port}.`, {
        ...options,
        hint: 'Choose a port above 1023.',
      })
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return new MillraceError('HOST_NOT_AVAILABLE', `This machine has no address "${host}".`, {
        ...options,
        hint: 'Use 127.0.0.1, or an address that this machine owns.',
      })
    default:
      return new MillraceError('LISTEN_FAILED', `Could not listen on ${host}:${port}: ${messageOf(error)}.`, options)
  }
}

/** Listens on the port asked for, or on the first free one from the default upwards; resolves to the port. */
async function listen(server: FastifyInstance, host: string, port: number | undefined): Promise<number> {
  const first = port ?? portDefault
  const last = port ?? portDefault + portsTried - 1
  for (let candidate = first; ; candidate++) {
    try {
      await server.listen({ host, port: candidate })
      return (server.server.address() as AddressInfo).port
    } catch (error) {
      const isTaken = (error as NodeJS.ErrnoException | null)?.code === 'EADDRINUSE'
      if (!isTaken || candidate >= last) throw listenError(error, host, candidate)
    }
  }
}

function checkPort(port: number | undefined): void {
  if (port === undefined || (Number.isInteger(port) && port >= 0 && port <= 65_535)) return
  throw new MillraceError('BAD_PORT', `${port} is not a port.`, { hint: 'Use a whole number from 0 to 65535.' })
}

/** An address to open in a browser on this machine: wildcard addresses are reached over loopback. */
function urlOf(host: string, port: number): string {
  const open = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  return `http://${open.includes(':') ? `[${open}]` : open}:${port}`
}

/** Ends streams, lets answers under way finish for a bounded time, then closes what is left. */
async function closeServer(server: FastifyInstance, events: EventStreams, metrics: ProcessMetrics): Promise<void> {
  metrics.close()
  events.close()
  const timer = setTimeout(() => server.server.closeAllConnections(), closeMsMax)
  try {
    await server.close()
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Starts the server and resolves once it listens.
 *
 * @throws MillraceError PORT_TAKEN, PORT_NOT_ALLOWED, BAD_PORT, HOST_NOT_AVAILABLE, LISTEN_FAILED,
 *   TOKEN_REQUIRED, TOKEN_TOO_SHORT, PAGE_MISSING.
 */
export async function startServer(options: ServerOptions): Promise<ServerHandle> {
  checkPort(options.port)
  const asked = (options.host ?? '127.0.0.1').replace(/^\[(.*)\]$/, '$1')
  const host = asked === 'localhost' ? '127.0.0.1' : asked
  const token = chooseToken(host, options.token)
  const nowMs = options.nowMs ?? Date.now
  const isPublic = !isLoopbackHost(host)
  const server = fastify({
    bodyLimit: bodyBytesMax,
    logger: false,
    forceCloseConnections: 'idle',
    requestTimeout: 10_000,
    routerOptions: { maxParamLength: 200 },
  })
  const events = new EventStreams({ find: (id) => findJob(options.jobs(), id), nowMs, headers: securityHeaders })
  const metrics = new ProcessMetrics()
  registerJson(server)
  registerPolicies(server, host, options.logger)
  registerPage(server)
  registerRoutes(server, {
    jobs: options.jobs,
    token,
    readsNeedToken: isPublic,
    nowMs,
    events,
    writeProcess: (exposition) => metrics.writeTo(exposition),
  })
  try {
    const port = await listen(server, host, options.port)
    if (isPublic)
      options.logger?.warn(`The dashboard listens on ${host}:${port} without TLS; put a TLS proxy before it.`)
    return { url: urlOf(host, port), port, token, close: () => closeServer(server, events, metrics) }
  } catch (error) {
    await closeServer(server, events, metrics)
    throw error
  }
}
