/**
 * `millrace bench ...`: hands the arguments to the benchmark that they name.
 */
import { closest, usageError } from '../engine/api/run-flags.ts'
import { commandHelp } from './help.ts'

export async function benchCommand(args: readonly string[]): Promise<number> {
  const [suite, ...rest] = args
  switch (suite) {
    case 'engine': {
      const { runEngineBench } = await import('../bench/engine.ts')
      return (await runEngineBench(rest)) ?? 0
    }
    case '--help':
    case 'help':
      process.stdout.write(`${commandHelp('bench')}\n`)
      return 0
    default:
      throw usageError(
        suite === undefined ? 'Which benchmark?' : `There is no benchmark ${JSON.stringify(suite)}.`,
        suite !== undefined && closest(suite, ['engine']) !== null
          ? 'Did you mean engine?'
          : 'Write millrace bench engine.',
      )
  }
}
