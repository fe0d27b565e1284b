/**
 * Turns stored values of an earlier version of a state into values of the declared one.
 *
 * Called by keyed-backend.ts, for each table whose description differs from the checkpoint's, and by
 * `millrace run --check`, which only plans. What a version may change, going up one version at a time:
 *   - a migration function of that version, from the old value to the new one;
 *   - a declared rename of fields;
 *   - fields that are new take the template's value (or null, for a nullable field of a schema), and fields that
 *     are gone are dropped.
 * Everything else is refused before the first record: another shape under the same version, a version that goes
 * down, a field of another type without a function, another kind of state.
 *
 * Invariants:
 * - Planning looks at descriptions only; it is done before any value is touched.
 * - What times to live, lists and windows wrap around a value stays as it is: only the user's values are rewritten.
 */
import type { TableDeclaration, ValueCodec, ValueEvolution } from '../engine/contract/keyed-state.ts'
import { MillraceError, messageOf } from '../engine/core/errors.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { describedSchemaCodec, schemaFieldsOf } from './schema-codec.ts'
import { readWindows, withinBrackets, writeWindows } from './stored-windows.ts'
import { compactFieldsOf, describedCodec } from './value-codec.ts'

/** A table as a checkpoint describes it. */
export interface StoredDescription {
  readonly name: string
  readonly version: number
  readonly layout: string
}

/** Rewrites one stored value; the result is valid until the next call. */
export type Transcode = (bytes: Uint8Array, from: number, to: number) => Uint8Array

const TTL = 'ttl '
const LIST = 'list of '
const LIST_HEAD = 'list head'
const ENTRIES = 'entries '
const WINDOWS = 'windows'
const TTL_BYTES = 8
const LENGTH_BYTES = 4

/** The version that a declaration's values have. */
export function versionOf({ version, layout }: TableDeclaration): number {
  return (layout.kind === 'object' ? layout.codec.evolution?.version : undefined) ?? version
}

/**
 * How values of `stored` become those of `declaration`, whose layout reads `layout`; null when their bytes may stay.
 * Throws `STATE_INCOMPATIBLE`, saying what differs.
 */
export function planMigration(
  stored: StoredDescription,
  declaration: TableDeclaration,
  layout: string,
): Transcode | null {
  const version = versionOf(declaration)
  if (stored.version === version && stored.layout === layout) return null
  if (stored.version === version && declaration.layout.kind === 'object') {
    const { codec } = declaration.layout
    const earlier = codec.earlier?.find(({ description }) => description === stored.layout)
    if (earlier !== undefined) return (bytes, from, to) => codec.encode(earlier.decode(bytes, from, to))
  }
  if (stored.version > version) {
    throw incompatible(stored, `version ${version} is declared, which is older`, 'Start the newer job again.')
  }
  const evolution = declaration.layout.kind === 'object' ? declaration.layout.codec.evolution : undefined
  if (stored.version === version || evolution === undefined) {
    throw incompatible(
      stored,
      differences(stored.layout, layout),
      evolution === undefined
        ? 'Keep the shape of the value, or give the changed state a new name.'
        : `Raise the state's version to ${version + 1}, with migrations where a field changes its name or type.`,
    )
  }
  const steps = stepsBetween(stored.version, version, evolution)
  if (stored.layout === layout && (layout === LIST_HEAD || (steps.length === 0 && fieldsOf(peeled(layout).values)))) {
    return null
  }
  return transcoderOf(stored, layout, evolution, steps)
}

type Step = NonNullable<ValueEvolution['migrations']>[number] & {}

interface NumberedStep {
  readonly version: number
  readonly step: Step
}

function stepsBetween(from: number, to: number, { migrations }: ValueEvolution): NumberedStep[] {
  const steps: NumberedStep[] = []
  for (let version = from + 1; version <= to; version++) {
    const step = migrations?.[version]
    if (step !== undefined) steps.push({ version, step })
  }
  return steps
}

/** Peels what both layouts wrap around the values, down to the values themselves. */
function transcoderOf(
  stored: StoredDescription,
  layout: string,
  evolution: ValueEvolution,
  steps: readonly NumberedStep[],
): Transcode {
  const from = peeled(stored.layout)
  const to = peeled(layout)
  if (from.wrappers.join() !== to.wrappers.join()) {
    throw incompatible(stored, differences(stored.layout, layout), 'Give a state of another kind a new name.')
  }
  const values = valueTranscoder(stored, from.values, evolution, steps)
  return from.wrappers.reduceRight<Transcode>((inner, wrapper) => WRAPPED[wrapper]?.(inner) ?? inner, values)
}

const WRAPPED: Readonly<Record<string, (inner: Transcode) => Transcode>> = {
  [LIST]: ofList,
  [TTL]: ofStamped,
  [WINDOWS]: ofWindows,
}

function peeled(layout: string): { readonly wrappers: string[]; readonly values: string } {
  const wrappers: string[] = []
  let values = layout
  for (;;) {
    const wrapper = [ENTRIES, LIST, TTL].find((prefix) => values.startsWith(prefix))
    const contents = wrapper === undefined ? withinBrackets(values, WINDOWS) : null
    if (wrapper === undefined && contents === null) return { wrappers, values }
    wrappers.push(wrapper ?? WINDOWS)
    values = contents ?? values.slice(wrapper!.length)
  }
}

function ofStamped(inner: Transcode): Transcode {
  const arena = new ByteArena(64)
  return (bytes, from, to) => {
    arena.clear()
    arena.writeBytes(bytes, from, from + TTL_BYTES)
    const value = inner(bytes, from + TTL_BYTES, to)
    arena.writeBytes(value, 0, value.length)
    return arena.view()
  }
}

function ofList(inner: Transcode): Transcode {
  const arena = new ByteArena(256)
  return (bytes, from, to) => {
    arena.clear()
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    for (let at = from; at < to; ) {
      const end = at + LENGTH_BYTES + view.getUint32(at, true)
      const value = inner(bytes, at + LENGTH_BYTES, end)
      arena.reserve(LENGTH_BYTES)
      arena.length = arena.bytes.writeUInt32LE(value.length, arena.length)
      arena.writeBytes(value, 0, value.length)
      at = end
    }
    return arena.view()
  }
}

function ofWindows(inner: Transcode): Transcode {
  const arena = new ByteArena(256)
  return (bytes, from, to) =>
    writeWindows(readWindows(bytes, from, to), (contents) => inner(contents, 0, contents.length), arena)
}

function valueTranscoder(
  stored: StoredDescription,
  layout: string,
  evolution: ValueEvolution,
  steps: readonly NumberedStep[],
): Transcode {
  const old: ValueCodec | null = describedCodec(layout) ?? describedSchemaCodec(layout)
  const { values } = evolution
  if (old === null) {
    throw incompatible(stored, differences(layout, values.description), 'Values of such a layout cannot be rewritten.')
  }
  checkFields(stored, layout, evolution, steps)
  const fit = fitterOf(evolution)
  return (bytes, from, to) => {
    let value: unknown = old.decode(bytes, from, to)
    for (const { version, step } of steps) value = applied(stored, version, step, value)
    return values.encode(fit(stored, value))
  }
}

function applied(stored: StoredDescription, version: number, step: Step, value: unknown): unknown {
  if (typeof step !== 'function') return renamed(value, step.rename)
  try {
    return step(value)
  } catch (error) {
    throw new MillraceError(
      'STATE_MIGRATION_FAILED',
      `The migration of state ${JSON.stringify(stored.name)} to version ${version} failed: ${messageOf(error)}.`,
      { hint: 'It must take every value that the earlier version could hold.', cause: error },
    )
  }
}

function renamed(value: unknown, names: Readonly<Record<string, string>>): unknown {
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [names[name] ?? name, part]))
}

/** Types of the fields of a described layout; null where values are not all of one known shape. */
function fieldsOf(layout: string): Map<string, string> | null {
  const compact = compactFieldsOf(layout)
  if (compact !== null) return new Map(compact.map((field) => [field.name, field.type]))
  const fields = schemaFieldsOf(layout)
  return fields === null ? null : new Map(fields.map((field) => [field.name, field.kind]))
}

/** JavaScript's type of a column kind: a template and a schema may describe the same values. */
const PLAIN_TYPES: Readonly<Record<string, string>> = {
  int32: 'number',
  float64: 'number',
  timestamp: 'number',
  int64: 'bigint',
}

/** Refuses by descriptions alone what no value could pass. After a function the shape is not known any more. */
function checkFields(
  stored: StoredDescription,
  layout: string,
  { values, schema }: ValueEvolution,
  steps: readonly NumberedStep[],
): void {
  let fields = fieldsOf(layout)
  const target = fieldsOf(values.description)
  if (fields === null || target === null) return
  for (const { step } of steps) {
    if (typeof step === 'function') return
    for (const name of Object.keys(step.rename)) {
      if (fields.has(name)) continue
      throw incompatible(stored, `a migration renames the field ${JSON.stringify(name)}, which it did not have`)
    }
    fields = new Map([...fields].map(([name, type]) => [step.rename[name] ?? name, type]))
  }
  const plain = (type: string): string => PLAIN_TYPES[type] ?? type
  for (const [name, type] of target) {
    const before = fields.get(name)
    if (before !== undefined && plain(before) !== plain(type)) {
      throw incompatible(
        stored,
        `its field ${JSON.stringify(name)} was ${before} and is now ${type}`,
        'Give the version a migration function that converts it.',
      )
    }
    const isNullable = schema?.fields.find((field) => field.name === name)?.nullable ?? true
    if (before === undefined && !isNullable) {
      throw incompatible(
        stored,
        `its new field ${JSON.stringify(name)} has no value for stored rows`,
        'Declare it with t.nullable(...), or give the version a migration function that fills it.',
      )
    }
  }
}

type Fitter = (stored: StoredDescription, value: unknown) => unknown

/** Gives records exactly the fields of the template or the schema, on the template's prototype. */
function fitterOf({ template, schema }: ValueEvolution): Fitter {
  if (schema !== undefined && !schema.isOpaque) {
    return (_stored, value) => {
      if (value === null || typeof value !== 'object') return value
      const record = value as Record<string, unknown>
      return Object.fromEntries(schema.fields.map(({ name }) => [name, record[name] ?? null]))
    }
  }
  const sample = template?.()
  if (sample === null || typeof sample !== 'object' || Array.isArray(sample)) return (_stored, value) => value
  return (stored, value) => {
    if (value === null || typeof value !== 'object') return value
    const fresh = template!() as Record<string, unknown>
    const record = value as Record<string, unknown>
    const fitted: Record<string, unknown> = Object.create(Object.getPrototypeOf(fresh))
    for (const [name, initial] of Object.entries(fresh)) {
      fitted[name] = Object.hasOwn(record, name) ? record[name] : initial
      checkType(stored, name, initial, fitted[name])
    }
    return fitted
  }
}

function checkType({ name: state, version }: StoredDescription, name: string, initial: unknown, value: unknown): void {
  const type = typeof initial
  if (type === typeof value || value === null || value === undefined) return
  if (type !== 'number' && type !== 'string' && type !== 'boolean' && type !== 'bigint') return
  throw new MillraceError(
    'STATE_MIGRATION_FAILED',
    `State ${JSON.stringify(state)}, saved as version ${version}: the field ${JSON.stringify(name)} of a value is ${typeof value}, not ${type}.`,
    { hint: 'Give the version a migration function that converts it.' },
  )
}

/** What a reader of the message can compare. */
function differences(before: string, after: string): string {
  const old = fieldsOf(peeled(before).values)
  const now = fieldsOf(peeled(after).values)
  if (old === null || now === null) return `it was ${before} and is now ${after}`
  const changes = [
    ...[...now].filter(([name]) => !old.has(name)).map(([name, type]) => `${name}: ${type} was added`),
    ...[...old].filter(([name]) => !now.has(name)).map(([name, type]) => `${name}: ${type} was removed`),
    ...[...now].flatMap(([name, type]) => {
      const type0 = old.get(name)
      return type0 === undefined || type0 === type ? [] : [`${name} was ${type0} and is now ${type}`]
    }),
  ]
  return changes.length === 0 ? `it was ${before} and is now ${after}` : changes.join(', ')
}

function incompatible(stored: StoredDescription, what: string, hint?: string): MillraceError {
  return new MillraceError(
    'STATE_INCOMPATIBLE',
    `State ${JSON.stringify(stored.name)} was saved as version ${stored.version}: ${what}.`,
    hint === undefined ? {} : { hint },
  )
}
