/**
 * docs/reliability.md names tests, checks and planted bugs: all of them exist, and none of the bugs' number is stale.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { BRANCHES } from '../engine/testing/sim/sim-branches.ts'
import { SimInvariants } from '../engine/testing/sim/sim-invariants.ts'
import { MUTANTS } from '../engine/testing/sim/sim-mutants.ts'

const root = new URL('../', import.meta.url)
const text = readFileSync(new URL('docs/reliability.md', root), 'utf8')
const named = [...text.matchAll(/`([^`\n]+)`/g)].map(([, name]) => name!)
const section = (title: string): string => text.slice(text.indexOf(`## ${title}`)).split('\n## ')[0]!
const rows = (title: string): string[] =>
  section(title)
    .split('\n')
    .filter((line) => /^\| (?!-|.*\|---)/.test(line))
    .slice(1)

test('files that it names exist', () => {
  const paths = named.filter((name) => /^[a-z][\w./-]*\/[\w./-]+\.ts$/.test(name))
  assert.ok(paths.length > 40)
  assert.deepEqual(
    paths.filter((path) => !existsSync(new URL(path, root))),
    [],
  )
})

test('every invariant has its check, every fault a test, every bug a plant', () => {
  const invariants = rows('Invariants')
  assert.deepEqual(
    invariants.map((row) => row.split('|')[1]!.trim()),
    Array.from({ length: 14 }, (_, i) => `I${i + 1}`),
  )
  const checks = named.filter((name) => /^check[A-Z]/.test(name))
  const methods = [Object.getOwnPropertyNames(SimInvariants.prototype), readFileSync(simRun, 'utf8')].flat().join(' ')
  for (const check of checks) assert.ok(methods.includes(check), check)
  assert.ok(rows('Faults').length > 20 && rows('Bugs of other').length >= 11)
  for (const row of rows('Faults')) assert.match(row.split('|')[2]!, /\.ts`|simulator/)
  for (const row of rows('Bugs of other')) {
    for (const [, plant] of row.split('|')[2]!.matchAll(/`([^`]+)`/g)) assert.ok(plant! in MUTANTS, plant)
  }
  const parts = rows('What simulated jobs')
  for (const row of parts) {
    for (const [, plant] of row.split('|')[3]!.matchAll(/`([^`]+)`/g)) assert.ok(plant! in MUTANTS, plant)
  }
  const told = parts.flatMap((row) => [...row.split('|')[1]!.matchAll(/`([^`]+)`/g)].map(([, name]) => name!))
  assert.deepEqual(told.sort(), Object.keys(BRANCHES).sort())
  assert.ok(text.includes(`plants ${Object.keys(MUTANTS).length} bugs`), `there are ${Object.keys(MUTANTS).length}`)
})

const simRun = new URL('engine/testing/sim/sim-run.ts', root)
