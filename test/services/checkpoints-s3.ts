/**
 * Checkpoints in a real S3 bucket: the client's promises, jobs killed at every step of an upload and continued on a
 * machine that has nothing, and processes that race for one job.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import type { RecoveryResult } from '../../bench/recovery.ts'
import type { Manifest } from '../../engine/checkpoint/manifest.ts'
import { manifestNumbers, readManifest } from '../../engine/checkpoint/manifest-store.ts'
import { objectDisk } from '../../engine/checkpoint/object-disk.ts'
import { mapBounded } from '../../engine/core/bounded.ts'
import { nodeIo } from '../../engine/runtime/node-io.ts'
import { s3SettingsOf } from '../../engine/runtime/s3-client.ts'
import { S3ObjectStore } from '../../engine/runtime/s3-object-store.ts'
import { type S3Server, startS3 } from './s3-server.ts'

const MAIN = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))
const JOB = fileURLToPath(new URL('../../cli/fixtures/evolving-job.ts', import.meta.url))
const ARM = new URL('../chaos/arm-failpoint.ts', import.meta.url).href

const folder = mkdtempSync(join(tmpdir(), 'millrace-s3-tests-'))
let server: S3Server
before(async () => {
  server = await startS3()
})
after(async () => {
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const storeOf = (env: Readonly<Record<string, string>> = server.env, url = server.url) =>
  new S3ObjectStore(s3SettingsOf(url, env), nodeIo)

describe('the client', () => {
  test('of many who create one object one succeeds', async () => {
    const store = storeOf()
    const outcomes = await Promise.all(
      Array.from({ length: 40 }, (_, i) => store.put('race/one', Buffer.from(`${i}`), { ifAbsent: true })),
    )
    assert.equal(outcomes.filter((created) => created).length, 1)
    assert.equal(Buffer.from((await store.get('race/one'))!).toString(), String(outcomes.indexOf(true)))
    assert.equal(await store.put('race/one', Buffer.from('late'), { ifAbsent: true }), false)
  })

  test('keys of any text, absent ones, and lists of many pages', async () => {
    const store = storeOf()
    const names = ['plain', 'with space', 'ümläut', 'a+b&c=d', "it's (1)!*", 'x/y/z']
    for (const name of names) await store.put(`odd/${name}`, Buffer.from(name))
    for (const name of names) assert.equal(Buffer.from((await store.get(`odd/${name}`))!).toString(), name)
    assert.deepEqual((await store.list('odd/')).map(({ key }) => key.slice(4)).sort(), [...names].sort())
    assert.deepEqual([await store.get('odd/none'), await store.size('odd/none')], [null, null])
    await store.remove('odd/none')
    const many = Array.from({ length: 1_050 }, (_, i) => `many/${String(i).padStart(5, '0')}`)
    await mapBounded(many, 16, (key) => store.put(key, Buffer.from('x')))
    assert.deepEqual(
      (await store.list('many/')).map(({ key }) => key),
      many,
    )
  })

  test('files go up and down with their hashes; content that is not what was promised is refused', async () => {
    const store = storeOf()
    const path = join(folder, 'file')
    const bytes = Buffer.alloc(9 << 20, 'millrace')
    writeFileSync(path, bytes)
    const content = await nodeIo.disk.hash(path)
    await store.upload('files/a', path, content)
    assert.equal(await store.size('files/a'), bytes.length)
    assert.deepEqual(await store.download('files/a', join(folder, 'back')), content)
    assert.ok(readFileSync(join(folder, 'back')).equals(bytes))
    assert.equal(await store.download('files/none', join(folder, 'none')), null)
    await assert.rejects(store.upload('files/b', path, { ...content, sha256: '0'.repeat(64) }))
    assert.equal(await store.size('files/b'), null)
  })

  test('what is wrong with the settings is said', async () => {
    const wrong = storeOf({ ...server.env, AWS_SECRET_ACCESS_KEY: 'other' })
    await assert.rejects(wrong.get('x'), { code: 'OBJECT_STORE_REFUSED', message: /SignatureDoesNotMatch/ })
    await assert.rejects(storeOf(server.env, 's3://nowhere').get('x'), { message: /NoSuchBucket/ })
    const away = storeOf({ ...server.env, AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:1' })
    await assert.rejects(away.get('x'), { code: 'OBJECT_STORE_UNAVAILABLE', retryable: true })
    assert.throws(() => s3SettingsOf('s3://b', {}), { code: 'S3_CREDENTIALS_MISSING' })
  })
})

/** At the pace of `start` they last for 100 seconds: longer than any machine takes to kill a job some times. */
const LIMIT = 20_000
/** The rest at once. */
const FAST = ['--set', 'every=0']

/** Lines that the job writes for numbers below `LIMIT`, each once. */
function expected(): string[] {
  const lines: string[] = []
  const totals = [0, 0, 0]
  const counts = [0, 0, 0]
  for (let n = 0; n < LIMIT; n++) {
    const key = n % 3
    totals[key]! += n
    lines.push(JSON.stringify(`${key} ${totals[key]} ${++counts[key]!}`))
  }
  return lines.sort()
}

function output(out: string): string[] {
  const files = readdirSync(out).filter((name) => name.endsWith('.jsonl'))
  return files
    .flatMap((name) =>
      readFileSync(join(out, name), 'utf8')
        .split('\n')
        .filter((line) => line !== ''),
    )
    .sort()
}

interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly text: string
}

/** Ends as the chaos runs' folders do, which is how their failpoints know a checkpoint directory. */
const directoryOf = (prefix: string): string => `${server.url}/${prefix}/checkpoints`

let machines = 0

interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
}

/** Starts the job on a machine of its own: nothing of earlier runs is on its disk but the sink's output. */
function start(prefix: string, args: readonly string[], failpoint = ''): Started {
  const home = join(folder, `machine-${machines++}`)
  mkdirSync(home)
  const child = spawn(
    process.execPath,
    [
      ...['--import', ARM, MAIN, 'run', JOB, '--workers', '1', '--parallelism', '2', '--port', '0'],
      ...['--checkpoint-dir', directoryOf(prefix), '--checkpoint-interval', '60', '--set', `limit=${LIMIT}`],
      ...['--set', 'shape=2', '--set', 'every=50', '--set', `out=${join(folder, prefix)}`, ...args],
    ],
    {
      env: { ...process.env, ...server.env, NODE_TEST_CONTEXT: undefined, CHAOS_FAILPOINT: failpoint, TMPDIR: home },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  let text = ''
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.setEncoding('utf8').on('data', (part: string) => {
      text += part
    })
  }
  const ended = new Promise<Ended>((resolve) => {
    child.on('close', (code, signal) => {
      rmSync(home, { recursive: true, force: true })
      resolve({ code, signal, text })
    })
  })
  return { child, ended }
}

/** Waits until `isReached` holds of the manifests in the bucket; rejects when the job ends before. */
async function manifests(
  prefix: string,
  { child, ended }: Started,
  isReached: (all: readonly Manifest[]) => boolean,
): Promise<void> {
  const disk = objectDisk({ ...nodeIo, local: nodeIo.disk, open: async () => storeOf() })
  for (;;) {
    const entries = await Promise.all(
      (await manifestNumbers(disk, directoryOf(prefix))).map((n) => readManifest(disk, directoryOf(prefix), n)),
    )
    if (isReached(entries.flatMap(({ manifest }) => (manifest === null ? [] : [manifest])))) return
    if (child.exitCode !== null) assert.fail(`It ended before:\n${(await ended).text}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function verified(prefix: string): Promise<void> {
  const child = spawn(process.execPath, [MAIN, 'checkpoints', 'verify', directoryOf(prefix)], {
    env: { ...process.env, ...server.env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const code = await new Promise((resolve) => child.on('close', resolve))
  assert.equal(code, 0, text)
}

/** Around uploads, the manifest, and a recovery that has to download. */
const STEPS = [
  'before:link-shared:1',
  'after:link-shared:2',
  'after:link-shared:5',
  'before:createExclusive-manifests:2',
  'after:createExclusive-manifests:2',
  'after:createExclusive-manifests:1',
  'files-shared:2',
  'stores-opened:1',
  'commit-begins:1',
]

describe('jobs', () => {
  test('killed at every step of an upload, and continued on an empty machine: each result once', async () => {
    let continues: string[] = []
    const missed: string[] = []
    for (const step of STEPS) {
      const { signal, code, text } = await start('killed', continues, step).ended
      if (signal !== 'SIGKILL') {
        assert.equal(code, 0, text)
        missed.push(step)
      }
      continues = ['--restore', 'latest']
    }
    const last = await start('killed', [...continues, ...FAST]).ended
    assert.equal(last.code, 0, last.text)
    assert.deepEqual(missed, [], 'steps that were not reached')
    assert.deepEqual(output(join(folder, 'killed')), expected())
    await verified('killed')
  })

  test('of two that take a job over at once one goes on; a zombie that wakes up ends', async () => {
    const first = start('raced', [])
    await manifests('raced', first, (all) => all.length > 1)
    first.child.kill('SIGSTOP')
    const races = ['a', 'b'].map(() => start('raced', ['--restore', 'latest']))
    const loser = await Promise.race(races.map(({ ended }) => ended))
    const winner = races.find(({ child }) => child.exitCode === null)!
    assert.match(loser.text, /Another process took over the job/)
    first.child.kill('SIGCONT')
    const zombie = await first.ended
    assert.match(zombie.text, /Another process took over the job/)
    assert.deepEqual([zombie.code, loser.code], [1, 1])
    winner.child.kill('SIGINT')
    const { code, text } = await winner.ended
    assert.equal(code, 130, text)
    const last = await start('raced', ['--restore', 'latest', ...FAST]).ended
    assert.equal(last.code, 0, last.text)
    assert.deepEqual(output(join(folder, 'raced')), expected())
    await verified('raced')
  })

  test('a state file that is damaged in the store is refused before any record', async () => {
    const done = await start('hurt', FAST).ended
    assert.equal(done.code, 0, done.text)
    const shared = join(server.bucketFolder, 'hurt', 'checkpoints', 'shared')
    const tables = readdirSync(shared)
    for (const name of tables) {
      const bytes = readFileSync(join(shared, name))
      bytes[bytes.length >> 1]! ^= 4
      writeFileSync(join(shared, name), bytes)
    }
    const before = output(join(folder, 'hurt')).length
    const refused = await start('hurt', ['--restore', 'latest', '--set', `limit=${LIMIT + 30}`]).ended
    assert.equal(refused.code, 1)
    assert.match(refused.text, /is damaged: it has \d+ bytes with hash/)
    assert.equal(output(join(folder, 'hurt')).length, before)
  })
})

test('the recovery benchmark tells the transfer from the rest', async () => {
  const args = ['bench', 'recovery', '--state-mb', '2', '--runs', '1', '--json', '--storage', `${server.url}/bench`]
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { ...process.env, ...server.env, NODE_TEST_CONTEXT: undefined },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const [code] = await once(child, 'close')
  const { stateBytes, firstRecordMs, transferMs, restMs, passed } = JSON.parse(text) as RecoveryResult
  assert.ok(stateBytes > 1_000_000, text)
  assert.ok(transferMs[0]! > 0 && restMs[0]! === firstRecordMs[0]! - transferMs[0]!, text)
  assert.equal(code, passed ? 0 : 1)
})
