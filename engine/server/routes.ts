/**
 * The REST routes: health, metrics, and what can be read from and asked of a job.
 *
 * server.ts registers them. Invariants: reading never changes a job; every POST needs the token,
 * before its body is read; a request for a job that cannot do it now is refused with 409 here, before
 * the job is asked.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { JobControl, JobState, JobStatus } from '../runtime/status.ts'
import type { EventStreams } from './events.ts'
import type { Exposition } from './exposition.ts'
import { HttpError } from './http-errors.ts'
import { renderMetrics } from './metrics.ts'
import { isAuthorized } from './security.ts'
import {
  checkpointsView,
  exceptionsView,
  graphView,
  jobDetail,
  jobSummary,
  subtasksView,
  watermarksView,
} from './views.ts'

export interface RouteOptions {
  readonly jobs: () => readonly JobControl[]
  readonly token: string
  /** True on a public address: then what can be read needs the token too, but for health and the page itself. */
  readonly readsNeedToken: boolean
  readonly nowMs: () => number
  readonly events: EventStreams
  readonly writeProcess: (exposition: Exposition) => void
}

export type JobAction = 'savepoints' | 'stop' | 'cancel' | 'rescale'

const allowedIn: Readonly<Record<JobAction, readonly JobState[]>> = {
  savepoints: ['starting', 'running', 'restarting'],
  rescale: ['starting', 'running'],
  stop: ['starting', 'running', 'restarting'],
  cancel: ['starting', 'running', 'restarting', 'stopping'],
}

const refusalHint: Readonly<Record<JobState, string>> = {
  starting: '',
  running: '',
  restarting: 'Try again when the job runs.',
  stopping: 'Wait until the job has stopped, or cancel it.',
  finished: 'The job has ended; start it again.',
  failed: 'The job has ended; start it again.',
  cancelled: 'The job has ended; start it again.',
}

type JobParams = { Params: { id: string } }

/** The job with this id, or null. */
export function findJob(jobs: readonly JobControl[], id: string): JobControl | null {
  return jobs.find((job) => job.status().id === id) ?? null
}

function requireJob(options: RouteOptions, id: string): { job: JobControl; status: JobStatus } {
  for (const job of options.jobs()) {
    const status = job.status()
    if (status.id === id) return { job, status }
  }
  throw new HttpError(404, 'JOB_NOT_FOUND', 'There is no job with this id.', 'GET /api/jobs lists the jobs.')
}

function requireToken(options: RouteOptions, request: FastifyRequest, reply: FastifyReply): void {
  if (isAuthorized(request.headers.authorization, options.token)) return
  reply.header('www-authenticate', 'Bearer realm="millrace"')
  throw new HttpError(
    401,
    'TOKEN_REQUIRED',
    'This request needs the token of the job.',
    'Send "Authorization: Bearer TOKEN"; a token made at start lies in the state directory.',
  )
}

function registerHealth(server: FastifyInstance, options: RouteOptions): void {
  server.get('/health/live', async () => ({ status: 'live' }))
  server.get('/health/ready', async (_request, reply) => {
    const states = options.jobs().map((job) => job.status().state)
    const isReady = states.includes('running')
    return reply.code(isReady ? 200 : 503).send({ status: isReady ? 'ready' : 'not-ready', states })
  })
}

function registerReads(server: FastifyInstance, options: RouteOptions): void {
  if (options.readsNeedToken) {
    server.addHook('onRequest', async (request, reply) => requireToken(options, request, reply))
  }
  server.get('/metrics', async (_request, reply) => {
    const statuses = options.jobs().map((job) => job.status())
    reply.header('content-type', 'text/plain; version=0.0.4; charset=utf-8')
    return renderMetrics(statuses, options.nowMs(), options.writeProcess)
  })
  server.get('/api/jobs', async () => ({ jobs: options.jobs().map((job) => jobSummary(job.status())) }))

  const views: Readonly<Record<string, (status: JobStatus) => object>> = {
    '': (status) => jobDetail(status, options.nowMs()),
    '/graph': graphView,
    '/subtasks': subtasksView,
    '/checkpoints': checkpointsView,
    '/exceptions': exceptionsView,
    '/watermarks': (status) => watermarksView(status, options.nowMs()),
  }
  for (const [path, view] of Object.entries(views)) {
    server.get<JobParams>(`/api/jobs/:id${path}`, async (request) =>
      view(requireJob(options, request.params.id).status),
    )
  }
  server.get<JobParams>('/api/jobs/:id/events', { exposeHeadRoute: false }, async (request, reply) => {
    requireJob(options, request.params.id)
    options.events.open(request.params.id, reply.raw)
    // Only now: when `open` refuses, the error handler still has to answer.
    reply.hijack()
  })
}

/** Checks `{ "parallelism": N }` and nothing else. */
function parallelismOf(body: unknown): number {
  const parallelism = (body as { parallelism?: unknown } | null | undefined)?.parallelism
  if (typeof parallelism === 'number' && Number.isSafeInteger(parallelism) && parallelism >= 1) return parallelism
  throw new HttpError(
    400,
    'BAD_PARALLELISM',
    'The body does not name a parallelism.',
    'Send {"parallelism": N} with a whole number of at least 1.',
  )
}

/** Checks an absent body, or `{ "stop": true | false }`. */
function stopOf(body: unknown): boolean {
  const stop = (body as { stop?: unknown } | null | undefined)?.stop ?? false
  if (typeof stop === 'boolean') return stop
  throw new HttpError(400, 'BAD_STOP', 'The body does not say whether to stop.', 'Send {"stop": true}, or no body.')
}

async function act(action: JobAction, job: JobControl, body: unknown): Promise<object> {
  switch (action) {
    case 'savepoints':
      return { path: await job.savepoint({ stop: stopOf(body) }) }
    case 'stop':
      await job.stop()
      return { stopped: true }
    case 'cancel':
      await job.cancel()
      return { cancelled: true }
    case 'rescale': {
      const parallelism = parallelismOf(body)
      await job.rescale(parallelism)
      return { parallelism }
    }
  }
}

function registerActions(server: FastifyInstance, options: RouteOptions): void {
  server.addHook('onRequest', async (request, reply) => requireToken(options, request, reply))
  for (const action of ['savepoints', 'stop', 'cancel', 'rescale'] as const) {
    server.post<JobParams>(`/api/jobs/:id/${action}`, async (request) => {
      const { job, status } = requireJob(options, request.params.id)
      if (action === 'rescale') parallelismOf(request.body)
      if (action === 'savepoints') stopOf(request.body)
      if (!allowedIn[action].includes(status.state)) {
        throw new HttpError(409, 'JOB_STATE', `The job is ${status.state}.`, refusalHint[status.state])
      }
      return act(action, job, request.body)
    })
  }
}

export function registerRoutes(server: FastifyInstance, options: RouteOptions): void {
  registerHealth(server, options)
  // Each `register` is a scope of its own: hooks added inside apply to its routes alone.
  server.register(async (scope) => registerReads(scope, options))
  server.register(async (scope) => registerActions(scope, options))
}
