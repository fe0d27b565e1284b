/**
 * `npm run sim:mutants [-- --seeds N] [NAME ...]`: plants each bug of sim-mutants.ts and says after how many
 * seeds the simulator found it, by which invariant.
 *
 * Exit status 1 when a bug stays hidden for N seeds (500 unless told), 2 on wrong usage.
 */
import { parseArgs } from 'node:util'
import { huntMutant } from './sim-hunt.ts'
import { MUTANTS, type MutantName } from './sim-mutants.ts'

const MESSAGE_MAX = 110

const { values, positionals } = parseArgs({
  options: { seeds: { type: 'string', default: '500' } },
  allowPositionals: true,
})

const all = Object.keys(MUTANTS) as MutantName[]
const unknown = positionals.filter((name) => !(all as string[]).includes(name))
const seedsMax = Number(values.seeds)
if (unknown.length > 0 || !(Number.isSafeInteger(seedsMax) && seedsMax > 0)) {
  process.stderr.write(`Usage: mutants.ts [--seeds N] [NAME ...], names of ${all.join(', ')}.\n`)
  process.exit(2)
}

let missed = 0
for (const name of positionals.length > 0 ? (positionals as MutantName[]) : all) {
  const found = await huntMutant(name, seedsMax)
  if (found === null) missed++
  const text =
    found === null
      ? `NOT FOUND in ${seedsMax} seeds`
      : `seeds ${String(found.seed).padStart(3)}  ${found.violation.invariant.padEnd(3)} ${found.violation.message.slice(0, MESSAGE_MAX)}`
  process.stdout.write(`${name.padEnd(30)} ${text}\n`)
}
process.stdout.write(`mutants ${positionals.length || all.length} missed ${missed}\n`)
process.exitCode = missed === 0 ? 0 : 1
