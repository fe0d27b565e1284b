/**
 * Which slots of a segment belong to one key, for tables of composite keys: doubly linked lists through slots.
 *
 * Driven by keyed-slots.ts as it inserts and frees. Keys with the same hash share a list, so whoever walks one
 * compares bytes. Invariant: what is added comes to the front, so a walk that has begun never meets it.
 */
const NONE = -1
/** Estimate of a list's place in a JavaScript Map. */
const HEAD_BYTES = 40

export class KeyChains {
  private readonly heads = new Map<number, number>()
  private next = new Int32Array(0)
  private previous = new Int32Array(0)

  add(slot: number, ownerHash: number): void {
    if (slot >= this.next.length) this.grow(slot)
    const head = this.heads.get(ownerHash) ?? NONE
    this.next[slot] = head
    this.previous[slot] = NONE
    if (head !== NONE) this.previous[head] = slot
    this.heads.set(ownerHash, slot)
  }

  remove(slot: number, ownerHash: number): void {
    const next = this.next[slot]
    const previous = this.previous[slot]
    if (next !== NONE) this.previous[next] = previous
    if (previous !== NONE) this.next[previous] = next
    else if (next !== NONE) this.heads.set(ownerHash, next)
    else this.heads.delete(ownerHash)
  }

  /** The slot added last; -1 when there is none. */
  first(ownerHash: number): number {
    return this.heads.get(ownerHash) ?? NONE
  }

  /** The slot added before; -1 at the end. */
  after(slot: number): number {
    return this.next[slot]
  }

  clear(): void {
    this.heads.clear()
    this.next = new Int32Array(0)
    this.previous = new Int32Array(0)
  }

  get memoryBytes(): number {
    return this.next.byteLength * 2 + this.heads.size * HEAD_BYTES
  }

  private grow(slot: number): void {
    const length = Math.max(32, slot + 1, this.next.length * 2)
    const next = new Int32Array(length)
    const previous = new Int32Array(length)
    next.set(this.next)
    previous.set(this.previous)
    this.next = next
    this.previous = previous
  }
}
