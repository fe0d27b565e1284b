/**
 * Rows of a batch to JSON text, by a function generated from the schema. Used by sinks that write JSON.
 *
 * Values: numbers as JSON.stringify writes them, but -0 keeps its sign and NaN and the infinities are
 * texts; int64 beyond 2^53 is a text of digits; timestamps are milliseconds; NULL is null. The opaque
 * schema writes each row's value by the same rules. What json-decoder.ts reads back is the same row.
 */

import { writeAscii, writeDigits } from '../ascii.ts'
import type { Batch } from '../batch.ts'
import { MillraceError } from '../errors.ts'
import { compile, inFunctions } from '../generated-source.ts'
import type { Field, Schema } from '../schema.ts'
import { asBuffer, type ByteArena } from '../strings.ts'

export interface JsonRowWriter {
  /** Appends row `i` as one JSON value, without a newline. */
  writeRow(batch: Batch, i: number, arena: ByteArena): void
  /** Appends rows [from, to), each with a newline. */
  writeLines(batch: Batch, from: number, to: number, arena: ByteArena): void
}

type WriteRow = (batch: Batch, i: number, arena: ByteArena) => void

/** Makes a writer; `id` keeps the generated function's inline caches its own. */
export function createJsonRowWriter(schema: Schema, id = 'json-writer'): JsonRowWriter {
  const writeRow = schema.isOpaque ? writeOpaqueRow : generate(schema.fields, id)
  return {
    writeRow,
    writeLines: (batch, from, to, arena) => {
      for (let i = from; i < to; i++) {
        writeRow(batch, i, arena)
        arena.writeByte(0x0a)
      }
    },
  }
}

const writeOpaqueRow: WriteRow = (batch, i, arena) =>
  writeJsonValue(arena, (batch.columns[0] as { readonly values: readonly unknown[] }).values[i])

function generate(fields: readonly Field[], id: string): WriteRow {
  const prefixes = fields.map((field, k) => Buffer.from(`${k === 0 ? '{' : ','}${JSON.stringify(field.name)}:`))
  const bind = inFunctions({
    name: 'bind',
    params: 'batch',
    steps: fields.map((_, k) => `c${k} = batch.columns[${k}]`),
  })
  const writing = inFunctions({ name: 'write', params: 'i, arena', steps: fields.map(fieldStatement) })
  return compile<WriteRow>({
    what: 'JSON writer',
    id,
    helpers: { prefixes, writeAscii, writeText, writeNumber, writeInt64, writeJsonValue },
    declarations: `${fields.map((_, k) => `const p${k} = prefixes[${k}]`).join('\n')}
let bound = null, ${fields.map((_, k) => `c${k} = null`).join(', ')}`,
    functions: [
      ...bind.functions,
      ...writing.functions,
      {
        name: 'writeRow',
        params: 'batch, i, arena',
        body: `if (batch !== bound) { bound = batch; ${bind.body} }\n${writing.body}\narena.writeByte(125)`,
      },
    ],
    result: 'writeRow',
  })
}

function fieldStatement(field: Field, k: number): string {
  const write = {
    string: `writeText(arena, c${k}.bytes, c${k}.starts[i], c${k}.ends[i])`,
    boolean: `writeAscii(arena, c${k}.values[i] === 1 ? 'true' : 'false')`,
    int32: `writeNumber(arena, c${k}.values[i])`,
    float64: `writeNumber(arena, c${k}.values[i])`,
    timestamp: `writeNumber(arena, c${k}.values[i])`,
    int64: `writeInt64(arena, c${k}.values[i])`,
    opaque: `writeJsonValue(arena, c${k}.values[i])`,
  }[field.kind]
  return `arena.writeBytes(p${k}, 0, p${k}.length)
  if (c${k}.nulls !== null && c${k}.nulls[i] === 1) writeAscii(arena, 'null'); else ${write}`
}

function writeNumber(arena: ByteArena, value: number): void {
  if (value > 0 && (value | 0) === value) {
    writeDigits(arena, value)
    return
  }
  if (!Number.isFinite(value)) writeAscii(arena, `"${value}"`)
  else writeAscii(arena, Object.is(value, -0) ? '-0' : String(value))
}

function writeInt64(arena: ByteArena, value: bigint): void {
  const isSafe = value >= -9_007_199_254_740_991n && value <= 9_007_199_254_740_991n
  writeAscii(arena, isSafe ? String(value) : `"${value}"`)
}

/** Appends UTF-8 bytes[start, end) as a JSON string; most need no escape and are copied while checked. */
function writeText(arena: ByteArena, bytes: Uint8Array, start: number, end: number): void {
  arena.reserve(end - start + 2)
  const to = arena.bytes
  let at = arena.length
  to[at++] = 0x22
  for (let i = start; i < end; i++) {
    const c = bytes[i]!
    if (c < 0x20 || c === 0x22 || c === 0x5c) {
      arena.writeString(JSON.stringify(asBuffer(bytes).utf8Slice(start, end)))
      return
    }
    to[at++] = c
  }
  to[at++] = 0x22
  arena.length = at
}

/** Appends any value by the rules of this file. Throws `ROW_NOT_SERIALIZABLE`. */
export function writeJsonValue(arena: ByteArena, value: unknown): void {
  // Functions and undefined have no JSON text.
  arena.writeString(textOf(value) ?? 'null')
}

/** Throws `ROW_NOT_SERIALIZABLE`. */
function textOf(value: unknown): string | undefined {
  try {
    return needsReplacer(value) ? JSON.stringify(value, replaceSpecial) : JSON.stringify(value)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new MillraceError(
      'ROW_NOT_SERIALIZABLE',
      'A row is nested too deeply, or is too large, to be written as JSON.',
      {
        hint: 'Flatten the value, or carry it as a string.',
        cause: error,
      },
    )
  }
}

/** A walk is quicker than a replacer, which makes JSON.stringify several times slower. */
function needsReplacer(value: unknown, depth = 0): boolean {
  if (typeof value === 'number') return !Number.isFinite(value)
  if (typeof value === 'bigint') return true
  if (value === null || typeof value !== 'object') return false
  // Deep or cyclic: JSON.stringify itself says so.
  if (depth > 64) return true
  for (const key in value) if (needsReplacer((value as Record<string, unknown>)[key], depth + 1)) return true
  return false
}

function replaceSpecial(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  return typeof value === 'number' && !Number.isFinite(value) ? String(value) : value
}
