/**
 * Flags of `millrace run JOB.ts`, which `node JOB.ts` understands too. Read by the command line, by
 * `execute` at the top level of an entry file, and, for `--set`, by `getExecutionEnvironment`.
 */
import { parseArgs } from 'node:util'
import { MillraceError } from '../core/errors.ts'
import type { StateBackendName } from '../runtime/launcher-types.ts'
import { RuntimeExecutionMode } from './runtime-mode.ts'

export interface RunFlags {
  readonly parallelism: number | null
  readonly workers: number | null
  readonly runtimeMode: RuntimeExecutionMode | null
  readonly checkpointDirectory: string | null
  readonly checkpointIntervalMs: number | null
  readonly stateBackend: StateBackendName | null
  /** Bytes a worker; null when not given. */
  readonly stateMemoryBytes?: number | null
  /** `latest`, or the path of a savepoint's manifest. */
  readonly restore: string | null
  readonly allowNonRestoredState: boolean
  readonly acceptDuplicates: boolean
  readonly port: number | null
  readonly config: Readonly<Record<string, string>>
  readonly json: boolean
  readonly check: boolean
  readonly help: boolean
}

/** A flag as `parseArgs` and `--help` know it. */
export interface FlagSpec {
  readonly type: 'string' | 'boolean'
  readonly multiple?: boolean
  /** Placeholder of the value in the help text. */
  readonly value?: string
  readonly help: string
}

export type FlagSpecs = Readonly<Record<string, FlagSpec>>

export const RUN_FLAGS: FlagSpecs = {
  parallelism: { type: 'string', value: 'N', help: 'subtasks of an operator that does not set its own' },
  workers: { type: 'string', value: 'N', help: 'worker threads (default: one a core); 0 uses the main thread' },
  'runtime-mode': {
    type: 'string',
    value: 'streaming|batch|automatic',
    help: 'final results only, at the end of bounded input, or all (default: as the job says)',
  },
  'checkpoint-dir': { type: 'string', value: 'DIR', help: 'where checkpoints are kept' },
  'checkpoint-interval': { type: 'string', value: 'MS', help: 'milliseconds between checkpoints' },
  'state-backend': {
    type: 'string',
    value: 'memory|rocksdb',
    help: 'where keyed state is kept (default: rocksdb where it is built)',
  },
  'state-memory': { type: 'string', value: 'SIZE', help: 'working memory of keyed state a worker, as 512m or 2g' },
  restore: { type: 'string', value: 'latest|PATH', help: 'continue from the last checkpoint, or from a savepoint' },
  'allow-non-restored-state': { type: 'boolean', help: 'leave behind state of operators that the job no longer has' },
  'accept-duplicates': { type: 'boolean', help: 'start although an exactly-once sink is ahead of the checkpoint' },
  port: { type: 'string', value: 'P', help: 'dashboard and REST (default: 8081, or the next free port)' },
  set: { type: 'string', multiple: true, value: 'KEY=VALUE', help: 'an entry of env.config; may be repeated' },
  json: { type: 'boolean', help: 'events as JSON lines on stdout' },
  check: { type: 'boolean', help: 'compare the job with its checkpoint and start nothing' },
  help: { type: 'boolean', help: 'show this text' },
}

/** An error of usage: the command line exits with 2. */
export function usageError(message: string, hint?: string): MillraceError {
  return new MillraceError('USAGE', message, hint === undefined ? {} : { hint })
}

/** The most similar of `known`, or null when none is close. */
export function closest(word: string, known: readonly string[]): string | null {
  let best: string | null = null
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(word, candidate)
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best ?? known.find((candidate) => word !== '' && candidate.startsWith(word)) ?? null
}

/** Levenshtein distance, one row at a time. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)
      row.push(Math.min(previous[j]! + 1, row[j - 1]! + 1, substitution))
    }
    previous = row
  }
  return previous[b.length]!
}

export interface ParsedFlags {
  readonly positionals: readonly string[]
  text(name: string): string | null
  texts(name: string): readonly string[]
  has(name: string): boolean
}

/** Parses against `specs`. Throws `USAGE`, naming the flag and the closest right one. */
export function parseFlags(args: readonly string[], specs: FlagSpecs): ParsedFlags {
  const options = Object.fromEntries(
    Object.entries(specs).map(([name, { type, multiple }]) => [name, { type, multiple: multiple ?? false }]),
  )
  const parsed = parseArgs({ args: [...args], options, strict: false, allowPositionals: true, tokens: true })
  for (const token of parsed.tokens) {
    if (token.kind !== 'option') continue
    const spec = Object.hasOwn(specs, token.name) ? specs[token.name] : undefined
    if (spec === undefined) {
      const near = closest(token.name, Object.keys(specs))
      throw usageError(
        `Unknown flag ${token.rawName}.`,
        near === null ? 'See --help for the flags that exist.' : `Did you mean --${near}?`,
      )
    }
    const looksLikeFlag = token.value?.startsWith('--') === true && token.inlineValue !== true
    if (spec.type === 'string' && (token.value === undefined || looksLikeFlag)) {
      throw usageError(`--${token.name} needs a value.`, `Write --${token.name} ${spec.value ?? 'VALUE'}.`)
    }
    if (spec.type === 'boolean' && token.value !== undefined) {
      throw usageError(`--${token.name} takes no value.`, `Write --${token.name} alone.`)
    }
  }
  const values = parsed.values as Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>
  return {
    positionals: parsed.positionals,
    text: (name) => (typeof values[name] === 'string' ? values[name] : null),
    texts: (name) => (Array.isArray(values[name]) ? values[name].map(String) : []),
    has: (name) => values[name] !== undefined,
  }
}

/** A whole number of at least `min`, or null when the flag is absent. Throws `USAGE`. */
export function integerFlag(flags: ParsedFlags, name: string, min: number, max: number): number | null {
  const text = flags.text(name)
  if (text === null) return null
  const value = Number(text)
  if (text.trim() === '' || !Number.isInteger(value) || value < min || value > max) {
    throw usageError(
      `--${name} ${text} is not possible.`,
      max === Number.MAX_SAFE_INTEGER
        ? `Give a whole number, ${min} or more.`
        : `Give a whole number from ${min} to ${max}.`,
    )
  }
  return value
}

/** The flags of `run`, from parsed ones. Throws `USAGE`. */
export function runFlagsOf(flags: ParsedFlags): RunFlags {
  const any = Number.MAX_SAFE_INTEGER
  const backend = flags.text('state-backend')
  if (backend !== null && backend !== 'memory' && backend !== 'rocksdb') {
    throw usageError(`--state-backend ${backend} is not known.`, 'Write memory or rocksdb.')
  }
  return {
    parallelism: integerFlag(flags, 'parallelism', 1, any),
    workers: integerFlag(flags, 'workers', 0, 1_024),
    runtimeMode: modeFlag(flags),
    checkpointDirectory: nonEmpty(flags, 'checkpoint-dir'),
    checkpointIntervalMs: integerFlag(flags, 'checkpoint-interval', 1, any),
    stateBackend: backend,
    stateMemoryBytes: sizeFlag(flags, 'state-memory'),
    restore: nonEmpty(flags, 'restore'),
    allowNonRestoredState: flags.has('allow-non-restored-state'),
    acceptDuplicates: flags.has('accept-duplicates'),
    port: integerFlag(flags, 'port', 0, 65_535),
    config: configOf(flags.texts('set')),
    json: flags.has('json'),
    check: flags.has('check'),
    help: flags.has('help'),
  }
}

function modeFlag(flags: ParsedFlags): RuntimeExecutionMode | null {
  const text = flags.text('runtime-mode')
  if (text === null) return null
  const mode = Object.values(RuntimeExecutionMode).find((known) => known === text.toLowerCase())
  if (mode !== undefined) return mode
  throw usageError(`--runtime-mode ${text} is not known.`, 'Write streaming, batch or automatic.')
}

/** A size as `512m`, in bytes. */
function sizeFlag(flags: ParsedFlags, name: string): number | null {
  const text = flags.text(name)
  if (text === null) return null
  const bytes = parseMemorySize(text)
  if (bytes !== null) return bytes
  throw usageError(`--${name} ${text} is no size.`, 'Write a number and a unit, as 512m or 2g, at least 1m.')
}

/** Bytes of a size as `512m`, `2g` or a number of bytes; null when it is none, or less than a MiB. */
export function parseMemorySize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?) ?([kmg])?i?b?$/i.exec(text)
  if (match === null) return null
  const shift = { k: 10, m: 20, g: 30 }[(match[2] ?? '').toLowerCase()] ?? 0
  const bytes = Math.floor(Number(match[1]) * 2 ** shift)
  return bytes >= 2 ** 20 && Number.isSafeInteger(bytes) ? bytes : null
}

function nonEmpty(flags: ParsedFlags, name: string): string | null {
  const text = flags.text(name)
  if (text === '') throw usageError(`--${name} is empty.`, `Write --${name} ${RUN_FLAGS[name]?.value ?? 'VALUE'}.`)
  return text
}

function configOf(pairs: readonly string[]): Readonly<Record<string, string>> {
  const config: Record<string, string> = {}
  for (const pair of pairs) {
    const cut = pair.indexOf('=')
    const key = pair.slice(0, Math.max(0, cut))
    if (cut < 1 || key === '__proto__') {
      throw usageError(`--set ${pair} is not a pair.`, 'Write --set KEY=VALUE, for example --set window=10s.')
    }
    config[key] = pair.slice(cut + 1)
  }
  return config
}

/** All flags of `millrace run` after the job file. Throws `USAGE`. */
export function parseRunFlags(args: readonly string[]): RunFlags {
  const flags = parseFlags(args, RUN_FLAGS)
  const stray = flags.positionals[0]
  if (stray !== undefined) throw usageError(`"${stray}" is not expected here.`, 'See --help for the flags that exist.')
  return runFlagsOf(flags)
}
