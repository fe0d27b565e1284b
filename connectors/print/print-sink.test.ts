/** Lines: their format, their order, and a stream that is slow or goes away. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { PassThrough, Writable } from 'node:stream'
import { describe, test } from 'node:test'
import type { SinkWriterContext } from '../../engine/contract/sink.ts'
import { batchOfRows } from '../../engine/core/rows.ts'
import { OPAQUE_SCHEMA, type Schema, schema, t } from '../../engine/core/schema.ts'
import { StringInterner } from '../../engine/core/strings.ts'
import { sinkChecks } from '../sink-conformance.ts'
import { type LineStream, type PrintSink, printSink } from './print-sink.ts'

/** Prints rows as the engine would: written in a subtask, posted to the sink. */
async function print(
  sink: PrintSink<never>,
  rows: readonly unknown[],
  rowSchema: Schema = OPAQUE_SCHEMA,
): Promise<void> {
  const context = {
    schema: rowSchema,
    worker: { interner: new StringInterner(), uniqueId: (prefix: string) => prefix },
    post: (message: unknown) => sink.onMessage!(structuredClone(message)),
  } as unknown as SinkWriterContext
  const writer = sink.createWriter(context)
  await writer.open()
  assert.equal(writer.write(batchOfRows(rowSchema, rows), 0), rows.length)
  assert.equal(await writer.prepareCommit(), null)
  await writer.close()
}

test('strings as they are, other rows as JSON, after the prefix', async () => {
  const stream = new PassThrough()
  const sink = printSink<never>({ prefix: 'out', stream })
  await print(sink, [{ n: 2n ** 60n }, 'a b "c"', ['d'], 5, Number.NaN, undefined, null])
  await print(sink, [{ id: 7n, name: null }], schema({ id: t.int64(), name: t.nullable(t.string()) }))
  assert.deepEqual(String(stream.read()).split('\n'), [
    'out> {"n":1152921504606846976}',
    'out> a b "c"',
    'out> ["d"]',
    'out> 5',
    'out> "NaN"',
    'out> undefined',
    'out> null',
    'out> {"id":7,"name":null}',
    '',
  ])
})

test('maps, sets, errors and circles have something to show too', async () => {
  const stream = new PassThrough()
  const circle: Record<string, unknown> = { n: 1 }
  circle['self'] = circle
  await print(printSink<never>({ stream }), [{ m: new Map([['a', 1n]]), s: new Set([2]) }, new RangeError('x'), circle])
  assert.deepEqual(String(stream.read()).split('\n'), [
    '{"m":[["a",1]],"s":[2]}',
    '"RangeError: x"',
    '<ref *1> { n: 1, self: [Circular *1] }',
    '',
  ])
})

describe('conformance', () => {
  const checks = sinkChecks({
    rowOf: (id) => ({ id }),
    guarantee: 'at-least-once',
    create() {
      let text = ''
      const stream: LineStream = {
        write(lines, done) {
          text += lines
          done()
        },
        once: () => {},
      }
      return {
        sink: () => printSink({ stream }),
        visible: () =>
          text
            .split('\n')
            .slice(0, -1)
            .map((line): unknown => JSON.parse(line)),
      }
    },
  })
  for (const { name, run } of checks) test(name, run)
})

test('a format makes the lines', async () => {
  const stream = new PassThrough()
  const sink = printSink<{ a: number }>({ format: (row) => `a is ${row.a}`, stream })
  await print(sink as PrintSink<never>, [{ a: 1 }, { a: 2 }])
  assert.equal(String(stream.read()), 'a is 1\na is 2\n')
})

test('standard error is another stream', () => {
  const url = new URL('./print-sink.ts', import.meta.url).href
  const program = `import { printSink } from ${JSON.stringify(url)}
    printSink({ prefix: 'e', standardError: true }).onMessage('to err\\n')
    printSink().onMessage('to out\\n')`
  const run = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
  assert.deepEqual([run.stdout, run.stderr.split('\n').filter((line) => line === 'to err')], ['to out\n', ['to err']])
})

test('a slow stream gets every line in order, and flushed waits for it', async () => {
  let text = ''
  const stream = new Writable({
    highWaterMark: 4,
    write(chunk, _encoding, done) {
      text += String(chunk)
      setTimeout(done, 1)
    },
  })
  const sink = printSink<never>({ stream })
  const expected: string[] = []
  for (let i = 0; i < 50; i++) {
    expected.push(String(i))
    await print(sink, [i])
  }
  await sink.flushed()
  assert.deepEqual(text.trim().split('\n'), expected)
})

test('a stream that closes ends the printing, not the job', async () => {
  const stream = new Writable({ highWaterMark: 1, write: () => {} })
  const sink = printSink<never>({ stream })
  await print(sink, [1])
  await print(sink, [2])
  const flushed = sink.flushed()
  stream.destroy(new Error('EPIPE'))
  await flushed
  await print(sink, [3])
})

// The first is what a program does, the second what the command line does for every job.
for (const wait of ['await sink.flushed()', `await new Promise((done) => process.stdout.write('', done))`]) {
  test(`nothing is lost when the process exits after ${wait}`, () => exitAfter(wait))
}

function exitAfter(wait: string): void {
  const url = new URL('./print-sink.ts', import.meta.url).href
  const program = `import { printSink } from ${JSON.stringify(url)}
    const sink = printSink('p')
    for (let i = 0; i < 200; i++) sink.onMessage('x'.repeat(1023) + '\\n')
    ${wait}
    process.exit(0)`
  // A process that exits too early loses its end in about every fifth run.
  for (let i = 0; i < 5; i++) {
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', program])
    assert.equal(run.stdout.length, 200 * 1024)
  }
}
