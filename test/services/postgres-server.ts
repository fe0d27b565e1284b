/**
 * A real PostgreSQL server for tests: its own data in a temporary folder, a free port, gone afterwards.
 *
 * It needs Debian's package `postgresql`. The server refuses to run as root, so root starts it as the
 * package's user `postgres`.
 */
import { execFile } from 'node:child_process'
import { chownSync, globSync, mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { freePort } from './free-port.ts'

const run = promisify(execFile)

export interface PostgresServer {
  readonly url: string
  /** Crashes the server (no shutdown checkpoint) and starts it again. */
  crashAndRestart(): Promise<void>
  stop(): Promise<void>
}

function binaries(): string {
  const found = globSync('/usr/lib/postgresql/*/bin/initdb').sort().at(-1)
  if (found === undefined) throw new Error('There is no PostgreSQL server here. Install it: apt-get install postgresql')
  return found.slice(0, -'/initdb'.length)
}

/** Ids of the user that the server runs as. */
async function serverUser(): Promise<{ uid: number; gid: number } | null> {
  if (process.getuid?.() !== 0) return null
  const id = async (flag: string): Promise<number> => Number((await run('id', [flag, 'postgres'])).stdout)
  return { uid: await id('-u'), gid: await id('-g') }
}

export async function startPostgres(): Promise<PostgresServer> {
  const bin = binaries()
  const user = await serverUser()
  const directory = mkdtempSync(join(tmpdir(), 'millrace-pg-'))
  if (user !== null) chownSync(directory, user.uid, user.gid)
  const data = join(directory, 'data')
  const command = (name: string, ...args: string[]) => run(join(bin, name), args, { ...(user ?? {}), cwd: directory })
  await command('initdb', '-D', data, '-U', 'millrace', '--auth', 'trust', '-E', 'UTF8', '--no-sync')
  const port = await freePort()
  const start = () =>
    command(
      'pg_ctl',
      '-D',
      data,
      '-w',
      '-l',
      join(directory, 'log'),
      '-o',
      `-p ${port} -h 127.0.0.1 -k ${directory}`,
      'start',
    )
  await start()
  return {
    url: `postgres://millrace@127.0.0.1:${port}/postgres`,
    async crashAndRestart() {
      await command('pg_ctl', '-D', data, '-w', '-m', 'immediate', 'stop')
      await start()
    },
    async stop() {
      await command('pg_ctl', '-D', data, '-w', '-m', 'immediate', 'stop')
      await rm(directory, { recursive: true, force: true })
    },
  }
}
