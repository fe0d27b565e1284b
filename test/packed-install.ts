/**
 * The package as its users get it: built, packed, installed by npm into an empty project, and used there.
 *
 * Run by `npm run test:packed`, apart from `npm test`, because it needs the npm registry, a C++ compiler and
 * half a minute. Everything the children see is the temporary project: no path of this repository is in their
 * environment. The project is kept and named when a test fails.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const CLICKS = 8_000

interface Finished {
  readonly code: number | null
  readonly stdout: string
  /** Standard output and error as they came. */
  readonly output: string
}

interface Started {
  readonly child: ChildProcess
  readonly finished: Promise<Finished>
  /** Resolves with the first match in the output; rejects when the process ends without one. */
  seen(pattern: RegExp): Promise<RegExpExecArray>
}

/** Of this process's own, without what npm and the test runner added for this repository. */
function userEnvironment(): NodeJS.ProcessEnv {
  const isOurs = (name: string): boolean =>
    /^npm_(package_|lifecycle_|command$|config_(local_)?prefix$|execpath$|node_execpath$)/.test(name) ||
    ['INIT_CWD', 'NODE', 'NODE_TEST_CONTEXT', 'NODE_OPTIONS'].includes(name)
  const kept = Object.entries(process.env).filter(([name]) => !isOurs(name))
  const path = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => !folder.endsWith('node_modules/.bin'))
  return { ...Object.fromEntries(kept), PATH: [dirname(process.execPath), ...path].join(delimiter) }
}

function start(cwd: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Started {
  const child = spawn(command, args, {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...userEnvironment(), ...env },
  })
  let stdout = ''
  let output = ''
  let look = (): void => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
      if (stream === child.stdout) stdout += text
      look()
    })
  }
  const finished = once(child, 'close').then(([code]) => ({ code: code as number | null, stdout, output }))
  const seen = (pattern: RegExp): Promise<RegExpExecArray> =>
    new Promise((resolve, reject) => {
      look = () => {
        const match = pattern.exec(output)
        if (match !== null) resolve(match)
      }
      look()
      finished.then(() => reject(new Error(`ended without ${pattern}:\n${output}`)), reject)
    })
  return { child, finished, seen }
}

function run(cwd: string, command: string, ...args: string[]): Promise<Finished> {
  return start(cwd, command, args).finished
}

/** Runs a step that must succeed; gives what it wrote to standard output. */
async function must(cwd: string, command: string, ...args: string[]): Promise<string> {
  const startedMs = performance.now()
  const { code, stdout, output } = await run(cwd, command, ...args)
  assert.equal(code, 0, `${command} ${args.join(' ')} failed:\n${output}`)
  process.stdout.write(`${command} ${args.join(' ')}: ${((performance.now() - startedMs) / 1_000).toFixed(1)} s\n`)
  return stdout
}

interface RootPackage {
  readonly name: string
  readonly version: string
  readonly devDependencies: Readonly<Record<string, string>>
}

const rootPackage = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as RootPackage
const base = await realpath(await mkdtemp(join(tmpdir(), 'millrace-packed-')))
const project = join(base, 'project')
const installed = join(project, 'node_modules', 'millrace')
let isKept = false

/** As `test`, and keeps the project when it fails. */
function step(name: string, body: () => Promise<void>): void {
  test(name, async () => {
    try {
      await body()
    } catch (error) {
      isKept = true
      throw error
    }
  })
}

/** Rows of all finished files of a files sink. */
async function rowsIn(directory: string): Promise<Record<string, unknown>[]> {
  const rows: Record<string, unknown>[] = []
  for (const name of (await readdir(directory)).filter((each) => each.endsWith('.jsonl'))) {
    const lines = (await readFile(join(directory, name), 'utf8')).split('\n').filter((line) => line !== '')
    rows.push(...lines.map((line) => JSON.parse(line) as Record<string, unknown>))
  }
  return rows
}

/** The page and every file it names, as a browser would ask for them. */
async function checkPage(address: string): Promise<void> {
  const page = await fetch(address)
  assert.equal(page.status, 200)
  const html = await page.text()
  assert.match(html, /<title>Millrace/)
  const links = [...html.matchAll(/(?:src|href)="(\/[^"]+)"/g)].map((match) => match[1]!)
  assert.ok(links.length >= 3, html)
  for (const link of [...links, '/main.js', '/metrics', '/health/live']) {
    assert.equal((await fetch(new URL(link, address))).status, 200, link)
  }
}

describe('the packed package', { timeout: 900_000 }, () => {
  before(async () => {
    await cp(join(ROOT, 'test', 'packed-project'), project, { recursive: true })
    await writeFile(join(project, 'package.json'), '{ "name": "someone", "private": true, "type": "module" }\n')
    await must(ROOT, process.execPath, join(ROOT, 'scripts', 'build-dist.ts'))
    await must(join(ROOT, 'dist'), 'npm', 'pack', '--pack-destination', base)
    const tarball = join(base, `${rootPackage.name}-${rootPackage.version}.tgz`)
    const tools = ['typescript', '@types/node', 'esbuild'].map((name) => `${name}@${rootPackage.devDependencies[name]}`)
    const said = await must(project, 'npm', 'install', '--foreground-scripts', '--no-audit', tarball, ...tools)
    process.stdout.write(said.replace(/^/gm, '  '))
  })

  after(async () => {
    if (isKept) process.stdout.write(`the project is kept in ${base}\n`)
    else await rm(base, { recursive: true, force: true })
  })

  step('holds modules and types, no test and no Node', async () => {
    const files = (await readdir(installed, { recursive: true })).map((file) => file.replaceAll('\\', '/'))
    const strange = files.filter((file) =>
      /\.(test|fixture|testkit)\.|^(test|jobs|docs|scripts)\/|[^d]\.ts$/.test(file),
    )
    assert.deepEqual(strange, [])
    for (const file of ['LICENSE', 'README.md', 'cli/main.js', 'engine/api/index.d.ts', 'ui/index.html']) {
      assert.ok(files.includes(file), file)
    }
    const modules = await readdir(join(project, 'node_modules'))
    assert.deepEqual(
      modules.filter((name) => name.startsWith('node-linux') || name === 'node'),
      [],
    )
    assert.ok(files.includes('native/build/millrace_rocksdb.node'), 'the addon was not built; see the output of npm')
  })

  step('types resolve, and wrong ones are refused', async () => {
    const flags = ['--noEmit', '--strict', '--target', 'es2024', '--module', 'nodenext', '--types', 'node']
    const sources = ['clicks-job.ts', 'failing-job.ts', 'service.ts', 'pglite-query.ts', 'types.ts']
    await must(project, 'npx', 'tsc', ...flags, ...sources)
  })

  step('npx millrace --version', async () => {
    assert.equal((await must(project, 'npx', 'millrace', '--version')).trim(), rootPackage.version)
  })

  const clicks = (checkpoints: string, ...config: string[]): Started => {
    const flags = [
      '--workers',
      '2',
      '--parallelism',
      '2',
      '--state-backend',
      'rocksdb',
      '--checkpoint-dir',
      checkpoints,
    ]
    return start(project, 'npx', ['millrace', 'run', 'clicks-job.ts', '--port', '0', ...flags, ...config])
  }

  step('npx millrace run job.ts: two worker threads on RocksDB, the dashboard; npx millrace cancel', async () => {
    const job = clicks('endless-state', '--set', 'clicks=1000000000', '--set', 'out=endless')
    const [, address] = await job.seen(/dashboard (http:\S+)/)
    await job.seen(/job "clicks" started, state rocksdb \d/)
    await checkPage(address!)
    const { jobs } = (await (await fetch(new URL('/api/jobs', address))).json()) as { jobs: { id: string }[] }
    const detail = await (await fetch(new URL(`/api/jobs/${jobs[0]!.id}`, address))).json()
    assert.equal((detail as { workers: number }).workers, 2)
    await must(project, 'npx', 'millrace', 'cancel', '--port', new URL(address!).port)
    await job.finished
  })

  step('exactly-once files', async () => {
    const { code, output } = await clicks('state', '--set', `clicks=${CLICKS}`, '--set', 'out=clicks').finished
    assert.equal(code, 0, output)
    const rows = await rowsIn(join(project, 'clicks'))
    const total = rows.reduce((sum, row) => sum + Number(row['clicks']), 0)
    assert.equal(total, CLICKS)
    assert.equal(rows.length, (10 * CLICKS) / 1_000, 'ten pages a window of 1,000 clicks')
    assert.match(await must(project, 'npx', 'millrace', 'checkpoints', 'verify', 'state'), /all is well/)
  })

  step('node job.js with execute at the top level', async () => {
    const { code, output } = await run(project, 'node', 'words.js', '--workers', '2', '--port', '0')
    assert.equal(code, 0, output)
    for (const line of [/^to 2$/m, /^be 2$/m, /^or 1$/m, /^read 3 records$/m]) assert.match(output, line)
  })

  describe('bundled with a job by esbuild', () => {
    /** Only what is copied there can be seen. */
    const alone = join(base, 'alone')
    const esbuild = (source: string, ...flags: string[]) =>
      must(project, 'npx', 'esbuild', source, '--bundle', '--platform=node', '--log-level=error', ...flags)
    const clicks = (directory: string, count = CLICKS) => [
      ...['--workers', '2', '--parallelism', '2', '--port', '0', '--set', `clicks=${count}`],
      ...['--set', `out=${join(directory, 'out')}`, '--checkpoint-dir', join(directory, 'state')],
    ]
    const checkClicks = async (directory: string): Promise<void> => {
      const rows = await rowsIn(join(directory, 'out'))
      assert.equal(
        rows.reduce((sum, row) => sum + Number(row['clicks']), 0),
        CLICKS,
      )
    }

    /** Of a run that cannot end while it is looked at. */
    const checkPageOf = async (cwd: string, file: string): Promise<void> => {
      const flags = clicks(join(cwd, 'endless'), 1_000_000_000)
      const job = start(cwd, 'node', [file, ...flags, '--state-backend', 'rocksdb'])
      const [, address] = await job.seen(/dashboard (http:\S+)/)
      await job.seen(/job "clicks" started, state rocksdb \d/)
      await checkPage(address!)
      job.child.kill('SIGKILL')
      await job.finished
    }

    step('one file, run beside the package: its addon and its page are found', async () => {
      await esbuild('clicks-job.ts', '--format=esm', '--minify', '--outfile=bundles/clicks.mjs')
      const place = join(base, 'beside')
      const args = ['run', 'bundles/clicks.mjs', ...clicks(place), '--state-backend', 'rocksdb']
      const { code, output } = await run(project, 'npx', 'millrace', ...args)
      assert.equal(code, 0, output)
      await checkClicks(place)
      await checkPageOf(project, 'bundles/clicks.mjs')
    })

    step('one file, run alone: what it lacks is said, or copied', async () => {
      await mkdir(join(alone, 'millrace'), { recursive: true })
      const file = join(alone, 'clicks.mjs')
      await cp(join(project, 'bundles', 'clicks.mjs'), file)
      const flags = clicks(alone)
      const missing = await run(alone, 'node', file, ...flags, '--state-backend', 'rocksdb')
      assert.equal(missing.code, 1, missing.output)
      assert.match(missing.output, /ROCKSDB_UNAVAILABLE.*Copy the folder node_modules\/millrace\/native to \S+/)
      for (const folder of ['native', 'ui']) {
        await cp(join(installed, folder), join(alone, 'millrace', folder), { recursive: true })
      }
      const { code, output } = await run(alone, 'node', file, ...flags, '--state-backend', 'rocksdb')
      assert.equal(code, 0, output)
      await checkClicks(alone)
      await checkPageOf(alone, file)
    })

    step('execute at the top level, alone; CommonJS, alone; and with the package left outside', async () => {
      await esbuild('words.js', '--format=esm', `--outfile=${join(alone, 'words.mjs')}`)
      const words = await run(alone, 'node', 'words.mjs', '--workers', '2', '--port', '0')
      assert.equal(words.code, 0, words.output)
      for (const line of [/^to 2$/m, /^be 2$/m, /^read 3 records$/m]) assert.match(words.output, line)

      await esbuild('clicks-job.ts', '--format=cjs', `--outfile=${join(alone, 'clicks.cjs')}`)
      await esbuild('clicks-job.ts', '--format=esm', '--external:millrace', '--outfile=bundles/outside.mjs')
      for (const [cwd, file] of [
        [alone, 'clicks.cjs'],
        [project, 'bundles/outside.mjs'],
      ] as const) {
        const place = join(base, file)
        const { code, output } = await run(cwd, 'node', file, ...clicks(place))
        assert.equal(code, 0, output)
        assert.match(output, /state rocksdb/)
        await checkClicks(place)
      }
    })

    step('a failure names the line of the bundle, and with source maps that of the job', async () => {
      await esbuild('failing-job.ts', '--format=esm', '--sourcemap', '--outfile=bundles/failing.mjs')
      const plain = await run(project, 'node', 'bundles/failing.mjs', '--port', '0')
      assert.equal(plain.code, 1, plain.output)
      assert.match(plain.output, /cannot take 2.*bundles\/failing\.mjs:\d+:/)
      const mapped = await run(project, 'node', '--enable-source-maps', 'bundles/failing.mjs', '--port', '0')
      assert.match(mapped.output, /failing-job\.ts:10:/)
    })

    step('PGlite has a thread of its own, whose file must be there', async () => {
      await esbuild('pglite-query.ts', '--format=esm', `--outfile=${join(alone, 'pglite-query.mjs')}`)
      const { output } = await run(alone, 'node', 'pglite-query.mjs')
      assert.match(output, /BUNDLE_INCOMPLETE.*Install the npm package millrace/)
    })
  })

  step('a job inside a service, quietly on the calling thread', async () => {
    assert.equal((await run(project, 'node', 'service.ts')).output, '[4,1,4,9,16]\n')
  })

  step("a failure names the user's own line", async () => {
    const { code, output } = await run(project, 'npx', 'millrace', 'run', 'failing-job.ts', '--port', '0')
    assert.equal(code, 1, output)
    assert.match(output, /cannot take 2/)
    assert.match(output, /failing-job\.ts:10:/)
    assert.doesNotMatch(output, /node_modules/)
  })

  step('the Postgres connector asks for its peer, and works once it is there', async () => {
    const missing = await run(project, 'node', 'pglite-query.ts')
    assert.match(missing.output, /^PACKAGE_MISSING .*@electric-sql\/pglite/)
    const manifest = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8')) as {
      readonly peerDependencies: Readonly<Record<string, string>>
    }
    const range = manifest.peerDependencies['@electric-sql/pglite']
    await must(project, 'npm', 'install', '--no-audit', `@electric-sql/pglite@${range}`)
    const { output } = await run(project, 'node', 'pglite-query.ts')
    assert.equal(output, '[{"answer":42}]\n')
  })

  step('npx millrace bench engine', async () => {
    const output = await must(project, 'npx', 'millrace', 'bench', 'engine', '--events', '50000', '--json')
    assert.equal((JSON.parse(output) as { events: number }).events, 50_000)
  })

  step('without a compiler it installs with a warning and runs on memory', async () => {
    const bare = join(base, 'bare')
    await mkdir(bare)
    await cp(installed, bare, { recursive: true, filter: (path) => !/native\/(build|vendor)(\/|$)/.test(path) })
    const { code, output } = await start(bare, process.execPath, ['native/install.js'], { PATH: '' }).finished
    assert.equal(code, 0, output)
    assert.match(output, /WARNING: the RocksDB addon was not built: there is no C\+\+ compiler/)
  })
})
