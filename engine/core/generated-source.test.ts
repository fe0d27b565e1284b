/** Generated source is cut into functions of bounded size that do what one function would. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  compile,
  FUNCTION_CHARS_MAX,
  type GeneratedFunction,
  groupsBySource,
  inFunctions,
  isBounded,
} from './generated-source.ts'

const push = (count: number): string[] => Array.from({ length: count }, (_, i) => `into.push(p + ${i}); p++`)

function run(steps: readonly string[]): { readonly made: number[]; readonly functions: readonly GeneratedFunction[] } {
  const all = inFunctions({
    // Long enough for calls that need functions of their own too.
    name: `part_${'x'.repeat(200)}`,
    params: 'into, p',
    steps,
    tail: 'return p',
    call: (name) => `p = ${name}(into, p)`,
  })
  const functions = [...all.functions, { name: 'main', params: 'into, p', body: all.body }]
  const made: number[] = []
  compile<(into: number[], p: number) => void>({ what: 'test', id: 'ends */ here', functions, result: 'main' })(made, 0)
  return { made, functions }
}

describe('generated source', () => {
  test('steps run in order and hand on what they carry, in as many functions as they need', () => {
    for (const [count, functionsMin] of [
      [0, 1],
      [1, 1],
      [20, 1],
      [3_000, 3],
      [20_000, 60],
    ] as const) {
      const { made, functions } = run(push(count))
      assert.deepEqual(
        made,
        Array.from({ length: count }, (_, i) => 2 * i),
      )
      assert.ok(functions.length >= functionsMin && (functionsMin > 1 || functions.length === 1))
      assert.ok(functions.every(({ body }) => body.length <= FUNCTION_CHARS_MAX))
    }
  })

  test('names do not count, however long they are', () => {
    const long = JSON.stringify(`"\\${'x'.repeat(FUNCTION_CHARS_MAX)}`)
    assert.deepEqual(
      groupsBySource(['a', 'b'], () => `row[${long}] = 1`),
      [['a', 'b']],
    )
    assert.ok(isBounded({ name: 'f', params: '', body: `row[${long}] = 1` }))
  })

  test('a function that is too large is refused, whoever generated it', () => {
    const body = push(2_000).join('\n')
    assert.throws(() => compile({ what: 'test', id: '', functions: [{ name: 'f', params: '', body }], result: 'f' }), {
      code: 'INVARIANT_VIOLATED',
    })
  })
})
