/**
 * Bytes for the objects that users keep in state: accumulators, rows, values.
 *
 * Called by whoever declares a table of objects. A record is a format byte and a body:
 *   0  node:v8's serialisation of the value's own enumerable data, where it is not plain
 *   1  the compact form: the template's fields in order, number f64 LE | boolean u8 | string u32 LE
 *      length and UTF-8
 *   2  plain data, as plain-codec.ts writes it
 * Compact needs a template that is a flat object of numbers, booleans and strings; a value that does not
 * fit falls back to format 0, record by record.
 *
 * Invariants:
 * - Class instances come back on the prototype that a fresh template has at the same place. One that the
 *   template does not have is refused when it is encoded: it would come back without its methods.
 * - `encode` returns a view that the next `encode` of the same codec overwrites.
 * - `decode` never keeps the bytes it was given.
 */

import { deserialize, serialize } from 'node:v8'
import type { StateMigrations, ValueCodec, ValueEvolution } from '../engine/contract/keyed-state.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { compile } from '../engine/core/generated-source.ts'
import { ByteArena } from '../engine/core/strings.ts'
import { decodePlain, PlainEncoder } from './plain-codec.ts'
import { checkRestorable } from './value-restorable.ts'

const FORMAT_V8 = 0
const FORMAT_COMPACT = 1
const FORMAT_PLAIN = 2

/** Names the value in errors, and keeps generated functions apart. */
export interface ObjectCodecOptions {
  /** As in "the accumulator of window 5m". */
  readonly what?: string
  /** Unique in the process: functions of identical source share inline caches. */
  readonly id?: string
  /** What earlier versions of the values were; see `ValueEvolution`. */
  readonly version?: number | undefined
  readonly migrations?: StateMigrations | undefined
}

/** Prototypes whose instances node:v8 restores by itself. */
const PLAIN_PROTOTYPES: ReadonlySet<unknown> = new Set<unknown>([
  null,
  Object.prototype,
  Array.prototype,
  Map.prototype,
  Set.prototype,
  Date.prototype,
  RegExp.prototype,
  ArrayBuffer.prototype,
  DataView.prototype,
  Buffer.prototype,
  Boolean.prototype,
  Number.prototype,
  String.prototype,
  Error.prototype,
  RangeError.prototype,
  TypeError.prototype,
  SyntaxError.prototype,
  ReferenceError.prototype,
  ...[Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array].map(
    (c) => c.prototype,
  ),
  ...[Float32Array, Float64Array, BigInt64Array, BigUint64Array].map((c) => c.prototype),
])

function isInstance(value: object): boolean {
  return !PLAIN_PROTOTYPES.has(Object.getPrototypeOf(value))
}

function isRecord(value: unknown): value is Record<string, unknown> {
  if (value === null || typeof value !== 'object') return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null || isInstance(value)
}

/**
 * The codec of user values. `template` makes a fresh value of the right shape; without one, values are
 * plain data. Throws what `checkRestorable` throws when the template cannot be restored.
 */
export function objectCodec(template?: () => unknown, options: ObjectCodecOptions = {}): ValueCodec {
  const what = options.what ?? 'the value'
  const sample = template?.()
  if (template !== undefined) checkRestorable(sample, what)
  const fallback = v8Codec(template, what)
  const fields = compactFields(sample)
  const codec =
    fields === null
      ? fallback
      : compactCodec(fields, sample as object, fallback, options.id ?? fields.map((f) => f.name).join())
  return withEvolution(codec, options, { template })
}

/** The codec with what is needed to rewrite values of earlier versions; the codec alone when no version is given. */
export function withEvolution(
  codec: ValueCodec,
  { version, migrations }: ObjectCodecOptions,
  shape: Pick<ValueEvolution, 'template' | 'schema'>,
): ValueCodec {
  return version === undefined ? codec : { ...codec, evolution: { ...shape, version, migrations, values: codec } }
}

function v8Codec(template: (() => unknown) | undefined, what: string): ValueCodec {
  const sample = template?.()
  const scratch = new ByteArena(256)
  const plain = new PlainEncoder(scratch)
  const restores = hasInstance(sample)
  return {
    description: 'object',
    encode(value) {
      refuseUnknownInstances(value, sample, what, 0)
      scratch.clear()
      scratch.writeByte(FORMAT_PLAIN)
      if (plain.encode(value)) return scratch.view()
      let body: Buffer
      try {
        body = serialize(value)
      } catch (error) {
        if (error instanceof RangeError) {
          throw new MillraceError(
            'STATE_NOT_SERIALIZABLE',
            `${what} is nested too deeply, or too large, to be saved.`,
            {
              hint: 'Flatten the value, or keep it as a string of JSON.',
              cause: error,
            },
          )
        }
        throw new MillraceError('STATE_NOT_SERIALIZABLE', `${what} holds something that cannot be saved.`, {
          hint: 'Keep data only (no functions, promises, symbols or handles) in state.',
          cause: error,
        })
      }
      scratch.clear()
      scratch.writeByte(FORMAT_V8)
      scratch.writeBytes(body, 0, body.length)
      return scratch.view()
    },
    decode(bytes, start, end) {
      const value: unknown =
        bytes[start] === FORMAT_PLAIN
          ? decodePlain(bytes, start + 1, end)
          : // Typed arrays that v8 reads are views into its input, so it gets a copy; a Buffer's `slice` is none.
            deserialize(new Uint8Array(bytes.subarray(start + 1, end)))
      return restores && template !== undefined ? onto(template(), value) : value
    },
  }
}

/** True when `value` or a property of it, at any depth, is an instance of a user's class. */
function hasInstance(value: unknown, depth = 0): boolean {
  if (!isRecord(value) || depth > 32) return false
  return isInstance(value) || Object.values(value).some((part) => hasInstance(part, depth + 1))
}

/** True for values that node:v8 gives back as they were: data without instances of users' classes, functions or symbols. */
export function isPlainData(value: unknown, depth = 0): boolean {
  if (value === null || typeof value !== 'object') return typeof value !== 'function' && typeof value !== 'symbol'
  if (isInstance(value) || depth > 32) return false
  if (ArrayBuffer.isView(value)) return true
  const isPlain = (part: unknown): boolean => isPlainData(part, depth + 1)
  if (Array.isArray(value)) return value.every(isPlain)
  if (value instanceof Map) return [...value].every((pair) => pair.every(isPlain))
  if (value instanceof Set) return [...value].every(isPlain)
  return Object.values(value).every(isPlain)
}

/**
 * The class of the first instance in `value`, as far down as `depth` says, that would lose methods or accessors if its
 * fields alone were kept; null when there is none.
 */
export function classThatLoses(value: unknown, depth: number): string | null {
  if (typeof value !== 'object' || value === null) return null
  if (isInstance(value) && hasMembers(Object.getPrototypeOf(value))) return nameOfClass(value)
  if (depth === 0 || ArrayBuffer.isView(value)) return null
  const parts = value instanceof Map ? [...value].flat() : value instanceof Set ? value : Object.values(value)
  for (const part of parts) {
    const found = classThatLoses(part, depth - 1)
    if (found !== null) return found
  }
  return null
}

/** Whether a class, or one that it extends, has more than fields. */
function hasMembers(prototype: object): boolean {
  for (let at: object | null = prototype; !PLAIN_PROTOTYPES.has(at); at = Object.getPrototypeOf(at)) {
    if (Reflect.ownKeys(at!).some((name) => name !== 'constructor')) return true
  }
  return false
}

/** `decoded` with the prototypes that `fresh` has at the same places. */
function onto(fresh: unknown, decoded: unknown, depth = 0): unknown {
  if (!isRecord(fresh) || !isRecord(decoded) || depth > 32) return decoded
  const target: Record<string, unknown> = isInstance(fresh)
    ? Object.assign(Object.create(Object.getPrototypeOf(fresh)), decoded)
    : decoded
  for (const name of Object.keys(fresh)) {
    if (Object.hasOwn(target, name)) target[name] = onto(fresh[name], target[name], depth + 1)
  }
  return target
}

function refuseUnknownInstances(value: unknown, sample: unknown, what: string, depth: number): void {
  if (value === null || typeof value !== 'object') return
  if (depth > 64) return
  if (Array.isArray(value)) {
    for (const part of value) refuseUnknownInstances(part, undefined, what, depth + 1)
  } else if (value instanceof Map) {
    for (const [key, part] of value) {
      refuseUnknownInstances(key, undefined, what, depth + 1)
      refuseUnknownInstances(part, undefined, what, depth + 1)
    }
  } else if (value instanceof Set) {
    for (const part of value) refuseUnknownInstances(part, undefined, what, depth + 1)
  } else if (isRecord(value)) {
    const known = isRecord(sample) ? sample : undefined
    if (isInstance(value) && Object.getPrototypeOf(value) !== (known && Object.getPrototypeOf(known))) {
      throw new MillraceError(
        'STATE_CLASS_UNKNOWN',
        `${what} holds an instance of ${nameOfClass(value)} that could not be restored with its methods.`,
        { hint: 'Keep plain objects there, or give a template that has such an instance at the same property.' },
      )
    }
    for (const name of Object.keys(value)) {
      refuseUnknownInstances(value[name], known?.[name], what, depth + 1)
    }
  }
}

function nameOfClass(value: object): string {
  const made: unknown = (value as { constructor?: unknown }).constructor
  return typeof made === 'function' && made.name !== '' ? made.name : 'a class'
}

export interface CompactField {
  readonly name: string
  readonly type: keyof typeof FIELD_TYPES
}

/** The fields of a flat template, or null when it is not flat. */
function compactFields(sample: unknown): CompactField[] | null {
  if (!isRecord(sample)) return null
  const names = Object.keys(sample)
  if (names.length === 0 || names.length > 64 || names.includes('__proto__')) return null
  const fields: CompactField[] = []
  for (const name of names) {
    const type = typeof sample[name]
    if (type !== 'number' && type !== 'boolean' && type !== 'string') return null
    fields.push({ name, type })
  }
  return fields
}

const FIELD_TYPES = { number: 0, boolean: false, string: '' } as const

/** `object(name:type,...)`; a name that would be ambiguous there is written as a JSON string. */
function describeFields(fields: readonly CompactField[]): string {
  const shown = (name: string): string => (name === '' || /[",:]/.test(name) ? JSON.stringify(name) : name)
  return `object(${fields.map((f) => `${shown(f.name)}:${f.type}`).join(',')})`
}

/**
 * The codec that reads what a codec of this description wrote, without its template: values come back as plain
 * data. Null when `description` is not of `objectCodec`.
 */
export function describedCodec(description: string): ValueCodec | null {
  if (description === 'object') return objectCodec()
  const fields = compactFieldsOf(description)
  if (fields === null) return null
  const template = fields.map(({ name, type }) => [name, FIELD_TYPES[type]] as const)
  return objectCodec(() => Object.fromEntries(template), { id: `reader of ${description}` })
}

/** The fields of a compact layout by its description; null when it is of another kind. */
export function compactFieldsOf(description: string): CompactField[] | null {
  if (!description.startsWith('object(') || !description.endsWith(')')) return null
  const field = /("(?:[^"\\]|\\.)*"|[^",:]+):(number|boolean|string)(?:,(?=.)|$)/suy
  const text = description.slice('object('.length, -1)
  const fields: CompactField[] = []
  while (field.lastIndex < text.length) {
    const match = field.exec(text)
    if (match === null) return null
    const [, name, type] = match
    const plain: string = name!.startsWith('"') ? JSON.parse(name!) : name!
    fields.push({ name: plain, type: type as CompactField['type'] })
  }
  return fields.length === 0 ? null : fields
}

interface CompiledCodec {
  /** False when the value does not fit. */
  readonly write: (value: unknown, arena: ByteArena) => boolean
  readonly read: (view: DataView, buffer: Buffer, at: number) => unknown
}

function compactCodec(fields: readonly CompactField[], sample: object, fallback: ValueCodec, id: string): ValueCodec {
  const compiled = compileCompact(fields, sample, id)
  const arena = new ByteArena(256)
  let lastBytes: Uint8Array | null = null
  let view: DataView = new DataView(new ArrayBuffer(0))
  let buffer: Buffer = Buffer.alloc(0)
  return {
    description: describeFields(fields),
    encode(value) {
      arena.clear()
      arena.writeByte(FORMAT_COMPACT)
      return compiled.write(value, arena) ? arena.view() : fallback.encode(value)
    },
    decode(bytes, start, end) {
      if (bytes[start] !== FORMAT_COMPACT) return fallback.decode(bytes, start, end)
      if (bytes !== lastBytes) {
        lastBytes = bytes
        view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
        buffer = Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength)
      }
      return compiled.read(view, buffer, start + 1)
    },
  }
}

function compileCompact(fields: readonly CompactField[], sample: object, id: string): CompiledCodec {
  const prototype: unknown = Object.getPrototypeOf(sample)
  const isPlain = prototype === Object.prototype
  const member = (field: CompactField) => `[${JSON.stringify(field.name)}]`
  const checks = fields.map((f, k) => `typeof (v${k} = value${member(f)}) !== '${f.type}'`)
  for (const [k, f] of fields.entries()) if (f.type === 'string') checks.push(`!v${k}.isWellFormed()`)
  const fixedBytes = fields.reduce((sum, f) => sum + (f.type === 'number' ? 8 : f.type === 'boolean' ? 1 : 0), 0)
  const writes = fields.map((f, k) => {
    if (f.type === 'number') return `arena.length = arena.bytes.writeDoubleLE(v${k}, arena.length);`
    if (f.type === 'boolean') return `arena.bytes[arena.length++] = v${k} ? 1 : 0;`
    return `arena.reserve(4 + v${k}.length * 3 + ${fixedBytes}); at = arena.length; arena.length += 4;
      arena.bytes.writeUInt32LE(arena.bytes.utf8Write(v${k}, at + 4), at);
      arena.length = at + 4 + arena.bytes.readUInt32LE(at);`
  })
  const reads = fields.map((f, k) => {
    if (f.type === 'number') return `const v${k} = view.getFloat64(at, true); at += 8;`
    if (f.type === 'boolean') return `const v${k} = view.getUint8(at) === 1; at += 1;`
    return `const n${k} = view.getUint32(at, true); at += 4;
      const v${k} = buffer.utf8Slice(at, at + n${k}); at += n${k};`
  })
  const result = isPlain
    ? `return { ${fields.map((f, k) => `${member(f)}: v${k}`).join(', ')} };`
    : `const out = Object.create(prototype); ${fields.map((f, k) => `out${member(f)} = v${k};`).join(' ')} return out;`
  const write = `if (value === null || typeof value !== 'object' || Object.getPrototypeOf(value) !== prototype) return false;
      let count = 0, at = 0, ${fields.map((_, k) => `v${k}`).join(', ')};
      for (const name in value) { if (!owns.call(value, name)) return false; count++; }
      if (count !== ${fields.length} || ${checks.join(' || ')}) return false;
      arena.reserve(${fixedBytes});
      ${writes.join('\n      ')}
      return true;`
  return compile<CompiledCodec>({
    what: 'value codec',
    id,
    helpers: { prototype, owns: Object.prototype.hasOwnProperty },
    functions: [
      { name: 'write', params: 'value, arena', body: write },
      { name: 'read', params: 'view, buffer, at', body: `${reads.join('\n      ')}\n      ${result}` },
    ],
    result: '{ write, read }',
  })
}
