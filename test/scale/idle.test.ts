/**
 * Jobs whose sources have nothing for a minute (`SCALE=long`, as in `npm run test:scale`), or for a second: the process
 * stays, takes next to no processor time, and is there at once when a record comes. Worker threads that only wait in
 * `Atomics.waitAsync` would end with code 0.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { describe, type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { MAIN, type Started, start } from '../../cli/command-testkit.ts'

const JOB = fileURLToPath(new URL('./idle.fixture.ts', import.meta.url))
const SERVICE = fileURLToPath(new URL('./idle-queue.fixture.ts', import.meta.url))
const isLong = process.env['SCALE'] === 'long'
const IDLE_MS = isLong ? 60_000 : 1_000
/** Compiling and collecting garbage of the start come to an end. */
const SETTLE_MS = isLong ? 10_000 : 1_000
/** A thread that turns in circles takes all of a core where it is alone; a minute shows far less than that. */
const SHARE_MAX = isLong ? 0.02 : 0.3
/** A checkpoint of nothing has its price: files are written and synced. */
const SHARE_MAX_CHECKPOINTS = isLong ? 0.05 : 0.3
/** On a busy machine the start goes on for longer than a second; what turns in circles does so each time. */
const MEASURED_MAX = isLong ? 1 : 20
const AT_ONCE_MS = 10_000

/** Processor time of a process, of all its threads. */
function cpuSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return (Number(fields[11]) + Number(fields[12])) / 100
}

/** Sleeps while the process idles; gives the share of one core that it took, the least where it is measured again. */
async function idle(run: Started, shareMax: number): Promise<number> {
  await sleep(SETTLE_MS)
  const pid = run.child.pid!
  let share = Number.POSITIVE_INFINITY
  for (let measured = 0; measured < MEASURED_MAX && share >= shareMax; measured++) {
    const [cpuBefore, beganMs] = [cpuSeconds(pid), performance.now()]
    await sleep(IDLE_MS)
    assert.equal(run.child.exitCode, null, 'the process is there')
    share = Math.min(share, ((cpuSeconds(pid) - cpuBefore) * 1_000) / (performance.now() - beganMs))
  }
  return share
}

async function checkJob(t: TestContext, flags: readonly string[], shareMax: number): Promise<string> {
  const { promise: connected, resolve } = Promise.withResolvers<Socket>()
  const server = createServer(resolve).listen(0, '127.0.0.1')
  await new Promise((listening) => server.once('listening', listening))
  const { port } = server.address() as { port: number }
  const run = start([MAIN, 'run', JOB, '--port', '0', '--set', `port=${port}`, ...flags])
  try {
    const socket = await connected
    socket.write('one\ntwo\n')
    await run.seen(/heard two/)
    const share = await idle(run, shareMax)
    const sentMs = performance.now()
    socket.write('three\n')
    await run.seen(/heard three/)
    const latencyMs = performance.now() - sentMs
    t.diagnostic(`${(share * 100).toFixed(2)} % of a core while idle, then a record took ${latencyMs.toFixed(1)} ms`)
    assert.ok(share < shareMax, `${(share * 100).toFixed(2)} % of a core while idle`)
    assert.ok(latencyMs < AT_ONCE_MS, `a record took ${latencyMs} ms`)
    run.child.kill('SIGINT')
    const { code, stderr } = await run.finished
    assert.equal(code, 130, stderr)
    assert.match(stderr, /finished: 3 records in, 3 out/)
    return stderr
  } finally {
    run.child.kill('SIGKILL')
    server.close()
  }
}

const long = { skip: !isLong && 'with SCALE=long' }

describe('nothing comes for long', { concurrency: 3 }, () => {
  test('two worker threads on a socket, with timers far away', long, async (t) => {
    await checkJob(t, ['--workers', '2'], SHARE_MAX)
  })

  test('the same with checkpoints', async (t) => {
    const flags = ['--workers', '2', '--checkpoint-interval', isLong ? '5000' : '300', '--state-backend', 'memory']
    const said = await checkJob(t, flags, SHARE_MAX_CHECKPOINTS)
    const [, checkpoints] = /(\d+) checkpoints/.exec(said)!
    // The last of them is that of the stop.
    assert.ok(Number(checkpoints) > 1, `${checkpoints} checkpoints`)
  })

  test('a job of a service that a queue feeds, on the calling thread', long, async (t) => {
    const run = start([SERVICE, String(SETTLE_MS + IDLE_MS + 5_000)])
    await run.seen(/heard first/)
    const share = await idle(run, SHARE_MAX_CHECKPOINTS)
    t.diagnostic(`${(share * 100).toFixed(2)} % of a core while idle`)
    assert.ok(share < SHARE_MAX_CHECKPOINTS, `${(share * 100).toFixed(2)} % of a core while idle`)
    const { code, stdout, stderr } = await run.finished
    assert.equal(code, 0, stderr)
    assert.equal(stdout, 'heard first\nheard last\nfinished, 2 records\n')
  })
})
