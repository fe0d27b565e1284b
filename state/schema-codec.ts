/**
 * Bytes for rows of a declared schema: the compiled codec of states whose values are rows.
 *
 * Called by whoever declares a table of such values. A record holds the schema's fields in order; a nullable one
 * begins with a byte, 1 for null.
 *   boolean u8 | int32 i32 | int64 i64 | float64, timestamp f64 | string u32 length, UTF-8 | opaque u32 length,
 *   node:v8's serialisation; all little-endian
 * Writer and reader are generated, one pair a codec, because shared ones would turn megamorphic. Invariants:
 * - Values are checked as they are written: what does not fit its field is refused, never stored as something else.
 * - Rows come back as plain objects with the schema's fields only, as everywhere in the engine.
 */

import { deserialize, serialize } from 'node:v8'
import type { StateMigrations, ValueCodec } from '../engine/contract/keyed-state.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { compile, inFunctions, rowMaking } from '../engine/core/generated-source.ts'
import type { ColumnKind, Field, Schema } from '../engine/core/schema.ts'
import { asBuffer, ByteArena } from '../engine/core/strings.ts'
import { type ObjectCodecOptions, objectCodec, withEvolution } from './value-codec.ts'

const DESCRIPTION = /^row\((.*)\)$/su
const FIELD = /("(?:[^"\\]|\\.)*"):(boolean|int32|int64|float64|timestamp|string|opaque)(\?)?(?:,(?=.)|$)/suy

/** What a state's descriptor says of its values. */
interface StateShape {
  readonly version?: number | undefined
  readonly migrations?: StateMigrations | undefined
  readonly template?: (() => unknown) | undefined
  readonly schema?: Schema | undefined
}

/** The codec of a state's values by what its descriptor says: a schema, a template, or nothing. */
export function stateCodec(shape: StateShape, options: ObjectCodecOptions = {}): ValueCodec {
  const all = { ...options, version: shape.version, migrations: shape.migrations }
  return shape.schema === undefined ? objectCodec(shape.template, all) : schemaCodec(shape.schema, all)
}

/** The codec of rows of `schema`; of plain values for the opaque schema. */
export function schemaCodec(schema: Schema, options: ObjectCodecOptions = {}): ValueCodec {
  if (schema.isOpaque) return objectCodec(undefined, options)
  return withEvolution(rowCodec(schema, options), options, { schema })
}

function rowCodec(schema: Schema, options: ObjectCodecOptions): ValueCodec {
  const { fields } = schema
  const what = options.what ?? 'the value'
  const fail = (name: string, value: unknown): never => {
    const field = fields.find((known) => known.name === name)!
    const got = value === null ? 'null' : typeof value
    throw new MillraceError('STATE_VALUE_INVALID', `${what}: field ${JSON.stringify(name)} must be ${field.kind}.`, {
      hint: `Got ${got}. ${field.nullable ? '' : 'Declare it with t.nullable(...) if it may be absent.'}`.trim(),
    })
  }
  const { write, read } = compileRow(fields, options.id ?? what, fail)
  const arena = new ByteArena(256)
  let lastBytes: Uint8Array | null = null
  let buffer: Buffer = Buffer.alloc(0)
  return {
    description: describe(fields),
    encode(value) {
      if (value === null || typeof value !== 'object') {
        throw new MillraceError('STATE_VALUE_INVALID', `${what} must be a row, got ${String(value)}.`, {
          hint: 'Keep objects with the fields of the schema.',
        })
      }
      arena.clear()
      write(value, arena)
      return arena.view()
    },
    decode(bytes, start) {
      if (bytes !== lastBytes) {
        lastBytes = bytes
        buffer = asBuffer(bytes)
      }
      return read(buffer, start)
    },
  }
}

function describe(fields: readonly Field[]): string {
  return `row(${fields.map((f) => `${JSON.stringify(f.name)}:${f.kind}${f.nullable ? '?' : ''}`).join(',')})`
}

/** The codec that reads what a codec of this description wrote; null when it is of another kind. */
export function describedSchemaCodec(description: string): ValueCodec | null {
  const fields = schemaFieldsOf(description)
  return fields === null ? null : schemaCodec({ fields, isOpaque: false }, { id: `reader of ${description}` })
}

/** The fields of a layout of rows by its description; null when it is of another kind. */
export function schemaFieldsOf(description: string): Field[] | null {
  const text = DESCRIPTION.exec(description)?.[1]
  if (text === undefined) return null
  const fields: Field[] = []
  FIELD.lastIndex = 0
  while (FIELD.lastIndex < text.length) {
    const match = FIELD.exec(text)
    if (match === null) return null
    const [, name, kind, nullable] = match
    fields.push({ name: JSON.parse(name!) as string, kind: kind as ColumnKind, nullable: nullable === '?' })
  }
  return fields
}

interface Compiled {
  readonly write: (row: object, arena: ByteArena) => void
  readonly read: (buffer: Buffer, at: number) => unknown
}

/** Source that writes the checked value `v`, with the condition under which it does not fit. */
function writerOf(kind: ColumnKind): { readonly misfits: string; readonly source: string } {
  const number = (method: string, value = 'v') => `arena.length = arena.bytes.${method}(${value}, arena.length);`
  switch (kind) {
    case 'boolean':
      return { misfits: "typeof v !== 'boolean'", source: number('writeUInt8', 'v ? 1 : 0') }
    case 'int32':
      return { misfits: "typeof v !== 'number' || (v | 0) !== v", source: number('writeInt32LE') }
    case 'int64':
      return { misfits: "typeof v !== 'bigint' || BigInt.asIntN(64, v) !== v", source: number('writeBigInt64LE') }
    case 'float64':
      return { misfits: "typeof v !== 'number'", source: number('writeDoubleLE') }
    case 'timestamp':
      return {
        misfits: "typeof (v instanceof Date ? v = v.getTime() : v) !== 'number'",
        source: number('writeDoubleLE'),
      }
    case 'string':
      return {
        misfits: "typeof v !== 'string'",
        source: `arena.reserve(4 + v.length * 3); at = arena.length; arena.length += 4; arena.writeString(v);
          arena.bytes.writeUInt32LE(arena.length - at - 4, at);`,
      }
    case 'opaque':
      return {
        misfits: 'false',
        source: `v = serialize(v); arena.reserve(4); arena.length = arena.bytes.writeUInt32LE(v.length, arena.length);
          arena.writeBytes(v, 0, v.length);`,
      }
  }
}

function readerOf(kind: ColumnKind, target: string): string {
  const number = (method: string, bytes: number) => `${target} = buffer.${method}(at); at += ${bytes};`
  switch (kind) {
    case 'boolean':
      return `${target} = buffer[at] === 1; at += 1;`
    case 'int32':
      return number('readInt32LE', 4)
    case 'int64':
      return number('readBigInt64LE', 8)
    case 'float64':
    case 'timestamp':
      return number('readDoubleLE', 8)
    case 'string':
      return `n = buffer.readUInt32LE(at); at += 4; ${target} = buffer.utf8Slice(at, at + n); at += n;`
    case 'opaque':
      // Typed arrays that v8 reads are views into its input, so it gets a copy.
      return `n = buffer.readUInt32LE(at); at += 4;
        ${target} = deserialize(new Uint8Array(buffer.subarray(at, at + n))); at += n;`
  }
}

function compileRow(fields: readonly Field[], id: string, fail: (name: string, value: unknown) => never): Compiled {
  const writing = inFunctions({
    name: 'write',
    params: 'row, arena',
    head: 'let v, at = 0',
    steps: fields.map(({ name, kind, nullable }) => {
      const { misfits, source } = writerOf(kind)
      const property = JSON.stringify(name)
      const write = `{ if (${misfits}) fail(${property}, row[${property}]); ${source} }`
      const load = `arena.reserve(9); v = row[${property}];`
      if (!nullable) return `${load} ${write}`
      return `${load} if (v === null || v === undefined) arena.bytes[arena.length++] = 1;
      else { arena.bytes[arena.length++] = 0; ${write} }`
    }),
  })
  const setOf = (k: number, target: string): string => {
    const { kind, nullable } = fields[k]!
    const read = readerOf(kind, target)
    return nullable ? `if (buffer[at++] === 1) ${target} = null; else { ${read} }` : read
  }
  const reading = rowMaking({
    fields,
    name: 'read',
    params: 'buffer, at',
    head: 'let n = 0',
    tail: 'return at',
    call: (name) => `at = ${name}(row, buffer, at)`,
    narrow: `let n = 0, ${fields.map((_, k) => `v${k}`).join(', ')}
${fields.map((_, k) => setOf(k, `v${k}`)).join('\n')}
return { ${fields.map(({ name }, k) => `${JSON.stringify(name)}: v${k}`).join(', ')} }`,
    set: setOf,
  })
  return compile<Compiled>({
    what: 'row codec',
    id,
    helpers: { fail, serialize, deserialize },
    functions: [
      ...writing.functions,
      ...reading.functions,
      { name: 'write', params: 'row, arena', body: writing.body },
      { name: 'read', params: 'buffer, at', body: reading.body },
    ],
    result: '{ write, read }',
  })
}
