/**
 * What a keyed store promises: the ordered byte-string map behind an operator's working set.
 *
 * Two implementations exist (memory and RocksDB, in `state/`), held to one conformance suite. Every
 * call moves a whole batch across the boundary, because one crossing a key would cost more than the
 * work: keys and values travel as arenas, one buffer plus an offset table.
 *
 * Key layout (fixed; everything big-endian, so that byte order is scan order):
 *   operator id u16 | key group u16 | state id u16 | namespace (order-preserving f64, 8 bytes) | key bytes
 *
 * Invariants:
 * - Keys order as unsigned bytes, shorter first on a common prefix.
 * - After `writeAndCheckpoint` or `writeInBackground` returned its promise, reads see the batch. When it rejects, later
 *   writes may be applied already: a caller that writes the batch again must first drop from it what was written since.
 * - `writeAndCheckpoint` sees exactly the writes that came before it, plus its own; later writes are
 *   not in its files. Until a promise of these two settles neither of them starts again.
 * - Arguments are borrowed for the length of the call (for these two, until the promise settles): the caller may reuse the buffers afterwards. Results are views into memory that the next
 *   call on the same store may overwrite, unless a function says otherwise.
 */

/** `count` byte strings back to back: item i is bytes[offsets[i], offsets[i + 1]). */
export interface Arena {
  readonly bytes: Uint8Array
  /** At least `count + 1` entries, ascending. */
  readonly offsets: Uint32Array
  readonly count: number
}

/** One batch of changes. Row i deletes its key when `deletes[i]` is 1, otherwise puts `values[i]`. */
export interface WriteBatch {
  readonly keys: Arena
  readonly values: Arena
  /** `null` when every row is a put. The value of a deleted row is empty. */
  readonly deletes: Uint8Array | null
}

/** Values of a multi-get, in the order of the keys asked for. */
export interface Lookup {
  readonly values: Arena
  /** 1 where the key exists, 0 where it does not (its value is then empty). */
  readonly found: Uint8Array
}

/** A stretch of a range scan, in key order. */
export interface ScanChunk {
  readonly keys: Arena
  readonly values: Arena
}

/** A pull-based range scan; it reads a consistent view taken when it was opened. */
export interface Scan {
  /** The next entries, at most about `maxBytes` (at least one entry); `null` at the end. */
  next(maxBytes?: number): ScanChunk | null
  close(): void
}

/** One immutable file of a checkpoint, inside the directory that was asked for. */
export interface CheckpointFile {
  /** Name relative to the checkpoint directory. */
  readonly name: string
  /** Bytes. */
  readonly size: number
}

export interface KeyedStore {
  /** `memory` or `rocksdb <version>`, as printed at start. */
  readonly description: string
  multiGet(keys: Arena): Lookup
  write(batch: WriteBatch): void
  /** Deletes every key in [from, to). */
  deleteRange(from: Uint8Array, to: Uint8Array): void
  /** Entries with keys in [from, to). `to` null means to the end. */
  scan(from: Uint8Array, to: Uint8Array | null): Scan
  /**
   * As `write`, off the calling thread, for large batches. Rejects as `writeAndCheckpoint` does; the batch may then be
   * applied in part, or be written again with the same effect.
   */
  writeInBackground(batch: WriteBatch): Promise<void>
  /**
   * Applies `batch` (unsorted; may be empty), then makes an immutable image of the store in the new
   * directory `directory`. Heavy work runs off the calling thread. Rejects with an `external`
   * MillraceError on disk full or I/O errors; the store stays usable, and the batch is then either
   * applied or may be applied again with the same effect.
   */
  writeAndCheckpoint(batch: WriteBatch, directory: string): Promise<readonly CheckpointFile[]>
  /** Approximate bytes held in memory by the store itself. */
  memoryBytes(): number
  close(): void
}

/** Opens stores; one factory a process, one store a worker. */
export interface KeyedStoreFactory {
  readonly description: string
  /** What one of its stores may take for caches and buffers. Absent where stores hold all their entries in memory. */
  readonly storeMemoryBytes?: number
  /** Creates an empty store in `directory`, which must not exist or be empty. */
  create(directory: string): KeyedStore
  /** Opens a writable store that starts from the checkpoint files in `image`, hard-linked or copied into `directory`. */
  restore(image: string, directory: string): KeyedStore
}
