/**
 * Reads keyed state without the job that wrote it: entries of one operator, decoded as far as the bytes
 * and the manifest's table descriptions say.
 *
 * Called by `millrace state`. Numbers columns come back as numbers; objects as plain data, because their
 * classes belong to the job.
 */
import type { KeyedStore } from '../engine/contract/keyed-store.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { decodeKey, type Key } from '../engine/core/keys.ts'
import { keyGroupPrefix, namespaceOf, PREFIX_BYTES, prefixEnd, stateIdOf } from './keyed-layout.ts'
import { objectCodec } from './value-codec.ts'

/** A table as a manifest describes it. */
export interface StoredTable {
  readonly id: number
  readonly name: string
  readonly version: number
  readonly layout: string
}

export interface StateEntry {
  readonly table: string
  readonly key: Key
  readonly keyGroup: number
  /** A window's start in milliseconds since 1970 UTC; 0 for state without windows. */
  readonly namespace: number
  readonly value: unknown
}

type Decoder = (bytes: Uint8Array, start: number, end: number) => unknown

const SAMPLES: Readonly<Record<string, unknown>> = { number: 0, boolean: false, string: '' }

/** Decodes values of a layout, by its description. Throws `STATE_LAYOUT_UNKNOWN`. */
function decoderOf(table: StoredTable): Decoder {
  const doubles = /^doubles\((\d+)\)$/.exec(table.layout)
  if (doubles !== null) return (bytes, start, end) => doublesOf(bytes, start, end)
  if (table.layout === 'object') return decodeWith(undefined)
  const compact = /^object\((.*)\)$/.exec(table.layout)
  if (compact === null) {
    throw new MillraceError('STATE_LAYOUT_UNKNOWN', `Table ${table.name} has the layout ${table.layout}.`, {
      hint: 'Read it with the version of Millrace that wrote it.',
    })
  }
  const template: Record<string, unknown> = {}
  for (const field of compact[1]!.split(',')) {
    const cut = field.lastIndexOf(':')
    template[field.slice(0, cut)] = SAMPLES[field.slice(cut + 1)]
  }
  return decodeWith(() => ({ ...template }))
}

function decodeWith(template: (() => unknown) | undefined): Decoder {
  const codec = objectCodec(template, { id: 'state reader' })
  return (bytes, start, end) => codec.decode(bytes, start, end)
}

function doublesOf(bytes: Uint8Array, start: number, end: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start, end - start)
  return Array.from({ length: (end - start) / 8 }, (_, k) => view.getFloat64(k * 8, true))
}

/** Every entry of an operator in a store, in key order within each key group. */
export function* readState(
  store: KeyedStore,
  operatorId: number,
  keyGroups: number,
  tables: readonly StoredTable[],
): Generator<StateEntry> {
  const byId = new Map(tables.map((table) => [table.id, { name: table.name, decode: decoderOf(table) }]))
  for (let keyGroup = 0; keyGroup < keyGroups; keyGroup++) {
    const from = keyGroupPrefix(operatorId, keyGroup)
    const scan = store.scan(from, prefixEnd(from))
    try {
      for (let chunk = scan.next(); chunk !== null; chunk = scan.next()) {
        const { keys, values } = chunk
        for (let row = 0; row < keys.count; row++) {
          const at = keys.offsets[row]!
          const table = byId.get(stateIdOf(keys.bytes, at))
          if (table === undefined) continue
          yield {
            table: table.name,
            key: decodeKey(keys.bytes, at + PREFIX_BYTES, keys.offsets[row + 1]!),
            keyGroup,
            namespace: namespaceOf(keys.bytes, at),
            value: table.decode(values.bytes, values.offsets[row]!, values.offsets[row + 1]!),
          }
        }
      }
    } finally {
      scan.close()
    }
  }
}
