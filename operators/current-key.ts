/**
 * The key that user code is called for, and what may be open during such a call.
 *
 * Operators with user code over keyed state have one; state handles read it. Invariants: a key is current only
 * within a call; what a call left open is closed when the call ends.
 */
import type { KeyColumn } from '../engine/core/batch.ts'
import { MillraceError } from '../engine/core/errors.ts'
import { decodeKey, type Key } from '../engine/core/keys.ts'

export class CurrentKey {
  readonly rows = new Int32Array(1)
  /** Grows with each key: what belongs to an earlier call is told apart. */
  version = 0
  private keys: KeyColumn | null = null
  private value: Key | undefined = undefined
  private readonly open = new Set<{ close(): void }>()

  /** Row `row` of `keys` becomes current. */
  set(keys: KeyColumn, row: number): void {
    if (this.open.size > 0) this.closeOpen()
    this.keys = keys
    this.rows[0] = row
    this.value = undefined
    this.version++
  }

  /** Decoded when it is first asked for. */
  get(): Key {
    const { bytes, starts, ends } = this.require()
    const row = this.rows[0]
    if (this.value === undefined) this.value = decodeKey(bytes, starts[row], ends[row])
    return this.value
  }

  /** Null where no key is current. */
  get hash(): number | null {
    return this.keys === null ? null : this.keys.hashes[this.rows[0]]
  }

  require(): KeyColumn {
    if (this.keys !== null) return this.keys
    throw new MillraceError('STATE_WITHOUT_KEY', 'Keyed state or timers were used where no key is current.', {
      hint: 'Use them only in calls for an element or a timer, not in open or close.',
    })
  }

  clear(): void {
    if (this.open.size > 0) this.closeOpen()
    this.keys = null
    this.value = undefined
    this.version++
  }

  /** `scan` is closed at the end of this call at the latest. */
  opened(scan: { close(): void }): void {
    this.open.add(scan)
  }

  closed(scan: { close(): void }): void {
    this.open.delete(scan)
    scan.close()
  }

  private closeOpen(): void {
    for (const scan of this.open) scan.close()
    this.open.clear()
  }

  /** Throws `STATE_ITERATOR_STALE` unless the call of `version` is still under way. */
  requireSame(version: number): void {
    if (version === this.version) return
    throw new MillraceError('STATE_ITERATOR_STALE', 'An iteration over state went on after its call had ended.', {
      hint: 'Iterate within one call, or copy the values: [...state.get()].',
    })
  }
}
