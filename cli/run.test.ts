/**
 * Running jobs as programs, each in a process of its own: modes, exit codes, output, signals, and the
 * commands that talk to a running job.
 */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { fixture, MAIN, millrace, node, start } from './command-testkit.ts'
import { runCommand } from './commands.ts'
import { exitCodeForError } from './failure.ts'
import { tokenPath } from './rest-token.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-cli-'))
after(() => rmSync(folder, { recursive: true, force: true }))

const lines = (text: string): string[] => text.split('\n').filter((line) => line !== '')

describe('run and node are the same', { concurrency: 2 }, () => {
  for (const [how, run] of [
    ['millrace run', (...args: string[]) => millrace('run', ...args)],
    ['node', node],
  ] as const) {
    test(`${how}: a job definition on worker threads`, async () => {
      const { code, stdout, stderr } = await run(
        fixture('counting-job'),
        ...['--workers', '2', '--set', 'limit=30', '--state-backend', 'memory'],
      )
      assert.equal(code, 0, stderr)
      assert.equal(lines(stdout).length, 30)
      assert.match(stderr, /dashboard http:\/\/127\.0\.0\.1:\d+/)
      assert.match(stderr, /job "counting" started, state memory/)
      assert.match(stderr, /finished: 30 records in, 30 out/)
    })

    test(`${how}: a top-level execute on worker threads, code after it on main only`, async () => {
      const { code, stdout, stderr } = await run(fixture('top-level'), '--workers', '2', '--set', 'greeting=hi')
      assert.equal(code, 0, stderr)
      // Lines of two subtasks come in any order.
      const said = lines(stdout)
      assert.equal(said.pop(), 'after 3')
      assert.deepEqual(said.sort(), ['hi a', 'hi a', 'hi b'])
    })

    test(`${how}: wrong flags end with 2 before anything runs`, async () => {
      for (const name of ['counting-job', 'top-level']) {
        const { code, stdout, stderr } = await run(fixture(name), '--workerz', '2')
        assert.equal(code, 2, stderr)
        assert.equal(stdout, '')
        assert.match(stderr, /--workerz.*--workers/)
      }
    })

    test(`${how}: a failure ends with 1, the cause and the user's line`, async () => {
      const { code, stderr } = await run(fixture('failing-job'), '--workers', '1')
      assert.equal(code, 1, stderr)
      assert.match(stderr, /two is too many/)
      assert.match(stderr, /failing-job\.ts:5:\d+/)
    })
  }

  test('--json: events on stdout, counts in the last', async () => {
    const { code, stdout } = await millrace('run', fixture('counting-job'), '--workers', '1', '--json')
    assert.equal(code, 0)
    const events = lines(stdout)
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as { type: string; recordsIn?: number; recordsOut?: number })
    assert.equal(events[0]?.type, 'started')
    const last = events.at(-1)
    assert.deepEqual([last?.type, last?.recordsIn, last?.recordsOut], ['finished', 100, 100])
  })

  test('--workers 0 keeps everything on the main thread', async () => {
    const { stdout } = await node(fixture('top-level'), '--workers', '0')
    assert.deepEqual(lines(stdout), ['hello a on main', 'hello b on main', 'hello a on main', 'after 3'])
  })

  test('through a symbolic link', async () => {
    const link = join(folder, 'linked.ts')
    symlinkSync(fixture('top-level'), link)
    const { code, stdout, stderr } = await node(link, '--workers', '1')
    assert.equal(code, 0, stderr)
    assert.deepEqual(lines(stdout).slice(0, 2), ['hello a', 'hello b'])
  })

  test('without an entry file, subtasks run on the calling thread and flags are nobody’s', async () => {
    const api = new URL('../engine/api/index.ts', import.meta.url).href
    const program = `const { StreamExecutionEnvironment } = await import('${api}')
      const env = StreamExecutionEnvironment.getExecutionEnvironment()
      env.fromElements(1, 2).print()
      await env.execute('prompt')`
    const { code, stdout, stderr } = await node('--input-type=module', '-e', program)
    assert.equal(code, 0, stderr)
    assert.deepEqual(lines(stdout), ['1', '2'])
    assert.equal(stderr, '')
  })

  test('in a callback of an entry file, nothing is started twice', async () => {
    const { code, stdout, stderr } = await node(fixture('callback'), '--not-a-flag-of-millrace')
    assert.equal(code, 0, stderr)
    assert.deepEqual(lines(stdout), ['service main', '3', 'collected 1,2'])
  })

  test('millrace run: a program that starts and collects jobs itself', async () => {
    const { code, stdout, stderr } = await millrace(
      'run',
      fixture('collecting'),
      ...['--workers', '1', '--set', 'factor=10', '--port', '0'],
    )
    assert.equal(code, 0, stderr)
    assert.deepEqual(
      new Set(lines(stdout)),
      new Set(['a on a thread', 'b on a thread', 'beside 2 0', 'collected 10,20', ...['z', 'read x', 'read y']]),
    )
    assert.match(stderr, /job "beside" started/)
    assert.match(stderr, /job "read" started/)
  })

  test('two executes: the second runs on the main thread, and says so', async () => {
    const { code, stdout, stderr } = await node(fixture('two-executes'), '--workers', '1')
    assert.equal(code, 0, stderr)
    assert.deepEqual(lines(stdout), ['first', 'second'])
    assert.match(stderr, /second execute in one file/)
  })

  test('a graph that differs between threads is an error that names the operator', async () => {
    const { code, stderr } = await node(fixture('different-graph'), '--workers', '1')
    assert.equal(code, 1, stderr)
    assert.match(stderr, /Filter|Print/)
  })
})

describe('what cannot be run', { concurrency: 2 }, () => {
  test('a missing file', async () => {
    const { code, stderr } = await millrace('run', fixture('counting-job').replace('.ts', ''))
    assert.equal(code, 2)
    assert.match(stderr, /There is no file.*Did you mean .*counting-job\.ts/)
  })

  test('a module without a job', async () => {
    const { code, stderr } = await millrace('run', fixture('no-job'))
    assert.equal(code, 2)
    assert.match(stderr, /no-job\.ts declares no job.*export default job/)
  })

  test('a syntax error, with its place', async () => {
    const path = join(folder, 'broken.ts')
    writeFileSync(path, 'const fine = 1\nconst = 2\n')
    const { code, stderr } = await millrace('run', path)
    assert.equal(code, 1)
    assert.match(stderr, /broken\.ts:2/)
  })

  test('an import that does not exist', async () => {
    const path = join(folder, 'import.ts')
    writeFileSync(path, "import './nowhere.ts'\n")
    const { code, stderr } = await millrace('run', path)
    assert.equal(code, 1)
    assert.match(stderr, /nowhere\.ts/)
  })

  test('a port that is taken', async () => {
    const first = start([
      MAIN,
      'run',
      fixture('counting-job'),
      '--workers',
      '0',
      '--port',
      '0',
      '--set',
      'every=50',
      '--set',
      'limit=9999',
    ])
    const [, port] = await first.seen(/dashboard http:\/\/127\.0\.0\.1:(\d+)/)
    const { code, stderr } = await millrace('run', fixture('counting-job'), '--workers', '0', '--port', port!)
    first.child.kill('SIGKILL')
    assert.equal(code, 1)
    assert.match(stderr, new RegExp(`Port ${port}.*taken`))
  })

  test('commands and flags that do not exist, or say nothing', async () => {
    for (const [args, message] of [
      [[], /Which command/],
      [['rum'], /Did you mean run\?/],
      [['run'], /Which job/],
      [['run', 'a.ts', 'b.ts'], /one job too many/],
      [['run', 'a.ts', '--prallelism', '3'], /--prallelism.*--parallelism/],
      [['savepoint', '--prt', '1'], /--prt.*--port/],
      [['savepoint', 'now'], /"now"/],
      [['cancel', '--port', '0'], /--port 0/],
      [['checkpoints', 'lst', folder], /checkpoints list DIR/],
      [['checkpoints', 'list', join(folder, 'nowhere')], /no directory/],
      [['bench', 'engin'], /Did you mean engine/],
      [['bench', 'engine', '--evnts', '5'], /'--evnts'.*millrace bench engine --help/],
      [['bench', 'engine', '--events', 'x'], /--events x.*whole number/],
      [['run', folder], /is a directory/],
      [['run', fileURLToPath(new URL('../package.json', import.meta.url))], /package\.json is no module/],
    ] as const) {
      await assert.rejects(runCommand(args), (error) => {
        assert.match((error as Error).message, message)
        return exitCodeForError(error) === 2
      })
    }
    const { code, stderr } = await millrace('rum')
    assert.equal(code, 2)
    assert.equal(stderr, 'millrace: There is no command "rum". Did you mean run?\n')
  })

  test('help and version are on stdout', async () => {
    for (const [args, text] of [
      [['run', '--help'], /--accept-duplicates/],
      [['--version'], /^\d+\.\d+\.\d+\n$/],
    ] as const) {
      const { code, stdout } = await millrace(...args)
      assert.equal(code, 0)
      assert.match(stdout, text)
    }
    const direct = await node(fixture('counting-job'), '--help')
    assert.equal(direct.code, 0)
    assert.match(direct.stdout, /--parallelism N/)
  })
})

describe('signals and checkpoints', () => {
  /** Ten rows at once, and the others in minutes: far longer than any command takes on a busy machine. */
  const LIMIT = 4_000
  const slow = ['--workers', '1', '--port', '0', '--set', `limit=${LIMIT}`, '--set', 'every=1000']

  test('SIGINT: a checkpoint, 130, and --restore latest goes on from there', async () => {
    const directory = join(folder, 'resume')
    const args = [fixture('counting-job'), ...slow, '--checkpoint-dir', directory]
    const run = start([MAIN, 'run', ...args])
    await run.seen(/sum \d+/)
    assert.equal(statSync(join(directory, 'rest-token')).mode & 0o777, 0o600)
    run.child.kill('SIGINT')
    const first = await run.finished
    assert.equal(first.code, 130, first.stderr)
    const before = lines(first.stdout).length
    assert.ok(before < LIMIT)

    const refused = await millrace('run', ...args)
    assert.equal(refused.code, 1)
    assert.match(refused.stderr, /--restore latest/)

    const check = await millrace('run', ...args, '--check', '--restore', 'latest')
    assert.equal(check.code, 0, check.stderr)
    assert.match(check.stdout, /restored +sums/)

    const rest = await millrace('run', ...args, '--restore', 'latest', '--set', 'every=0')
    assert.equal(rest.code, 0, rest.stderr)
    assert.equal(before + lines(rest.stdout).length, LIMIT)
    const expectedSums = [0, 1, 2].map((r) => Array.from({ length: LIMIT }, (_, n) => n).filter((n) => n % 3 === r))
    const totals = expectedSums.map((numbers) => numbers.reduce((a, b) => a + b))
    const finals = new Set(lines(rest.stdout).map((line) => Number(/sum (\d+)/.exec(line)![1])))
    for (const total of totals) assert.ok(finals.has(total), `the sum ${total} is missing`)

    const verified = await millrace('checkpoints', 'verify', directory)
    assert.equal(verified.code, 0, verified.stdout)
    const list = await millrace('checkpoints', 'list', directory)
    assert.match(list.stdout, /final/)
  })

  test('SIGTERM ends with 143, and leaves no token behind', async () => {
    const run = start([fixture('counting-job'), ...slow])
    const [, port] = await run.seen(/dashboard http:\/\/127\.0\.0\.1:(\d+)/)
    await run.seen(/sum \d+/)
    assert.ok(existsSync(tokenPath(Number(port))))
    run.child.kill('SIGTERM')
    const { code, stderr } = await run.finished
    assert.equal(code, 143, stderr)
    assert.ok(!existsSync(tokenPath(Number(port))))
  })

  test('a second SIGINT ends at once', async () => {
    const run = start([MAIN, 'run', fixture('counting-job'), ...slow])
    await run.seen(/sum \d+/)
    run.child.kill('SIGINT')
    await run.seen(/final checkpoint/)
    run.child.kill('SIGINT')
    assert.equal((await run.finished).code, 130)
  })

  test('savepoint prints a path alone, from which another run goes on; cancel ends the job', async () => {
    const directory = join(folder, 'savepoint')
    const job = fixture('counting-job')
    const run = start([MAIN, 'run', job, ...slow, '--checkpoint-dir', directory])
    const [, port] = await run.seen(/dashboard http:\/\/127\.0\.0\.1:(\d+)/)
    await run.seen(/sum \d+/)
    const savepoint = await millrace('savepoint', '--port', port!)
    assert.equal(savepoint.code, 0, savepoint.stderr)
    assert.match(savepoint.stdout, /^\S+\n$/)
    const cancelled = await millrace('cancel', '--port', port!)
    assert.equal(cancelled.code, 0, cancelled.stderr)
    await run.finished

    const path = savepoint.stdout.trim()
    const other = join(folder, 'from-savepoint')
    const resumed = await millrace(
      'run',
      job,
      '--workers',
      '1',
      '--set',
      `limit=${LIMIT}`,
      '--checkpoint-dir',
      other,
      '--restore',
      path,
    )
    assert.equal(resumed.code, 0, resumed.stderr)
    assert.ok(lines(resumed.stdout).length < LIMIT)
    assert.match(resumed.stderr, /continues/)

    const gone = await millrace('savepoint', '--port', port!)
    assert.equal(gone.code, 1)
    assert.match(gone.stderr, new RegExp(`port ${port}`))
  })

  test('savepoint --stop ends the job', async () => {
    const run = start([MAIN, 'run', fixture('counting-job'), ...slow, '--checkpoint-dir', join(folder, 'stop')])
    const [, port] = await run.seen(/dashboard http:\/\/127\.0\.0\.1:(\d+)/)
    await run.seen(/sum \d+/)
    const savepoint = await millrace('savepoint', '--port', port!, '--stop')
    assert.equal(savepoint.code, 0, savepoint.stderr)
    assert.match(savepoint.stdout, /^\S+\n$/)
    assert.equal((await run.finished).code, 0)
  })
})
