/**
 * `millrace savepoint` and `millrace cancel`: ask a running process through its REST API.
 */
import { integerFlag, type ParsedFlags, usageError } from '../engine/api/run-flags.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { readToken } from './rest-token.ts'

const PORT_DEFAULT = 8081

/** What `/api/jobs` tells about a job, as far as it is needed here. */
interface JobSummary {
  readonly id: string
  readonly name: string
  readonly state: string
}

const ENDED = new Set(['finished', 'failed', 'cancelled'])

class RemoteProcess {
  private readonly port: number
  private readonly token: string

  constructor(port: number) {
    this.port = port
    this.token = readToken(port)
  }

  /** Throws `NOT_REACHABLE`, or what the server answered. */
  private async request(method: 'GET' | 'POST', path: string, body?: object): Promise<unknown> {
    let response: Response
    try {
      response = await fetch(`http://127.0.0.1:${this.port}${path}`, {
        method,
        headers: {
          authorization: `Bearer ${this.token}`,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
    } catch (cause) {
      throw unreachable(this.port, cause)
    }
    const text = await response.text()
    let answer: unknown
    try {
      answer = JSON.parse(text)
    } catch {
      answer = { error: { message: `Port ${this.port} answered ${response.status}, and not as a Millrace job does.` } }
    }
    if (!response.ok) throw refusal(answer, response.status)
    return answer
  }

  /** The one job that has not ended. Throws `JOB_NOT_FOUND`. */
  async job(): Promise<JobSummary> {
    const { jobs } = (await this.request('GET', '/api/jobs')) as { jobs?: readonly JobSummary[] }
    const live = (jobs ?? []).filter((job) => !ENDED.has(job.state))
    if (live.length === 1) return live[0]!
    throw new MillraceError('JOB_NOT_FOUND', `There are ${live.length} running jobs on port ${this.port}.`)
  }

  act(job: JobSummary, action: string, body?: object): Promise<unknown> {
    return this.request('POST', `/api/jobs/${encodeURIComponent(job.id)}/${action}`, body)
  }
}

function unreachable(port: number, cause: unknown): MillraceError {
  const { code } = ((cause as Error).cause ?? {}) as { code?: string }
  if (code === 'ECONNREFUSED') {
    return new MillraceError('NOT_REACHABLE', `Nothing answers on port ${port}.`, {
      domain: 'external',
      cause,
      hint: 'Give the port that the job printed as "dashboard http://127.0.0.1:PORT".',
    })
  }
  return new MillraceError('CONNECTION_LOST', `The process on port ${port} went away before it answered.`, {
    domain: 'external',
    cause,
    hint: 'It may have done what was asked: look with `millrace checkpoints list DIR`, or start it again.',
  })
}

function refusal(body: unknown, status: number): MillraceError {
  const { error } = body as { error?: { code?: string; message?: string; hint?: string } | string }
  if (typeof error === 'string') return new MillraceError('REFUSED', error)
  return new MillraceError(error?.code ?? 'REFUSED', error?.message ?? `The job answered with status ${status}.`, {
    ...(error?.hint === undefined ? {} : { hint: error.hint }),
  })
}

function remoteOf(flags: ParsedFlags): RemoteProcess {
  const stray = flags.positionals[0]
  if (stray !== undefined) throw usageError(`"${stray}" is not expected here.`, 'Name the job by --port P.')
  return new RemoteProcess(integerFlag(flags, 'port', 1, 65_535) ?? PORT_DEFAULT)
}

/** Prints the savepoint's path alone. */
export async function savepointCommand(flags: ParsedFlags): Promise<number> {
  const remote = remoteOf(flags)
  const job = await remote.job()
  const stop = flags.has('stop')
  const { path } = (await remote.act(job, 'savepoints', { stop })) as { path: string }
  // The job ends by itself at that cut; this waits until it has.
  if (stop) await remote.act(job, 'stop').catch(() => {})
  process.stdout.write(`${path}\n`)
  return 0
}

export async function cancelCommand(flags: ParsedFlags): Promise<number> {
  const remote = remoteOf(flags)
  const job = await remote.job()
  await remote.act(job, 'cancel')
  process.stderr.write(`job "${job.name}" cancelled\n`)
  return 0
}
