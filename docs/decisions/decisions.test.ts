/** The table of decisions names tests that exist. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

const root = new URL('../../', import.meta.url)
const table = readFileSync(new URL('README.md', import.meta.url), 'utf8')

test('each decision has its row, and each test that is named there is in its file', () => {
  const rows = table.split('\n').filter((line) => /^\| \d+ \|/.test(line))
  assert.deepEqual(
    rows.map((row) => Number(row.split('|')[1])),
    Array.from({ length: 20 }, (_, i) => i + 1),
  )
  let named = 0
  for (const [, path, names] of table.matchAll(/`([\w./-]+\.test\.ts)`((?:[:,]? "[^"]+")*)/g)) {
    const file = new URL(path!, root)
    assert.ok(existsSync(file), `there is no ${path}`)
    // Quoted as the program has it, so that a test is found by its name.
    const source = readFileSync(file, 'utf8').replaceAll('\\', '')
    for (const [, name] of names!.matchAll(/"([^"]+)"/g)) {
      named++
      const isThere = ["'", '"', '`'].some((quote) => source.includes(`(${quote}${name}${quote}`))
      assert.ok(isThere, `${path} has no test "${name}"`)
    }
  }
  assert.ok(named > 50, `only ${named} were found`)
})
