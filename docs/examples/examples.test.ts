/**
 * Runs every example and compares what it prints with the block at its end, so that no example can rot.
 *
 * Lines are compared in whatever order: subtasks of different keys print beside each other.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type Finished, millrace, node } from '../../cli/command-testkit.ts'

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url))
const read = (file: string): string => readFileSync(path(file), 'utf8')
const isExample = (file: string): boolean => /^[a-z-]+\.ts$/.test(file)
const examples = readdirSync(path('.')).filter(isExample).sort()

/** The lines that an example says it prints. */
function expectedOf(file: string): string[] {
  const block = /\n\/\* prints:\n([\s\S]+)\n\*\/\n$/.exec(read(file))
  assert.ok(block !== null, `${file} does not end with a block /* prints: ... */`)
  return block[1]!.split('\n').sort()
}

const linesOf = (text: string): string[] =>
  text
    .split('\n')
    .filter((line) => line !== '')
    .sort()

describe('examples', { concurrency: 3 }, () => {
  let finished: Finished
  const printed = new Map<string, string[]>()

  before(async () => {
    finished = await node(path('run-examples.fixture.ts'), ...examples.map((file) => `./${file}`))
    for (const section of finished.stdout.split(/^=== \.\//m).slice(1)) {
      const end = section.indexOf('\n')
      printed.set(section.slice(0, end), linesOf(section.slice(end)))
    }
  })

  test('there are twenty-three, and the table names each', () => {
    assert.equal(examples.length, 23)
    const named = [...read('README.md').matchAll(/\]\((\S+\.ts)\)/g)].map((match) => match[1]!)
    assert.deepEqual(named.sort(), examples)
  })

  for (const file of examples) {
    test(file, () => {
      const expected = expectedOf(file)
      assert.deepEqual(printed.get(file), expected, finished.stderr)
    })
  }

  // A job and a program on their own, on as many threads as there are cores.
  test('millrace run', async () => {
    const { stdout, stderr } = await millrace('run', path('word-count.ts'), '--port', '0')
    assert.deepEqual(linesOf(stdout), expectedOf('word-count.ts'), stderr)
  })

  test('node', async () => {
    const { stdout, stderr } = await node(path('rich-functions.ts'), '--port', '0')
    assert.deepEqual(linesOf(stdout), expectedOf('rich-functions.ts'), stderr)
  })
})
