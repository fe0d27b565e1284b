/**
 * Everything the engine may ask of the outside world: clock, random numbers, timers and disk.
 *
 * Engine code never touches `Date.now`, `Math.random`, `setTimeout` or `node:fs` itself; it gets an
 * `Io` through its constructor. `node-io.ts` is the real one; the simulator brings its own, with a
 * seeded random, a clock it moves by hand and a disk that forgets unsynced writes.
 */
import type { Failpoint } from './failpoints.ts'

export interface Clock {
  /** Processing time, milliseconds since 1970 UTC. */
  nowMs(): number
  /** Monotonic milliseconds, for measuring. */
  monotonicMs(): number
}

export interface Random {
  /** Uniform in [0, 1). */
  next(): number
}

export interface Timers {
  /** Runs `task` once after `delayMs`; the returned function cancels it. */
  schedule(delayMs: number, task: () => void): () => void
}

export interface DiskFile {
  /** Appends; bytes are durable only after `sync`. The buffer is borrowed until the promise settles. */
  append(bytes: Uint8Array): Promise<void>
  /** fsync. */
  sync(): Promise<void>
  close(): Promise<void>
}

/**
 * The file system as the engine sees it. Paths are absolute or relative to the process, with `/`.
 * Errors are Node's (`code` ENOENT, EEXIST, ENOSPC, EIO, ...).
 */
export interface Disk {
  read(path: string): Promise<Uint8Array>
  /** Bytes [at, at + length) of a file that has them. Absent, or null, where only whole files can be read. */
  readRange?(path: string, at: number, length: number): Promise<Uint8Array> | null
  /** Creates or truncates a file for appending. */
  create(path: string): Promise<DiskFile>
  /**
   * Writes a whole file so that it appears complete or not at all, and only if `path` does not exist:
   * temp file, fsync, link(), fsync of the directory. Resolves false when `path` exists already,
   * after the same fsync of the directory: whoever made it may have got no further than its name.
   */
  createExclusive(path: string, bytes: Uint8Array): Promise<boolean>
  /** Renames over `to` atomically and syncs the directory. */
  rename(from: string, to: string): Promise<void>
  /**
   * Hard link, or a copy where links are not possible. `to` existing already is not an error. Where bytes travel
   * (in a copy, to or from an object store), they are checked against `content`.
   */
  link(from: string, to: string, content?: { readonly sha256: string; readonly size: number }): Promise<void>
  /** SHA-256 (hex) and size in bytes of a file's content. */
  hash(path: string): Promise<{ readonly sha256: string; readonly size: number }>
  /** Makes a file's content durable that something else wrote. */
  syncFile(path: string): Promise<void>
  /** Makes created, renamed and removed entries of a directory durable. */
  syncDirectory(path: string): Promise<void>
  makeDirectory(path: string): Promise<void>
  /** Names in a directory, sorted; empty when it does not exist. */
  list(path: string): Promise<string[]>
  /** Size in bytes, or null when there is no such file. */
  size(path: string): Promise<number | null>
  /** Removes a file or a whole directory; nothing there is not an error. */
  remove(path: string): Promise<void>
  /**
   * Drops what others began to bring into a remote directory and never finished, which no list shows. Who is still at it
   * has to begin anew, and does. Absent where there is no such thing.
   */
  dropUnfinished?(directory: string): Promise<void>
}

/** A nameless file for what does not fit memory; it is gone when it is closed or the process ends. */
export interface SpillFile {
  /** Appends; waits for the disk, but makes nothing durable. */
  append(bytes: Uint8Array): void
  /** Bytes [at, at + length) as memory of its own, 8-byte aligned. */
  read(at: number, length: number): Uint8Array
  close(): void
}

export interface Io {
  readonly clock: Clock
  readonly random: Random
  readonly timers: Timers
  readonly disk: Disk
  /** Opens a spill file in a directory; absent where everything has to stay in memory. Synchronous: see overflow.ts. */
  readonly openSpill?: (directory: string) => SpillFile
  /** Tests only: called at each step of the protocol; may never return, because it killed the process. */
  readonly failpoint?: (step: Failpoint) => void
}
