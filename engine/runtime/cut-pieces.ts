/**
 * The changes of a worker's cut on their way into its store, in pieces: a checkpoint of any size takes bounded memory.
 *
 * Made by state-restore.ts, driven by worker-checkpoint.ts. Subtasks encode into `builder`; when it holds a piece, an
 * empty builder takes its place, and the store takes the piece off this thread. Where changes come in faster than the
 * store takes them, subtasks wait (`room`).
 *
 * Invariants:
 * - One piece at a time is on its way. All of them belong to the cut, and are in the store before it is imaged.
 * - After a piece failed, nothing more of its cut is written; `close` says so, and the attempt is given up.
 */
import { WriteBatchBuilder } from '../../state/keyed-layout.ts'
import type { KeyedStore, WriteBatch } from '../contract/keyed-store.ts'

export class CutPieces {
  /** Where the entries of the open cut go. */
  readonly builder = new WriteBatchBuilder()
  private readonly store: KeyedStore
  private readonly pieceBytes: number
  private readonly sent = new WriteBatchBuilder()
  private underWay: Promise<void> | null = null
  private failure: { readonly error: unknown } | null = null
  /** Nothing more is sent: what is left goes with the image. */
  private isClosed = false
  /** Counts cuts: a piece that outlives its own says nothing of the next one. */
  private cut = 0

  /** Of `pieceBytes` and a little more there may be two at a time. */
  constructor(store: KeyedStore, pieceBytes: number) {
    this.store = store
    this.pieceBytes = pieceBytes
  }

  /** Sends what is encoded on its way if that is a piece, and none is. */
  send(): void {
    if (this.isClosed || this.builder.byteLength < this.pieceBytes) return
    if (this.failure !== null) this.builder.clear()
    else if (this.underWay === null) this.underWay = this.write(this.cut)
  }

  private async write(cut: number): Promise<void> {
    this.builder.swap(this.sent)
    try {
      await this.store.writeInBackground(this.sent.batch())
    } catch (error) {
      if (this.cut === cut) this.failure = { error }
    } finally {
      this.sent.clear()
      this.underWay = null
    }
  }

  /** Null, or what to wait for before any more is encoded. Does not reject. */
  room(): Promise<void> | null {
    return this.builder.byteLength < this.pieceBytes ? null : this.underWay
  }

  /** All is encoded. Resolves, when the pieces are in the store, to what is left: it is valid until `end`. */
  async close(): Promise<WriteBatch> {
    this.isClosed = true
    await this.underWay
    if (this.failure !== null) throw this.failure.error
    return this.builder.batch()
  }

  /** The cut is imaged or given up. */
  end(): void {
    this.cut++
    this.failure = null
    this.isClosed = false
    this.builder.clear()
  }

  /** Resolves when no piece is on its way, of this cut or of one that was given up. */
  async settled(): Promise<void> {
    await this.underWay
  }
}
