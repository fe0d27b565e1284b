/**
 * Compares what the chaos job's sinks hold with what must come out of the events that were fed.
 *
 * Every event must stand in the file sink once, with its place among the events of its key: a lost or
 * repeated effect on state shows in that number, lost or repeated output in the count. Every window must
 * stand in Postgres once, with the right sums.
 */
import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { queryPostgres } from '../../connectors/postgres/index.ts'
import type { NumberedEvent } from './chaos-job.ts'
import { chaosEvent, KEYS, keyNumberOf, WINDOW_MS } from './events.ts'

/** Records named in a verdict. */
const EXAMPLES_MAX = 20

export interface Verdict {
  readonly lost: number
  readonly duplicated: number
  /** Records in place, but with the wrong content: their state lost or repeated something. */
  readonly wrong: number
  /** The first of them, in words. */
  readonly examples: readonly string[]
}

class Findings {
  lost = 0
  duplicated = 0
  wrong = 0
  readonly examples: string[] = []

  add(kind: 'lost' | 'duplicated' | 'wrong', what: string, times = 1): void {
    this[kind] += times
    if (this.examples.length < EXAMPLES_MAX) this.examples.push(`${kind}: ${what}`)
  }
}

/** `directory` is the job's; events 0 to `fed` - 1 were fed. */
export async function judge(directory: string, fed: number): Promise<Verdict> {
  const findings = new Findings()
  await judgeNumbered(join(directory, 'numbered'), fed, findings)
  await judgeWindows(join(directory, 'store'), fed, findings)
  const { lost, duplicated, wrong, examples } = findings
  return { lost, duplicated, wrong, examples }
}

async function judgeNumbered(directory: string, fed: number, findings: Findings): Promise<void> {
  const times = new Uint8Array(fed)
  const expected = new Int32Array(fed)
  const perKey = new Int32Array(KEYS)
  for (let id = 0; id < fed; id++) expected[id] = ++perKey[keyNumberOf(id)]
  const files = (await readdir(directory)).filter((name) => name.endsWith('.jsonl'))
  for (const file of files) {
    for await (const line of createInterface({ input: createReadStream(join(directory, file)) })) {
      const row = JSON.parse(line) as NumberedEvent
      if (!(row.id >= 0 && row.id < fed)) {
        findings.add('wrong', `${file} holds event ${row.id}, which was never fed`)
        continue
      }
      if (times[row.id]++ > 0) findings.add('duplicated', `event ${row.id} of ${row.key}, again in ${file}`)
      else if (row.nth !== expected[row.id]) {
        findings.add('wrong', `event ${row.id} of ${row.key} is number ${row.nth}, not ${expected[row.id]}`)
      }
    }
  }
  for (let id = 0; id < fed; id++) if (times[id] === 0) findings.add('lost', `event ${id} of key-${keyNumberOf(id)}`)
}

interface Expected {
  events: number
  amount: number
  seen: number
}

async function judgeWindows(store: string, fed: number, findings: Findings): Promise<void> {
  const expected = new Map<string, Expected>()
  for (let id = 0; id < fed; id++) {
    const event = chaosEvent(id)
    const name = `${event.key} ${Math.floor(event.at / WINDOW_MS) * WINDOW_MS}`
    const window = expected.get(name) ?? { events: 0, amount: 0, seen: 0 }
    window.events++
    window.amount += event.amount
    expected.set(name, window)
  }
  const rows = await queryPostgres(
    { kind: 'pglite', directory: store },
    'SELECT key, window_start, events, amount FROM window_sums',
  )
  for (const row of rows) {
    const name = `${row['key']} ${Number(row['window_start'])}`
    const window = expected.get(name)
    if (window === undefined) findings.add('wrong', `there is no window ${name}`)
    else if (window.seen++ > 0) findings.add('duplicated', `window ${name}`)
    else if (Number(row['events']) !== window.events || Number(row['amount']) !== window.amount) {
      const found = `${row['events']} events and ${row['amount']}`
      findings.add('wrong', `window ${name} has ${found}, not ${window.events} and ${window.amount}`)
    }
  }
  for (const [name, window] of expected) if (window.seen === 0) findings.add('lost', `window ${name}`)
}
