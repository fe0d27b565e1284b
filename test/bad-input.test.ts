/**
 * Records that cannot be used become dead letters with their place and the reason, and the job lives on.
 */
import assert from 'node:assert/strict'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import {
  count,
  minutes,
  StreamExecutionEnvironment,
  schema,
  seconds,
  TumblingEventTimeWindows,
  t,
  WatermarkStrategy,
} from 'millrace'
import { collectSink } from 'millrace/connectors/collect'
import { filesSource } from 'millrace/connectors/files'

const visit = schema({ page: t.string(), at: t.timestamp(), details: t.nullable(t.json()) })
const AT = Date.UTC(2025, 0, 1)

const good = (page: string, offsetMs: number): string => JSON.stringify({ page, at: AT + offsetMs })

/** Each with a word that its reason must contain. */
const BAD: readonly (readonly [record: string, reason: RegExp])[] = [
  ['{"page":"a","at":', /JSON/i],
  ['not json', /JSON/i],
  ['[1,2]', /object/i],
  [`{"page":7,"at":${AT}}`, /page/],
  ['{"page":"a","at":"tomorrow"}', /at/],
  ['{"page":"a"}', /at/],
  [`{"page":"a","at":${AT},"details":{"__proto__":{"admin":true}}}`, /__proto__/],
  [`{"page":"${'x'.repeat(10_000_000)}","at":${AT}}`, /bytes/],
  ['{"page":"a","at":-1}', /before 1970/],
  [`{"page":"a","at":${Date.UTC(2400, 0, 1)}}`, /future/],
]

async function deadLetters(directory: string): Promise<{ reason: string; offset: number; bytes: string }[]> {
  const folder = join(directory, 'dead-letters')
  const letters: { reason: string; offset: number; bytes: string }[] = []
  for (const name of (await readdir(folder)).sort()) {
    for (const line of (await readFile(join(folder, name), 'utf8')).split('\n')) {
      if (line !== '') letters.push(JSON.parse(line) as { reason: string; offset: number; bytes: string })
    }
  }
  return letters
}

test('bad records are dead-lettered with the job alive', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-bad-'))
  try {
    const lines: string[] = []
    for (const [i, [record]] of BAD.entries()) lines.push(good('home', i * 1_000), record, good('shop', i * 1_000))
    const input = join(directory, 'visits.jsonl')
    await writeFile(input, `${lines.join('\n')}\n`)
    const env = StreamExecutionEnvironment.getExecutionEnvironment()
    env.getCheckpointConfig().setCheckpointStorage(join(directory, 'checkpoints'))
    const results = collectSink<{ key: string; visits: number }>({ exactlyOnce: true })
    env
      .fromSource(
        filesSource({ path: input, schema: visit, format: 'json' }),
        WatermarkStrategy.forBoundedOutOfOrderness<{ page: string; at: number }>(seconds(5)).withTimestampAssigner(
          'at',
        ),
      )
      .keyBy('page')
      .window(TumblingEventTimeWindows.of(minutes(5)))
      .aggregate({ visits: count() })
      .sinkTo(results)
    const result = await env.execute('bad input')

    assert.equal(result.deadLettered, BAD.length)
    assert.equal(result.late, 0)
    const counts = results.results.map(({ key, visits }) => `${key} ${visits}`).sort()
    assert.deepEqual(counts, [`home ${BAD.length}`, `shop ${BAD.length}`])

    const letters = await deadLetters(join(directory, 'checkpoints'))
    assert.equal(letters.length, BAD.length)
    for (const [record, reason] of BAD) {
      const start = record.slice(0, 40)
      const letter = letters.find(({ bytes, reason: why }) => {
        const text = Buffer.from(bytes, 'base64').toString()
        return reason.test(why) && (text.startsWith(start) || JSON.parse(text).at === JSON.parse(record).at)
      })
      assert.ok(
        letter,
        `no dead letter for ${start} with a reason like ${reason}: ${letters.map((l) => l.reason).join(' | ')}`,
      )
      assert.ok(letter.offset >= 0, 'its place in the file')
      letters.splice(letters.indexOf(letter), 1)
    }
    assert.equal(({} as { admin?: boolean }).admin, undefined)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})

test('without a checkpoint directory dead letters are kept too, and it is said where', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-bad-'))
  const messages: string[] = []
  try {
    const input = join(directory, 'visits.jsonl')
    await writeFile(input, `${good('home', 0)}\nnot json\n`)
    const env = StreamExecutionEnvironment.getExecutionEnvironment()
    const results = collectSink()
    env.fromSource(filesSource({ path: input, schema: visit, format: 'json' })).sinkTo(results)
    await env.execute('no directory', {
      onEvent(event) {
        if (event.type === 'exception' && event.where === 'dead letters') messages.push(event.message)
      },
    })
    assert.equal(results.results.length, 1)
    const kept = /are in (.*)\/dead-letters\.$/.exec(messages[0] ?? '')
    assert.ok(kept, messages.join())
    const letters = await deadLetters(kept[1]!)
    assert.deepEqual(
      letters.map(({ bytes }) => Buffer.from(bytes, 'base64').toString()),
      ['not json'],
    )
    await rm(kept[1]!, { recursive: true, force: true })
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
})
