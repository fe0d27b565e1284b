/**
 * Random numbers from a seed: xoshiro128** (Blackman and Vigna, 2018), its state filled by splitmix32.
 *
 * Used by the simulator and by tests that must be repeatable. Invariant: the same seed and the same
 * calls give the same numbers on every platform, because all arithmetic is 32-bit integer arithmetic.
 */
import type { Random } from '../../core/io.ts'

function splitmix32(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x9e3779b9) | 0
    let mixed = state ^ (state >>> 16)
    mixed = Math.imul(mixed, 0x21f0aaad)
    mixed ^= mixed >>> 15
    mixed = Math.imul(mixed, 0x735a2d97)
    return (mixed ^ (mixed >>> 15)) >>> 0
  }
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits))
}

export class SeededRandom implements Random {
  private a: number
  private b: number
  private c: number
  private d: number

  /** `seed` is any integer; its lowest 32 bits count. */
  constructor(seed: number) {
    const fill = splitmix32(seed)
    this.a = fill()
    this.b = fill()
    this.c = fill()
    this.d = fill() | 1
  }

  /** Uniform in 0 .. 2^32 - 1. */
  uint32(): number {
    const result = Math.imul(rotateLeft(Math.imul(this.b, 5), 7), 9) >>> 0
    const shifted = this.b << 9
    this.c ^= this.a
    this.d ^= this.b
    this.b ^= this.c
    this.a ^= this.d
    this.c ^= shifted
    this.d = rotateLeft(this.d, 11)
    return result
  }

  /** Uniform in [0, 1). */
  next(): number {
    return this.uint32() / 4_294_967_296
  }

  /** Uniform integer in [from, to], both included. */
  between(from: number, to: number): number {
    return from + Math.floor(this.next() * (to - from + 1))
  }

  /** True with this probability. */
  chance(probability: number): boolean {
    return this.next() < probability
  }

  /** One of `items`, which must not be empty. */
  pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.next() * items.length)]!
  }

  /** An independent generator; the parent moves on by one number. */
  fork(): SeededRandom {
    return new SeededRandom(this.uint32())
  }
}
