/**
 * `millrace bench ...`: hands the arguments to the benchmark that they name.
 */
import { closest, usageError } from '../engine/api/run-flags.ts'
import { messageOf } from '../engine/core/errors.ts'
import { commandHelp } from './help.ts'

type Suite = (args: readonly string[]) => Promise<number>

/** Benchmarks by name, loaded when they are asked for. */
const SUITES: Readonly<Record<string, () => Promise<Suite>>> = {
  engine: throughput('engine'),
  lambdas: throughput('lambdas'),
  sliding: throughput('sliding'),
  changelog: throughput('changelog'),
  'checkpoint-loss': paired('checkpoint-loss'),
  scaling: paired('scaling'),
  memory: async () => (await import('../bench/memory.ts')).runMemory,
  latency: async () => (await import('../bench/latency.ts')).runLatency,
  alignment: async () => (await import('../bench/alignment.ts')).runAlignment,
  recovery: async () => (await import('../bench/recovery.ts')).runRecovery,
}

function throughput(pipeline: 'engine' | 'lambdas' | 'sliding' | 'changelog'): () => Promise<Suite> {
  return async () => {
    const { runThroughput } = await import('../bench/throughput.ts')
    return (args) => runThroughput(pipeline, args)
  }
}

function paired(comparison: 'checkpoint-loss' | 'scaling'): () => Promise<Suite> {
  return async () => {
    const { runPaired } = await import('../bench/paired.ts')
    return (args) => runPaired(comparison, args)
  }
}

export async function benchCommand(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args
  const names = Object.keys(SUITES)
  if (name === '--help' || name === 'help') {
    const more = `NAME is one of ${names.join(', ')};\nmillrace bench NAME --help shows the flags of each.`
    process.stdout.write(`${commandHelp('bench')}\n\n${more}\n`)
    return 0
  }
  if (name === undefined || !Object.hasOwn(SUITES, name)) {
    const near = name === undefined ? null : closest(name, names)
    throw usageError(
      name === undefined ? 'Which benchmark?' : `There is no benchmark ${JSON.stringify(name)}.`,
      near === null ? `Write millrace bench and one of ${names.join(', ')}.` : `Did you mean ${near}?`,
    )
  }
  const suite = await SUITES[name]!()
  try {
    return await suite(rest)
  } catch (error) {
    // Each benchmark has Node parse its flags.
    const code = String((error as { code?: unknown } | null)?.code)
    if (!code.startsWith('ERR_PARSE_ARGS')) throw error
    const [said] = messageOf(error).split('. ', 1)
    throw usageError(`${said!.replace(/\.$/, '')}.`, `See millrace bench ${name} --help.`)
  }
}
