/**
 * An arena that grows and is reused: results of lookups and scans, and batches under construction.
 *
 * Invariant: offsets[0] is 0, offsets are ascending, and offsets[count] is the end of what was added.
 * After `reset` the memory is kept, so a steady load allocates nothing.
 */
import type { Arena } from '../engine/contract/keyed-store.ts'
import { MillraceError } from '../engine/core/errors.ts'

const BYTES_MAX = 0xffff_ffff

export class GrowingArena implements Arena {
  bytes: Uint8Array
  offsets: Uint32Array
  count = 0

  constructor(bytesInitial = 4096, rowsInitial = 64) {
    this.bytes = new Uint8Array(bytesInitial)
    this.offsets = new Uint32Array(rowsInitial + 1)
  }

  reset(): void {
    this.count = 0
  }

  push(item: Uint8Array): void {
    const start = this.offsets[this.count]
    const end = start + item.length
    this.reserve(end, this.count + 1)
    this.bytes.set(item, start)
    this.offsets[++this.count] = end
  }

  /** Appends a string of code units below 256, one byte each. */
  pushLatin1(text: string): void {
    const start = this.offsets[this.count]
    const end = start + text.length
    this.reserve(end, this.count + 1)
    Buffer.from(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length).latin1Write(text, start)
    this.offsets[++this.count] = end
  }

  /** Makes room for `bytes` bytes and `rows` rows in all. Throws `STORE_ARENA_TOO_LARGE` above 4 GiB. */
  reserve(bytes: number, rows: number): void {
    if (bytes > this.bytes.length) {
      if (bytes > BYTES_MAX) {
        throw new MillraceError('STORE_ARENA_TOO_LARGE', 'One batch of state is larger than 4 GiB.', {
          domain: 'internal',
          hint: 'Ask for fewer keys at a time.',
        })
      }
      const grown = new Uint8Array(Math.min(BYTES_MAX, Math.max(bytes, this.bytes.length * 2)))
      grown.set(this.bytes)
      this.bytes = grown
    }
    if (rows >= this.offsets.length) {
      const grown = new Uint32Array(Math.max(rows + 1, this.offsets.length * 2))
      grown.set(this.offsets)
      this.offsets = grown
    }
  }
}
