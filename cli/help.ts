/**
 * The help texts, made from the same tables as the parsers.
 */
import { type FlagSpecs, RUN_FLAGS } from '../engine/api/run-flags.ts'

export interface CommandSpec {
  /** After `millrace`. */
  readonly usage: string
  readonly summary: string
  readonly flags: FlagSpecs
}

const HELP: FlagSpecs = { help: { type: 'boolean', help: 'show this text' } }
const PORT: FlagSpecs = { port: { type: 'string', value: 'P', help: 'port of the running job (default: 8081)' } }

export const COMMANDS = {
  run: { usage: 'run JOB.ts', summary: 'run a job', flags: RUN_FLAGS },
  savepoint: {
    usage: 'savepoint',
    summary: 'take a savepoint of a running job and print its path',
    flags: { ...PORT, stop: { type: 'boolean', help: 'stop the job after the savepoint' }, ...HELP },
  },
  cancel: { usage: 'cancel', summary: 'end a running job at once, without a checkpoint', flags: { ...PORT, ...HELP } },
  checkpoints: {
    usage: 'checkpoints list|verify DIR',
    summary: 'list the checkpoints of a directory, or check every byte of them',
    flags: { json: { type: 'boolean', help: 'as JSON' }, ...HELP },
  },
  state: {
    usage: 'state DIR',
    summary: 'show keyed state of a checkpoint; without --operator, the operators that have some',
    flags: {
      operator: { type: 'string', value: 'UID', help: 'whose state' },
      limit: { type: 'string', value: 'N', help: 'entries at most (default 20; 0 shows all)' },
      json: { type: 'boolean', help: 'one JSON object a line' },
      ...HELP,
    },
  },
  bench: { usage: 'bench NAME', summary: 'measure the engine on this machine', flags: HELP },
} as const satisfies Readonly<Record<string, CommandSpec>>

export type CommandName = keyof typeof COMMANDS

/** A line for each flag. */
export function flagLines(flags: FlagSpecs): string[] {
  const shown = Object.entries(flags).map(
    ([name, { value, help }]) => [`--${name}${value === undefined ? '' : ` ${value}`}`, help] as const,
  )
  const width = Math.max(...shown.map(([left]) => left.length))
  return shown.map(([left, help]) => `  ${left.padEnd(width)}  ${help}`)
}

export function commandHelp(name: CommandName): string {
  const { usage, summary, flags } = COMMANDS[name]
  return [`millrace ${usage} [flags]: ${summary}`, '', ...flagLines(flags)].join('\n')
}

export function runHelp(): string {
  return `${commandHelp('run')}\n\nnode JOB.ts takes the same flags.`
}

export function generalHelp(): string {
  const commands = Object.values(COMMANDS)
  const width = Math.max(...commands.map(({ usage }) => usage.length))
  return [
    'millrace COMMAND: stateful stream processing',
    '',
    ...commands.map(({ usage, summary }) => `  ${usage.padEnd(width)}  ${summary}`),
    '',
    'millrace COMMAND --help shows the flags of a command; --version prints the version.',
  ].join('\n')
}
