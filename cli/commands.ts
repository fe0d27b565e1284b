/**
 * Chooses the command and turns its outcome into the process's end. Each command's code is loaded when it
 * is the one.
 */
import { readFileSync } from 'node:fs'
import { closest, parseFlags, usageError } from '../engine/api/run-flags.ts'
import { exitProcess } from './exit-process.ts'
import { exitCodeForError, printFailure } from './failure.ts'
import { COMMANDS, type CommandName, commandHelp, generalHelp, runHelp } from './help.ts'

function isCommand(name: string): name is CommandName {
  return Object.hasOwn(COMMANDS, name)
}

function version(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** Runs a command; resolves to the exit code. Throws `USAGE` and what the command throws. */
export async function runCommand(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args
  if (name === undefined) throw usageError('Which command?', `\n\n${generalHelp()}`)
  // `help run` is `run --help`.
  if (name === 'help' && rest[0] !== undefined && isCommand(rest[0])) return runCommand([rest[0], '--help'])
  if (name === '--help' || name === '-h' || name === 'help') return print(generalHelp())
  if (name === '--version' || name === '-v') return print(version())
  if (!isCommand(name)) {
    const near = closest(name, Object.keys(COMMANDS))
    throw usageError(
      `There is no command ${JSON.stringify(name)}.`,
      near === null ? 'See millrace --help.' : `Did you mean ${near}?`,
    )
  }
  // The bench has flags of its own, `run` may hand `--help` to nobody else.
  if (name === 'bench') return (await import('./bench-command.ts')).benchCommand(rest)
  const flags = parseFlags(rest, COMMANDS[name].flags)
  if (flags.has('help')) return print(name === 'run' ? runHelp() : commandHelp(name))
  switch (name) {
    case 'run':
      return (await import('./run-command.ts')).runCommandLine(flags, rest)
    case 'savepoint':
      return (await import('./remote-commands.ts')).savepointCommand(flags)
    case 'cancel':
      return (await import('./remote-commands.ts')).cancelCommand(flags)
    case 'state':
      return (await import('./state-command.ts')).stateCommand(flags)
    case 'checkpoints':
      return (await import('./checkpoints-command.ts')).checkpointsCommand(flags)
  }
}

function print(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}

/** The whole program: runs a command and exits. */
export async function main(args: readonly string[]): Promise<void> {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // Whoever read our output has gone; there is nobody left to tell.
    if (error.code === 'EPIPE') process.exit(1)
    throw error
  })
  let code: number
  try {
    code = await runCommand(args)
  } catch (error) {
    printFailure(error)
    code = exitCodeForError(error)
  }
  await exitProcess(code)
}
