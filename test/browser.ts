/**
 * The live page of the real main job, in a real browser, wide and on a phone.
 *
 * Run by `npm run test:browser`, apart from `npm test`, because it needs Debian's chromium. It fails, and never
 * skips, where there is none. Screenshots go to a temporary folder whose path is printed. Invariant: job,
 * browser and profile are gone at the end, whatever happened.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type BrowserContext, chromium, type Page } from 'playwright-core'

const START = fileURLToPath(new URL('../cli/start.ts', import.meta.url))
/** Where Debian's package puts it. */
const CHROMIUM = process.env['MILLRACE_CHROMIUM'] ?? '/usr/bin/chromium'
const CHROMIUM_FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
/** Enough for ten events a session and window: fewer make no confident pattern. */
const EVENTS_PER_SECOND = 2_000
const WIDE = { width: 1_440, height: 900 }
const PHONE = { width: 390, height: 844 }
/** Long enough for a busy machine; windows fire five seconds behind the events. */
const WAIT_MS = 60_000

/** A page, with everything that went wrong in it. */
interface Watched {
  readonly page: Page
  readonly troubles: readonly string[]
}

async function openPage(context: BrowserContext, address: string, viewport: typeof WIDE): Promise<Watched> {
  const page = await context.newPage()
  const troubles: string[] = []
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) troubles.push(`console ${message.type()}: ${message.text()}`)
  })
  page.on('pageerror', (error) => troubles.push(`uncaught: ${error.message}`))
  page.on('requestfailed', (request) => troubles.push(`${request.url()}: ${request.failure()?.errorText}`))
  page.on('response', (response) => {
    if (response.status() >= 400) troubles.push(`${response.url()}: status ${response.status()}`)
  })
  page.setDefaultTimeout(WAIT_MS)
  await page.setViewportSize(viewport)
  await page.goto(address)
  return { page, troubles }
}

const SCALES: Readonly<Record<string, number>> = { k: 1e3, M: 1e6 }

/** The big number of a tile: `512`, `1,234` or `12.3 k`. */
async function tileNumber(page: Page, title: string): Promise<number> {
  const tile = page.locator('.tile', { has: page.locator('dt', { hasText: new RegExp(`^${title}$`) }) })
  const text = (await tile.locator('.big').textContent()) ?? ''
  const match = /^([\d.]+)\s?([kM]?)/.exec(text.replaceAll(',', ''))
  return match === null ? Number.NaN : Number(match[1]) * (SCALES[match[2]!] ?? 1)
}

/** Waits until a tile's number is within bounds, both inclusive. */
async function tileWithin(page: Page, title: string, least: number, most = Number.POSITIVE_INFINITY): Promise<void> {
  const deadlineMs = performance.now() + WAIT_MS
  for (;;) {
    const value = await tileNumber(page, title)
    if (value >= least && value <= most) return
    assert.ok(performance.now() < deadlineMs, `${title} stays at ${value}`)
    await page.waitForTimeout(200)
  }
}

/** Pixels by which the page is wider than its window. */
function overflow(page: Page): Promise<number> {
  return page.evaluate<number>('document.documentElement.scrollWidth - innerWidth')
}

describe('the live page', { timeout: 600_000 }, () => {
  let directory = ''
  let shots = ''
  let job: ChildProcess
  let output = ''
  let context: BrowserContext
  let wide: Watched

  async function startJob(): Promise<string> {
    const args = [START, '--traffic', String(EVENTS_PER_SECOND), '--window', '5s', '--port', '0', '--parallelism', '2']
    const env = { ...process.env, NODE_TEST_CONTEXT: undefined }
    job = spawn(process.execPath, args, { cwd: directory, stdio: ['ignore', 'pipe', 'pipe'], env })
    return new Promise((resolve, reject) => {
      const take = (text: Buffer): void => {
        output += text.toString()
        const match = /dashboard (http:\S+)/.exec(output)
        if (match !== null) resolve(match[1]!)
      }
      job.stdout!.on('data', take)
      job.stderr!.on('data', take)
      job.on('exit', (code) => reject(new Error(`the job ended with ${code}:\n${output}`)))
    })
  }

  before(async () => {
    assert.ok(existsSync(CHROMIUM), `There is no ${CHROMIUM}. Install Debian's package: apt-get install chromium`)
    directory = await mkdtemp(join(tmpdir(), 'millrace-browser-'))
    shots = await mkdtemp(join(tmpdir(), 'millrace-screenshots-'))
    process.stdout.write(`screenshots in ${shots}\n`)
    const address = await startJob()
    context = await chromium.launchPersistentContext(join(directory, 'profile'), {
      executablePath: CHROMIUM,
      args: CHROMIUM_FLAGS,
    })
    wide = await openPage(context, address, WIDE)
  })

  after(async () => {
    await context?.close()
    if (job?.exitCode === null) {
      job.kill('SIGKILL')
      await once(job, 'exit')
    }
    if (directory !== '') await rm(directory, { recursive: true, force: true })
  })

  test("shows the job's name and that it runs", async () => {
    const { page } = wide
    await page.locator('.badge.state-running').waitFor()
    assert.equal(await page.locator('h1').textContent(), 'pattern-detection')
    assert.match(await page.title(), /^pattern-detection – running – Millrace$/)
    assert.match((await page.locator('.facts').textContent()) ?? '', /rocksdb \d/)
  })

  test('shows rates: the events that come in, and the patterns that go out', async () => {
    const { page } = wide
    // The first seconds are above it: the log was fed before the job was deployed.
    await tileWithin(page, 'Events in', EVENTS_PER_SECOND / 2, EVENTS_PER_SECOND * 1.5)
    await tileWithin(page, 'Events out', 0.1)
    const drawn = await page.locator('path.line-in').getAttribute('d')
    assert.ok((drawn ?? '').length > 20, 'the throughput chart has a line')
  })

  test('draws the graph of the job', async () => {
    const { page } = wide
    const boxes = page.locator('g.vertex')
    assert.ok((await boxes.count()) >= 2)
    const words = (await boxes.allTextContents()).join(' ')
    for (const name of ['Learning events', 'Detect patterns']) assert.ok(words.includes(name), `${name} in ${words}`)
    assert.ok((await page.locator('path.edge-line').count()) >= 1)
    const size = await boxes.first().boundingBox()
    assert.ok(size !== null && size.width > 50 && size.height > 20, JSON.stringify(size))
  })

  test('lists checkpoints, subtasks, watermarks and sinks', async () => {
    const { page } = wide
    await page.getByRole('region', { name: 'Checkpoints' }).locator('.pill.checkpoint-completed').first().waitFor()
    for (const name of ['Subtasks', 'Watermark per split', 'Operators and state', 'Sinks']) {
      assert.ok((await page.getByRole('region', { name, exact: true }).locator('tbody tr').count()) > 0, name)
    }
    assert.equal(await page.getByRole('region', { name: 'Watermark per split' }).locator('tbody tr').count(), 4)
  })

  test('says where time goes, how large each state is, and what a checkpoint consists of', async () => {
    const { page } = wide
    const table = (name: string) => page.getByRole('region', { name, exact: true }).locator('table').first()
    const heads = async (name: string) => (await table(name).locator('thead th').allTextContents()).join(' ')
    assert.match(await heads('Operators and state'), /Busy Blocked Idle Entries Memory Stored Last checkpoint/)
    assert.match(await heads('Checkpoints'), /Alignment Barriers Sync Async Commit Size New/)
    assert.match(await heads('Subtasks'), /Busy Blocked Idle Skew Key groups State/)
    const state = table('Operators and state').locator('tr.state-row').first()
    await state.waitFor()
    assert.match((await state.textContent()) ?? '', /\d+.*\d\s(B|KiB|MiB)/, 'a state has entries and a size')
    const done = table('Checkpoints')
      .locator('tr', { has: page.locator('.checkpoint-completed') })
      .first()
    assert.match((await done.textContent()) ?? '', /\dms|\d\sms/, 'parts have durations')
  })

  test('fits a wide window and a phone, light and dark', async () => {
    await wide.page.screenshot({ path: join(shots, 'wide.png'), fullPage: true })
    assert.equal(await overflow(wide.page), 0)
    await wide.page.emulateMedia({ colorScheme: 'dark' })
    await wide.page.screenshot({ path: join(shots, 'wide-dark.png'), fullPage: true })
    const phone = await openPage(context, wide.page.url(), PHONE)
    await phone.page.locator('.badge.state-running').waitFor()
    await tileWithin(phone.page, 'Events in', 1)
    await phone.page.screenshot({ path: join(shots, 'phone.png'), fullPage: true })
    assert.equal(await overflow(phone.page), 0)
    assert.deepEqual(phone.troubles, [])
  })

  test('chooses a task by keyboard', async () => {
    const { page } = wide
    const rows = page.getByRole('region', { name: 'Subtasks' }).locator('tbody tr')
    const all = await rows.count()
    await page.locator('g.vertex').first().focus()
    await page.keyboard.press('Enter')
    await page.locator('g.vertex.selected').waitFor()
    const chosen = await rows.count()
    assert.ok(chosen > 0 && chosen < all, `${chosen} of ${all} subtasks`)
  })

  test('had no error, no warning and no failed request', () => {
    assert.deepEqual(wide.troubles, [])
  })

  test('the job stops with a final checkpoint, and the page says that it is gone', async () => {
    job.kill('SIGINT')
    const [code] = await once(job, 'exit')
    assert.equal(code, 130, output)
    await wide.page.locator('main.stale').waitFor()
    await wide.page.locator('.notice').first().waitFor()
    await wide.page.screenshot({ path: join(shots, 'gone.png') })
  })
})
