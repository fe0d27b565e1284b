/**
 * Jobs that a bundler put into one file together with the engine: worker threads, state, a crash and a restore.
 * test/packed-install.ts does the same to the published package, with more formats, and sees what is said when something
 * is missing that cannot be in the file.
 */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { findPackageJSON } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { fixture, millrace, node, start } from './command-testkit.ts'

const NATIVE = fileURLToPath(new URL('../native', import.meta.url))
const ROWS = 3_000

const folder = mkdtempSync(join(tmpdir(), 'millrace-bundle-'))
after(() => rmSync(folder, { recursive: true, force: true }))

/** In a folder of its own, from where no package can be seen. */
async function bundle(name: string, format: 'esm' | 'cjs'): Promise<string> {
  const { build } = await import('esbuild')
  const outfile = join(folder, format, `${name}.${format === 'esm' ? 'mjs' : 'cjs'}`)
  const entryPoints = [fixture(name)]
  await build({ entryPoints, outfile, format, bundle: true, platform: 'node', logLevel: 'error' })
  return outfile
}

/** A checkout that was installed before it was needed lacks it; CI installs anew. */
const skip =
  !('CI' in process.env) && findPackageJSON('esbuild', import.meta.url) === undefined && 'npm install esbuild'

let file = ''
before(async () => {
  if (skip) return
  file = await bundle('bundled-job', 'esm')
  mkdirSync(join(folder, 'esm', 'millrace'))
  symlinkSync(NATIVE, join(folder, 'esm', 'millrace', 'native'))
})

/** Every number is there once, with the total of its key so far. */
function assertExact(directory: string): void {
  const names = readdirSync(directory).filter((name) => name.endsWith('.jsonl'))
  const lines = names.flatMap((name) => readFileSync(join(directory, name), 'utf8').split('\n').slice(0, -1))
  const rows = lines.map((line) => JSON.parse(line) as { key: number; n: number; total: number })
  assert.deepEqual(
    rows.map(({ n }) => n).sort((a, b) => a - b),
    Array.from({ length: ROWS }, (_, n) => n),
  )
  for (let key = 0; key < 7; key++) {
    const own = rows.filter((row) => row.key === key)
    const sum = own.reduce((total, { n }) => total + n, 0)
    assert.equal(Math.max(...own.map(({ total }) => total)), sum, `the last total of key ${key}`)
  }
}

test('one file: two worker threads, RocksDB, killed, and restored by `millrace run`', { skip }, async () => {
  const out = join(folder, 'out')
  const flags = ['--workers', '2', '--parallelism', '2', '--port', '0', '--state-backend', 'rocksdb']
  const place = ['--checkpoint-dir', join(folder, 'checkpoints'), '--set', `out=${out}`, '--set', `rows=${ROWS}`]
  const first = start([file, ...flags, ...place, '--set', 'rate=300'])
  const [, port] = await first.seen(/dashboard http:\/\/127\.0\.0\.1:(\d+)/)
  await first.seen(/state rocksdb/)
  const names = (): string[] => readdirSync(out, { recursive: true }).map(String)
  const api = `http://127.0.0.1:${port}`
  const { jobs } = (await (await fetch(`${api}/api/jobs`)).json()) as { jobs: { id: string }[] }
  const { workers } = (await (await fetch(`${api}/api/jobs/${jobs[0]!.id}`)).json()) as { workers: number }
  assert.equal(workers, 2)
  assert.match(await (await fetch(api)).text(), /not in this bundle.*millrace\/ui/s)
  while (!names().some((name) => name.endsWith('.jsonl'))) await new Promise((resolve) => setTimeout(resolve, 10))
  first.child.kill('SIGKILL')
  assert.equal((await first.finished).code, null)

  const second = await millrace('run', file, ...flags, ...place, '--restore', 'latest')
  assert.equal(second.code, 0, second.stderr)
  assert.match(second.stderr, /continues/)
  const [, recordsIn] = /finished: ([\d,]+) records in/.exec(second.stderr)!
  assert.ok(Number(recordsIn!.replace(',', '')) < ROWS, 'not from the start')
  assertExact(out)
})

test('one file in CommonJS, without anything beside it', { skip }, async () => {
  const path = await bundle('bundled-job', 'cjs')
  const out = join(folder, 'cjs-out')
  const { code, stderr } = await node(
    path,
    '--workers',
    '1',
    '--port',
    '0',
    '--set',
    `out=${out}`,
    '--set',
    `rows=${ROWS}`,
  )
  assert.equal(code, 0, stderr)
  assert.match(stderr, /state memory/)
  assertExact(out)
})
