/**
 * Which keys may lie in the store only: a filter in memory, so that fresh keys cost no read of the store.
 *
 * A segment adds a key when it evicts its entry and asks before it reads. The filter is a blocked Bloom
 * filter (Putze, Sanders, Singler 2007) of four words a block, one bit in each, about ten bits a key. It
 * grows by layers, each twice the size of the one before as far as there is room.
 *
 * Invariants:
 * - `mayHold` is never false for a key that was added since `clear`.
 * - Once it has `bytesMax`, keys go where they do, and more and more that are fresh count as cold. At last, when hardly
 *   any is told apart, the filter gives up: everything may be in the store, whose own filters then answer.
 */
const BLOCK_WORDS = 4
const KEYS_A_BLOCK = 12
const BLOCKS_MIN = 16
const BLOCK_BYTES = BLOCK_WORDS * 4
/** A further layer is at least this part of what there is. */
const LAYER_SHARE_MIN = 1 / 4
/** Keys of the last layer, times what it has room for: from here on the filter takes two fresh keys in three for cold. */
const CROWDED_MAX = 4
const BLOCK_MIX = 0x85ebca6b | 0
const BIT_MIX = 0xc2b2ae35 | 0

interface Layer {
  readonly words: Int32Array
  /** 32 - log2 of the number of blocks. */
  readonly shift: number
}

export class ColdKeys {
  private readonly bytesMax: number
  private layers: Layer[] = []
  private count = 0
  private capacity = 0
  private gaveUp = false
  byteLength = 0

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
  }

  add(hash: number): void {
    if (this.mayHold(hash)) return
    if (this.count >= this.capacity) this.addLayer()
    const layer = this.layers.at(-1)
    if (layer === undefined) return
    this.count++
    const at = (Math.imul(hash, BLOCK_MIX) >>> layer.shift) * BLOCK_WORDS
    const bits = mixed(hash)
    const { words } = layer
    words[at] |= 1 << (bits & 31)
    words[at + 1] |= 1 << ((bits >>> 5) & 31)
    words[at + 2] |= 1 << ((bits >>> 10) & 31)
    words[at + 3] |= 1 << ((bits >>> 15) & 31)
  }

  mayHold(hash: number): boolean {
    if (this.gaveUp) return true
    const bits = mixed(hash)
    const block = Math.imul(hash, BLOCK_MIX)
    for (let l = this.layers.length - 1; l >= 0; l--) {
      const { words, shift } = this.layers[l]!
      const at = (block >>> shift) * BLOCK_WORDS
      const all =
        (words[at]! >>> (bits & 31)) &
        (words[at + 1]! >>> ((bits >>> 5) & 31)) &
        (words[at + 2]! >>> ((bits >>> 10) & 31)) &
        (words[at + 3]! >>> ((bits >>> 15) & 31))
      if ((all & 1) !== 0) return true
    }
    return false
  }

  clear(): void {
    this.layers = []
    this.count = 0
    this.capacity = 0
    this.byteLength = 0
    this.gaveUp = false
  }

  private addLayer(): void {
    const last = this.layers.at(-1)
    let blocks = last === undefined ? BLOCKS_MIN : (last.words.length / BLOCK_WORDS) * 2
    while (blocks >= BLOCKS_MIN && this.byteLength + blocks * BLOCK_BYTES > this.bytesMax) blocks /= 2
    if (last !== undefined && blocks * BLOCK_BYTES < this.byteLength * LAYER_SHARE_MIN) {
      this.crowd(last)
      return
    }
    if (blocks < BLOCKS_MIN) {
      this.giveUp()
      return
    }
    this.layers.push({ words: new Int32Array(blocks * BLOCK_WORDS), shift: 32 - Math.log2(blocks) })
    this.byteLength += blocks * BLOCK_BYTES
    this.count = 0
    this.capacity = blocks * KEYS_A_BLOCK
  }

  /** No further layer is worth its look: the last one takes more than it has room for. */
  private crowd({ words }: Layer): void {
    const room = (words.length / BLOCK_WORDS) * KEYS_A_BLOCK
    if (this.capacity < room * CROWDED_MAX) this.capacity = room * CROWDED_MAX
    else this.giveUp()
  }

  private giveUp(): void {
    this.clear()
    this.gaveUp = true
  }
}

/** Bits independent of the block's choice: four fives of it pick the bits. */
function mixed(hash: number): number {
  const once = Math.imul(hash ^ (hash >>> 15), BIT_MIX)
  return once ^ (once >>> 13)
}
