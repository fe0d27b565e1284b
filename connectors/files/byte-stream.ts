/**
 * The content of a file as one stream of bytes, decompressed on the way where the file is compressed.
 *
 * Called by split-reader.ts and file-splits.ts. Invariant: reading from an offset gives the bytes that reading
 * from the start would give there; in a compressed file that costs decompressing what lies before.
 */
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream'
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib'
import { MillraceError, messageOf } from '../../engine/core/errors.ts'

export const Compression = { none: 'none', gzip: 'gzip', zstd: 'zstd', brotli: 'brotli', deflate: 'deflate' } as const
export type Compression = (typeof Compression)[keyof typeof Compression]

const BY_EXTENSION: Readonly<Record<string, Compression>> = {
  gz: 'gzip',
  gzip: 'gzip',
  zst: 'zstd',
  zstd: 'zstd',
  br: 'brotli',
  deflate: 'deflate',
}

/** What a file's name says of its compression. */
export function compressionOf(path: string): Compression {
  return BY_EXTENSION[/\.([a-z]+)$/i.exec(path)?.[1]?.toLowerCase() ?? ''] ?? 'none'
}

/** The name without the extension of its compression. */
export function withoutCompression(path: string): string {
  return compressionOf(path) === 'none' ? path : path.replace(/\.[^.]+$/, '')
}

export interface ByteStream {
  /** Reads up to `length` bytes on into `into` at `at`; how many it were, 0 at the end. One call at a time. */
  read(into: Uint8Array, at: number, length: number): Promise<number>
  close(): Promise<void>
}

/** Opens a file's content at an offset. Throws `FILE_READ_FAILED`. */
export async function openBytes(path: string, compression: Compression, offset: number): Promise<ByteStream> {
  return compression === 'none' ? openPlain(path, offset) : openCompressed(path, compression, offset)
}

async function openPlain(path: string, offset: number): Promise<ByteStream> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw new MillraceError('FILE_READ_FAILED', `Cannot open ${path}: ${messageOf(error)}.`, {
      domain: 'external',
      cause: error,
    })
  })
  let position = offset
  return {
    async read(into, at, length) {
      const { bytesRead } = await handle.read(into, at, length, position)
      position += bytesRead
      return bytesRead
    },
    close: () => handle.close(),
  }
}

function decompressor(compression: Exclude<Compression, 'none'>) {
  switch (compression) {
    case 'gzip':
      return createGunzip()
    case 'zstd':
      return createZstdDecompress()
    case 'brotli':
      return createBrotliDecompress()
    case 'deflate':
      return createInflate()
  }
}

async function openCompressed(
  path: string,
  compression: Exclude<Compression, 'none'>,
  offset: number,
): Promise<ByteStream> {
  const content: Readable = pipeline(createReadStream(path), decompressor(compression), () => {})
  const chunks = content[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  let rest: Buffer = Buffer.alloc(0)
  let skip = offset
  /** More content in `rest`; false at the end. */
  const fill = async (): Promise<boolean> => {
    while (rest.length === 0) {
      const next = await chunks.next().catch((error: unknown) => {
        throw new MillraceError('FILE_READ_FAILED', `Reading ${path} as ${compression} failed: ${messageOf(error)}.`, {
          domain: 'external',
          hint: 'The file is damaged, or compressed in another way: give the source its `compression`.',
          cause: error,
        })
      })
      if (next.done === true) return false
      const skipped = Math.min(skip, next.value.length)
      skip -= skipped
      rest = next.value.subarray(skipped)
    }
    return true
  }
  return {
    async read(into, at, length) {
      if (!(await fill())) return 0
      const count = Math.min(length, rest.length)
      into.set(rest.subarray(0, count), at)
      rest = rest.subarray(count)
      return count
    },
    async close() {
      content.destroy()
    },
  }
}
