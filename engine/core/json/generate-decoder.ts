/**
 * Generates the quick path of a JSON decoder for one schema.
 *
 * The generated function reads one record: `record(buffer, view, p, row)` writes row `row` and returns the
 * position after the record and the spaces behind it, or -1 when the record is not plain. It holds one
 * `case` a field for the expected key and one for the value; all loops over bytes are in scan.ts.
 *
 * `order[i]` is the field that stood at place i of the record before (or the field count for an unknown
 * key). It is only a guess: a key that does not match is looked up by length and bytes.
 *
 * Schemas for which that would be a larger function than may be generated are read by wide-record.ts.
 */

import { type DecoderColumns, memoryVariables } from '../decoder-columns.ts'
import { compile, type GeneratedFunction, isBounded } from '../generated-source.ts'
import type { Field, Schema } from '../schema.ts'
import { type FastRecord, parseOpaque } from './fast-record.ts'
import { int32Reader, int64Reader, literalEnd, plainString, readNumber, skipSpace, skipValue } from './scan.ts'
import { parseTimestamp } from './timestamp.ts'
import { wideRecord } from './wide-record.ts'

/** Guesses are kept for this many leading keys of a record. */
const ORDER_PLACES = 256
const BITS = 30

/** Null for the opaque schema, whose records are made by `JSON.parse` anyway. */
export function generateFastRecord(
  schema: Schema,
  columns: DecoderColumns,
  depthMax: number,
  newlines: boolean,
  id: string,
): FastRecord | null {
  const { fields, isOpaque } = schema
  if (isOpaque) return null
  const isWide = fields.length > ORDER_PLACES
  const functions = isWide ? [] : recordFunctions(fields, depthMax, newlines)
  if (isWide || !functions.every(isBounded)) return wideRecord(fields, columns.memory, depthMax, newlines)
  return compile<FastRecord>({
    what: 'JSON decoder',
    id,
    helpers: {
      columns: columns.memory,
      order: new Int32Array(ORDER_PLACES).map((_, i) => Math.min(i, fields.length)),
      plainString,
      readNumber,
      readInt32: int32Reader(),
      readInt64: int64Reader(),
      literalEnd,
      skipSpace,
      skipValue,
      parseTimestamp,
      parseOpaque,
    },
    declarations: memoryVariables(fields),
    functions,
    result: 'record',
  })
}

function recordFunctions(fields: readonly Field[], depthMax: number, newlines: boolean): GeneratedFunction[] {
  const masks = Math.ceil(fields.length / BITS)
  const space = `if (c <= 32 && c !== 0) { p = skipSpace(b, p, ${newlines}); c = b[p] }`
  const lookup = `switch (length) {
${lookupCases(fields)}
}
return ${fields.length}`
  const record = `let c = b[p], s = 0, k = 0, place = 0, ${Array.from({ length: masks }, (_, i) => `seen${i} = 0`).join(', ')}
  ${space}
  if (c !== 123) return -1
  c = b[++p]
  ${space}
  if (c === 125) p++
  else for (;;) {
    k = place < ${ORDER_PLACES} ? order[place] : ${fields.length}
    switch (k) {
${fields.map(keyCase).join('\n')}
      default: k = -1
    }
    if (k === -1) {
      if (c !== 34) return -1
      s = p + 1
      p = plainString(b, p)
      if (p === -1) return -1
      k = lookup(b, s, p - 1 - s)
      if (place < ${ORDER_PLACES}) order[place] = k
      c = b[p]
      ${space}
      if (c !== 58) return -1
      p++
    }
    place++
    c = b[p]
    ${space}
    switch (k) {
${fields.map((field, k) => valueCase(field, k, depthMax, newlines)).join('\n')}
      default:
        p = skipValue(b, p, 2, ${depthMax}, ${newlines})
        if (p === -1) return -1
    }
    c = b[p]
    ${space}
    if (c === 44) {
      c = b[++p]
      ${space}
      continue
    }
    if (c !== 125) return -1
    p++
    break
  }
${missing(fields, masks)}
  c = b[p]
  ${space}
  return p`
  return [
    { name: 'lookup', params: 'b, s, length', body: lookup },
    { name: 'record', params: 'b, view, p, row', body: record },
  ]
}

/** A test that the bytes at `at` are exactly `bytes`. Reads nothing behind a byte that differs but for 3. */
function bytesTest(bytes: Uint8Array, at: string): string {
  const tests: string[] = []
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let i = 0
  for (; i + 4 <= bytes.length; i += 4) tests.push(`view.getInt32(${at} + ${i}, true) === ${view.getInt32(i, true)}`)
  for (; i < bytes.length; i++) tests.push(`b[${at} + ${i}] === ${bytes[i]}`)
  return tests.join(' && ')
}

/** The guess: the bytes of `"name":` stand here. */
function keyCase(field: Field, k: number): string {
  const bytes = new Uint8Array(Buffer.from(`${JSON.stringify(field.name)}:`))
  // A name that needs escapes is never written plainly.
  if (JSON.stringify(field.name) !== `"${field.name}"`) return `case ${k}: k = -1; break`
  return `case ${k}: if (${bytesTest(bytes, 'p')}) p += ${bytes.length}; else k = -1; break`
}

function lookupCases(fields: readonly Field[]): string {
  const byLength = new Map<number, string[]>()
  fields.forEach((field, k) => {
    const bytes = Buffer.from(field.name)
    const tests = [...bytes].map((byte, i) => `b[s + ${i}] === ${byte}`)
    const list = byLength.get(bytes.length) ?? []
    byLength.set(bytes.length, list)
    list.push(`if (${tests.join(' && ')}) return ${k}`)
  })
  return [...byLength].map(([length, list]) => `case ${length}: ${list.join('; ')}; break`).join('\n')
}

function valueCase(field: Field, k: number, depthMax: number, newlines: boolean): string {
  const seen = `seen${Math.floor(k / BITS)}`
  const bit = 1 << (k % BITS)
  const once = `if ((${seen} & ${bit}) !== 0) return -1; ${seen} |= ${bit};`
  const read = readStatement(field, k, depthMax, newlines)
  if (!field.nullable || field.kind === 'opaque') return `case ${k}: ${once} ${read} break`
  return `case ${k}: ${once}
    if (c === 110) { p = literalEnd(b, p); if (p === -1) return -1; m${k}.setNull(row) }
    else { n${k}[row] = 0; ${read} }
    break`
}

function readStatement(field: Field, k: number, depthMax: number, newlines: boolean): string {
  switch (field.kind) {
    case 'string':
      return `if (c !== 34) return -1; s = p + 1; p = plainString(b, p); if (p === -1) return -1; s${k}[row] = s; e${k}[row] = p - 1;`
    case 'boolean':
      return `if (c !== 116 && c !== 102) return -1; p = literalEnd(b, p); if (p === -1) return -1; v${k}[row] = c === 116 ? 1 : 0;`
    case 'int32':
      return `p = readInt32(b, p, v${k}, row); if (p === -1) return -1;`
    case 'int64':
      return `p = readInt64(b, p, v${k}, row); if (p === -1) return -1;`
    case 'float64':
      return `p = readNumber(b, p, v${k}, row); if (p === -1) return -1;`
    case 'timestamp':
      return `if (c === 34) {
        s = p + 1; p = plainString(b, p); if (p === -1) return -1
        const ms = parseTimestamp(b, s, p - 1); if (ms !== ms) return -1; v${k}[row] = ms
      } else { p = readNumber(b, p, v${k}, row); if (p === -1 || v${k}[row] - v${k}[row] !== 0) return -1 }`
    case 'opaque':
      return `s = p; p = skipValue(b, p, 2, ${depthMax}, ${newlines}); if (p === -1) return -1
        const o${k} = parseOpaque(b, s, p); if (o${k} === undefined) return -1; m${k}.objects[row] = o${k};`
  }
}

/** After the last key: absent nullable fields are NULL, another absent field ends the quick path. */
function missing(fields: readonly Field[], masks: number): string {
  const parts: string[] = []
  for (let i = 0; i < masks; i++) {
    const slice = fields.slice(i * BITS, (i + 1) * BITS)
    const all = 2 ** slice.length - 1
    const required = slice.reduce((bits, field, j) => (field.nullable ? bits : bits | (1 << j)), 0)
    const absent = slice.flatMap((field, j) =>
      field.nullable ? [`if ((seen${i} & ${1 << j}) === 0) m${i * BITS + j}.setNull(row)`] : [],
    )
    parts.push(
      `if (seen${i} !== ${all}) { if ((seen${i} & ${required}) !== ${required}) return -1; ${absent.join('; ')} }`,
    )
  }
  return parts.join('\n')
}
