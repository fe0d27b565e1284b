/**
 * Sources that do not keep their promises end the job with what is wrong: each way in which one may be mistaken, in a
 * whole job.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { batchOfRows, MillraceError, RestartStrategies, StreamExecutionEnvironment } from '../api/index.ts'
import type { Source, SourceReader } from '../contract/source.ts'
import { OPAQUE_SCHEMA } from '../core/schema.ts'
import { SplitDiscovery } from './split-discovery.ts'

/** Three numbers of one split. */
function numbers(wrong: { readonly splits?: unknown; readonly reader?: Partial<Record<keyof SourceReader, unknown>> }) {
  const splits = async () => [{ id: 'a', position: 0 }]
  const createReader = () => {
    let next = 0
    const reader: SourceReader = {
      open: async () => {},
      poll: () =>
        next === 3 ? { kind: 'end' } : { kind: 'batch', split: 'a', batch: batchOfRows(OPAQUE_SCHEMA, [next++]) },
      snapshot: () => [{ id: 'a', position: next }],
      close: async () => {},
    }
    return { ...reader, ...wrong.reader }
  }
  return { kind: 'numbers', schema: OPAQUE_SCHEMA, boundedness: 'bounded', splits, createReader, ...wrong } as Source
}

async function failureOf(source: Source): Promise<MillraceError> {
  const env = StreamExecutionEnvironment.createEnvironment().setStateBackend('memory')
  env.setRestartStrategy(RestartStrategies.noRestart())
  try {
    await env.fromSource(source).executeAndCollect()
  } catch (error) {
    assert.ok(error instanceof MillraceError, String(error))
    return error
  }
  throw new Error('The job ended well.')
}

const split = (id: unknown, position: unknown = 0) => ({ id, position })

test('a mistake of a source fails its job at once, and says what to do', async () => {
  assert.deepEqual(
    await StreamExecutionEnvironment.createEnvironment().fromSource(numbers({})).executeAndCollect(),
    [0, 1, 2],
  )
  const batch = batchOfRows(OPAQUE_SCHEMA, [1])
  const cases: readonly (readonly [Parameters<typeof numbers>[0], string, RegExp])[] = [
    [{ splits: async () => undefined }, 'SOURCE_INVALID', /its splits are undefined/],
    [{ splits: async () => [split(7)] }, 'SOURCE_INVALID', /the id of a split is number/],
    [{ splits: async () => [split('a'), split('a')] }, 'SOURCE_INVALID', /two splits have the id "a"/],
    [{ splits: async () => [split('a', 1n)] }, 'NOT_JSON', /position of split "a" of ".*" cannot be saved/],
    [{ reader: { poll: async () => ({ kind: 'end' }) } }, 'SOURCE_INVALID', /poll gave a promise/],
    [{ reader: { poll: () => undefined } }, 'SOURCE_INVALID', /poll gave undefined/],
    [{ reader: { poll: () => ({ kind: 'rows' }) } }, 'SOURCE_INVALID', /poll gave "rows"/],
    [{ reader: { poll: () => ({ kind: 'batch', split: 'b', batch }) } }, 'SOURCE_INVALID', /poll names the split "b"/],
    [{ reader: { poll: () => ({ kind: 'finished', split: 'b' }) } }, 'SOURCE_INVALID', /poll names the split "b"/],
    [{ reader: { snapshot: () => [split('b')] } }, 'SOURCE_INVALID', /snapshot names the split "b"/],
    [{ reader: { snapshot: () => [split('a', { offset: 1n })] } }, 'NOT_JSON', /\.offset is of type bigint/],
  ]
  for (const [wrong, code, message] of cases) {
    const failure = await failureOf(numbers(wrong))
    assert.equal(failure.code, code, failure.message)
    assert.match(failure.message, message)
  }
})

test('so does one in splits that are found later', async () => {
  const node = { name: 'numbers', uid: 'numbers', source: numbers({ splits: async () => [split('a', Number.NaN)] }) }
  const discovery = new SplitDiscovery({ io: { clock: { monotonicMs: () => 0 } } } as never)
  discovery.watch({ ...node, source: { ...node.source, discoveryIntervalMs: 1 } } as never, 1, [], 0)
  const failure = await new Promise((resolve) => {
    discovery.tick(1, () => resolve(null), resolve)
  })
  assert.ok(failure instanceof MillraceError && failure.code === 'NOT_JSON')
})
