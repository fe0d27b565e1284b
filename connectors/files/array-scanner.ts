/**
 * Finds the elements of a top-level JSON array in a stream of bytes, where the decoder does not find them by itself
 * (`decodeElements`).
 *
 * It only follows strings and brackets; whether an element is well-formed is the decoder's business. The
 * state survives between calls, so an element may span any number of buffers.
 */

const COMMA = 0x2c

function isSpace(c: number): boolean {
  return c === 0x20 || (c >= 0x09 && c <= 0x0d)
}

export class ArrayScanner {
  /** `before` the opening bracket, `inside` the array, `after` its closing bracket. */
  state: 'before' | 'inside' | 'after'
  private depth = 0
  private inString = false
  private escaped = false
  private elements = 0

  /** A scanner at the file's start, or, to resume, at the start of an element. */
  constructor(resumed: boolean) {
    this.state = resumed ? 'inside' : 'before'
  }

  /**
   * Scans one element of bytes[from, to) on from `from`. Returns the position after the element's
   * separator, having called nothing back, or -1 when the bytes end first. `end` is where the element ends.
   */
  end = 0
  next(b: Uint8Array, from: number, to: number): number {
    for (let p = from; p < to; p++) {
      const c = b[p]!
      if (this.inString) {
        if (this.escaped) this.escaped = false
        else if (c === 0x5c) this.escaped = true
        else if (c === 0x22) this.inString = false
      } else if (c === 0x22) this.inString = true
      else if (c === 0x7b || c === 0x5b) this.depth++
      else if (c === 0x7d || c === 0x5d) {
        if (this.depth === 0) {
          this.state = 'after'
          this.end = p
          return p + 1
        }
        this.depth--
      } else if (c === COMMA && this.depth === 0) {
        this.elements++
        this.end = p
        return p + 1
      }
    }
    return -1
  }

  /** Forgets what was scanned of an element. */
  restart(): void {
    this.depth = 0
    this.inString = false
    this.escaped = false
  }

  /** `count` elements were found by someone else; `next` goes on behind them. */
  passed(count: number, isLast: boolean): void {
    this.elements += count
    if (isLast) this.state = 'after'
  }

  /** True when nothing stands before the closing bracket of `[]`: then the blank element is none. */
  get isFirst(): boolean {
    return this.elements === 0
  }
}

/** Moves `start` over leading white space. */
export function trimStart(b: Uint8Array, start: number, end: number): number {
  while (start < end && isSpace(b[start]!)) start++
  return start
}

/** Moves `end` back over trailing white space. */
export function trimEnd(b: Uint8Array, start: number, end: number): number {
  while (end > start && isSpace(b[end - 1]!)) end--
  return end
}
