/**
 * What an object store promises: whole objects by key, the home of remote checkpoints.
 *
 * Implemented by the S3 client (engine/runtime/s3-object-store.ts), by a simulated one, and by a test double.
 * Every method is one try: retries, lost replies and hashes are the business of engine/checkpoint/object-disk.ts,
 * which turns a store into a `Disk`, so that coordinator, recovery and clean-up are the same code for both.
 *
 * Invariants:
 * - An object appears whole or not at all, and what `put` or `upload` resolved for is seen by every later call
 *   of anyone (S3 has been strongly consistent since 2020).
 * - Of several `put(..., { ifAbsent: true })` for one key exactly one resolves true (If-None-Match: *).
 * - A rejected call may or may not have had its effect. It rejects with a `MillraceError` that says in `retryable`
 *   whether another try can help.
 */

export interface ObjectInfo {
  readonly key: string
  /** Bytes. */
  readonly size: number
}

/** What a file holds; computed once and then carried along. */
export interface ContentHash {
  /** Hex. */
  readonly sha256: string
  /** Bytes. */
  readonly size: number
}

export interface PutOptions {
  /** Create only: resolves false, changing nothing, when the key is taken. */
  readonly ifAbsent?: boolean
}

export interface ObjectStore {
  /** As in `s3 bucket at http://127.0.0.1:9000`. */
  readonly description: string
  /** The whole object, or null when there is none. */
  get(key: string): Promise<Uint8Array | null>
  put(key: string, bytes: Uint8Array, options?: PutOptions): Promise<boolean>
  /** Stores a file of this machine's disk. The store rejects content that does not have this hash. */
  upload(key: string, path: string, content: ContentHash): Promise<void>
  /** Writes an object into a new file, not yet durably; null, and no file, when there is no such object. */
  download(key: string, path: string): Promise<ContentHash | null>
  /** Bytes, or null when there is no such object. */
  size(key: string): Promise<number | null>
  /** Every object whose key starts with `prefix`, by key. */
  list(prefix: string): Promise<ObjectInfo[]>
  /** Nothing there is not an error. */
  remove(key: string): Promise<void>
  /**
   * Drops what uploads to keys that start with `prefix` have brought so far, and says how many there were. One that is
   * still under way fails by that, and succeeds at another try. Absent where nothing unfinished takes room.
   */
  dropUnfinished?(prefix: string): Promise<number>
}

/** True for `s3://bucket/prefix`: a checkpoint directory, or a path in one, that is no path of a file system. */
export function isObjectUrl(path: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//.test(path)
}

/** `s3://bucket/a/b` as store `s3://bucket` and key `a/b`. */
export function splitObjectUrl(url: string): { readonly store: string; readonly key: string } {
  const slash = url.indexOf('/', url.indexOf('://') + 3)
  return slash < 0 ? { store: url, key: '' } : { store: url.slice(0, slash), key: url.slice(slash + 1) }
}
