/**
 * The simulator's command line: `npm run sim -- --seeds N [--from S]`, or `--seed S [--trace]` for one. `--draw 1` makes
 * jobs of the parts that there were once (sim-draws.ts).
 *
 * Ends with one line `seeds N passed N failed 0`; exit status 0 or 1. For each failure it prints the seed,
 * the invariant that was violated and the one command that replays it.
 */
import { parseArgs } from 'node:util'
import { DRAW_NEWEST, isDraw } from './sim-draws.ts'
import { MUTANTS, type MutantName } from './sim-mutants.ts'
import { runSeed, type SimOptions, type SimResult } from './sim-run.ts'

const PROGRESS_EVERY_MS = 10_000

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '200' },
    from: { type: 'string', default: '1' },
    seed: { type: 'string' },
    trace: { type: 'boolean', default: false },
    plant: { type: 'string' },
    draw: { type: 'string', default: String(DRAW_NEWEST) },
  },
})

function wholeNumber(name: string, text: string): number {
  const number = Number(text)
  if (Number.isSafeInteger(number) && number >= 0) return number
  process.stderr.write(`--${name} takes a whole number, not ${text}.\n`)
  process.exit(2)
}

function isMutant(name: string): name is MutantName {
  return Object.hasOwn(MUTANTS, name)
}

const { plant } = values
if (plant !== undefined && !isMutant(plant)) {
  process.stderr.write(`--plant takes one of ${Object.keys(MUTANTS).join(', ')}.\n`)
  process.exit(2)
}

const draw = wholeNumber('draw', values.draw)
if (!isDraw(draw)) {
  process.stderr.write(`--draw takes a number from 1 to ${DRAW_NEWEST}.\n`)
  process.exit(2)
}

/** A bug is planted afresh in each run. */
function optionsOfRun(): SimOptions {
  const of = isDraw(draw) ? { draw } : {}
  return plant !== undefined && isMutant(plant) ? { ...of, plant: MUTANTS[plant].plant() } : of
}

function report(result: SimResult): void {
  if (result.violation === null) return
  const { invariant, message } = result.violation
  const suffix = `${draw === DRAW_NEWEST ? '' : ` --draw ${draw}`}${plant === undefined ? '' : ` --plant ${plant}`}`
  process.stdout.write(`seed ${result.seed} violates ${invariant}: ${message}\n`)
  process.stdout.write(`  replay: npm run sim -- --seed ${result.seed} --trace${suffix}\n`)
}

async function runOne(seed: number): Promise<boolean> {
  const onStep = (label: string, timeMs: number): void => {
    process.stdout.write(`${timeMs.toFixed(3).padStart(12)}  ${label}\n`)
  }
  const result = await runSeed(seed, { ...optionsOfRun(), ...(values.trace ? { onStep } : {}) })
  report(result)
  const { steps, simulatedMs, processes, checkpoints, restarts, traceHash } = result
  process.stdout.write(
    `seed ${seed} hash ${traceHash} steps ${steps} simulated ${Math.round(simulatedMs)} ms processes ${processes} checkpoints ${checkpoints} restarts ${restarts}\n`,
  )
  return result.violation === null
}

async function runMany(count: number, from: number): Promise<boolean> {
  let failed = 0
  let reportedAtMs = performance.now()
  for (let i = 0; i < count; i++) {
    const result = await runSeed(from + i, optionsOfRun())
    report(result)
    if (result.violation !== null) failed++
    if (performance.now() - reportedAtMs < PROGRESS_EVERY_MS) continue
    reportedAtMs = performance.now()
    process.stdout.write(`... ${i + 1} of ${count}, failed ${failed}\n`)
  }
  process.stdout.write(`seeds ${count} passed ${count - failed} failed ${failed}\n`)
  return failed === 0
}

// As when a trace goes to `head`.
process.stdout.on('error', () => process.exit(1))

const passed =
  values.seed !== undefined
    ? await runOne(wholeNumber('seed', values.seed))
    : await runMany(wholeNumber('seeds', values.seeds), wholeNumber('from', values.from))
process.exitCode = passed ? 0 : 1
