/** What the two quick paths of a JSON decoder share: generate-decoder.ts for few fields, wide-record.ts for many. */
import { hasProtoKey } from './checked-record.ts'

/**
 * Reads the record at `start` into row `row`; the position after it and the spaces behind it, or -1 when the record is not
 * plain, so that the checked path has to decide about it.
 */
export type FastRecord = (buffer: Buffer, view: DataView, start: number, row: number) => number

/** The value of checked JSON text; undefined when it holds a key `__proto__`. */
export function parseOpaque(buffer: Buffer, start: number, end: number): unknown {
  const text = buffer.utf8Slice(start, end)
  const value: unknown = JSON.parse(text)
  const suspicious = text.includes('__proto__') || text.includes('\\')
  return suspicious && hasProtoKey(value) ? undefined : value
}
