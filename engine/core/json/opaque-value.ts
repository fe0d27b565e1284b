/** A JSON value that stays as it is, in a column of values. For the quick paths of a JSON decoder. */
import { hasProtoKey } from './checked-record.ts'

/** The value of checked JSON text; undefined when it holds a key `__proto__`. */
export function parseOpaque(buffer: Buffer, start: number, end: number): unknown {
  const text = buffer.utf8Slice(start, end)
  const value: unknown = JSON.parse(text)
  const suspicious = text.includes('__proto__') || text.includes('\\')
  return suspicious && hasProtoKey(value) ? undefined : value
}
