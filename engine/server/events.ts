/**
 * Server-Sent Events: pushes each job's detail to the pages that watch it.
 *
 * server.ts owns one `EventStreams`; routes.ts hands it responses. Invariants: at most
 * `connectionsMax` streams; one timer for all of them, only while there is one; a status is taken and
 * serialised once a tick, however many watch; a client that does not read gets no further event
 * queued and is cut off after `stallMsMax`.
 */
import type { ServerResponse } from 'node:http'
import type { JobControl } from '../runtime/status.ts'
import { HttpError } from './http-errors.ts'
import { jobDetail } from './views.ts'

const tickMs = 500
const connectionsMax = 32
const stallMsMax = 30_000

interface Connection {
  readonly jobId: string
  readonly response: ServerResponse
  /** When the client last had room, `nowMs`. */
  drainedAtMs: number
}

export interface EventStreamsOptions {
  readonly find: (jobId: string) => JobControl | null
  readonly nowMs: () => number
  readonly headers: Readonly<Record<string, string>>
}

export class EventStreams {
  readonly #options: EventStreamsOptions
  readonly #connections = new Set<Connection>()
  #timer: NodeJS.Timeout | null = null

  constructor(options: EventStreamsOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#connections.size
  }

  /** Starts a stream on a response whose head was not sent yet. */
  open(jobId: string, response: ServerResponse): void {
    if (this.#connections.size >= connectionsMax) {
      throw new HttpError(503, 'TOO_MANY_STREAMS', `${connectionsMax} pages watch already.`, 'Close one and try again.')
    }
    const event = this.#render(jobId)
    if (event === null) throw new HttpError(404, 'JOB_NOT_FOUND', 'The job is gone.', 'GET /api/jobs lists the jobs.')
    response.writeHead(200, {
      ...this.#options.headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    })
    const connection: Connection = { jobId, response, drainedAtMs: this.#options.nowMs() }
    this.#connections.add(connection)
    response.on('close', () => this.#forget(connection))
    response.on('error', () => this.#forget(connection))
    response.write(`retry: 2000\n\n${event}`)
    this.#timer ??= setInterval(() => this.#tick(), tickMs).unref()
  }

  /** Ends all streams, each with a last event: how its job ended, if that is why the server closes. */
  close(): void {
    for (const { jobId, response } of [...this.#connections]) {
      response.end(response.writableNeedDrain ? '' : (this.#render(jobId) ?? ''))
    }
    this.#connections.clear()
    this.#stopTimer()
  }

  #forget(connection: Connection): void {
    this.#connections.delete(connection)
    if (this.#connections.size === 0) this.#stopTimer()
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
  }

  /** One event, or null when the job is gone or cannot say how it is. */
  #render(jobId: string): string | null {
    try {
      const job = this.#options.find(jobId)
      if (job === null) return null
      return `event: status\ndata: ${JSON.stringify(jobDetail(job.status(), this.#options.nowMs()))}\n\n`
    } catch {
      return null
    }
  }

  #tick(): void {
    const rendered = new Map<string, string | null>()
    for (const connection of [...this.#connections]) {
      if (connection.response.writableNeedDrain) {
        if (this.#options.nowMs() - connection.drainedAtMs > stallMsMax) connection.response.destroy()
        continue
      }
      connection.drainedAtMs = this.#options.nowMs()
      const { jobId } = connection
      if (!rendered.has(jobId)) rendered.set(jobId, this.#render(jobId))
      const event = rendered.get(jobId) ?? null
      if (event === null) connection.response.end('event: gone\ndata: {}\n\n')
      else connection.response.write(event)
    }
  }
}
