/**
 * A queue of slot numbers in a ring that grows: which objects of a segment were decoded first.
 *
 * Used by keyed-slots.ts. Invariant: numbers leave in the order they came.
 */
export class SlotQueue {
  private ring = new Int32Array(16)
  private head = 0
  length = 0

  push(slot: number): void {
    if (this.length === this.ring.length) this.grow()
    this.ring[(this.head + this.length++) & (this.ring.length - 1)] = slot
  }

  /** The oldest number; the queue must not be empty. */
  shift(): number {
    const slot = this.ring[this.head]!
    this.head = (this.head + 1) & (this.ring.length - 1)
    this.length--
    return slot
  }

  private grow(): void {
    const grown = new Int32Array(this.ring.length * 2)
    for (let i = 0; i < this.length; i++) grown[i] = this.ring[(this.head + i) & (this.ring.length - 1)]!
    this.ring = grown
    this.head = 0
  }
}
