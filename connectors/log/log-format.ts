/**
 * On-disk format of the log: frames in segment files, a sparse index, and the published end.
 *
 * Frame, big-endian: u32 length | u32 crc | i64 offset | f64 timestamp | u16 key length | key | value.
 * `length` counts the bytes after the checksum, which is CRC-32 of them. Frames stay below 16 MiB, so
 * the byte behind any value (the next frame's first) is zero or the end of the file.
 *
 * Segment file `<base offset, 20 digits>.log`; next to it `.index`: pairs of u32, the offset relative to
 * the base and the byte position of its frame. The index only speeds up seeking and may be missing.
 *
 * File `end`: i64 offset | u32 crc. Readers see records below that offset and nothing else.
 */
import { type FileHandle, open, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { MillraceError } from '../../engine/core/errors.ts'
import type { ByteArena } from '../../engine/core/strings.ts'

export const FRAME_HEADER_BYTES = 26
/** Bytes of a frame's length and checksum, which `length` does not count. */
export const FRAME_PREFIX_BYTES = 8
export const FRAME_BYTES_MAX = 16 * 1_024 * 1_024 - 1
export const END_FILE = 'end'
const END_BYTES = 12

/** Appends a frame. Throws `LOG_RECORD_TOO_LARGE`. */
export function writeFrame(
  arena: ByteArena,
  offset: number,
  timestamp: number,
  key: Uint8Array,
  value: Uint8Array,
): void {
  const length = FRAME_HEADER_BYTES - FRAME_PREFIX_BYTES + key.length + value.length
  if (length > FRAME_BYTES_MAX || key.length > 65_535) {
    throw new MillraceError(
      'LOG_RECORD_TOO_LARGE',
      `A record of ${key.length} + ${value.length} bytes does not fit in the log.`,
      {
        hint: 'Keys may have 65,535 bytes, records 16 MiB.',
      },
    )
  }
  arena.reserve(FRAME_PREFIX_BYTES + length)
  const bytes = arena.bytes
  const at = arena.length
  bytes.writeUInt32BE(length, at)
  bytes.writeBigInt64BE(BigInt(offset), at + 8)
  bytes.writeDoubleBE(timestamp, at + 16)
  bytes.writeUInt16BE(key.length, at + 24)
  bytes.set(key, at + FRAME_HEADER_BYTES)
  bytes.set(value, at + FRAME_HEADER_BYTES + key.length)
  const end = at + FRAME_PREFIX_BYTES + length
  bytes.writeUInt32BE(crc32(bytes.subarray(at + FRAME_PREFIX_BYTES, end)), at + 4)
  arena.length = end
}

/** Size of the frame at `at`: 0 when its bytes are not all below `end`, -1 when it is damaged. */
export function frameSize(bytes: Buffer, at: number, end: number, offset: number): number {
  if (end - at < FRAME_PREFIX_BYTES) return 0
  const length = bytes.readUInt32BE(at)
  if (length < FRAME_HEADER_BYTES - FRAME_PREFIX_BYTES || length > FRAME_BYTES_MAX) return -1
  const size = FRAME_PREFIX_BYTES + length
  if (end - at < size) return 0
  if (crc32(bytes.subarray(at + FRAME_PREFIX_BYTES, at + size)) !== bytes.readUInt32BE(at + 4)) return -1
  if (Number(bytes.readBigInt64BE(at + 8)) !== offset) return -1
  return FRAME_HEADER_BYTES + bytes.readUInt16BE(at + 24) > size ? -1 : size
}

export function segmentName(base: number): string {
  return `${String(base).padStart(20, '0')}.log`
}

export function indexName(base: number): string {
  return `${String(base).padStart(20, '0')}.index`
}

/** Base offsets of a partition's segments, ascending. */
export async function listSegments(directory: string): Promise<number[]> {
  const names = await readdir(directory)
  return names
    .filter((name) => /^\d{20}\.log$/.test(name))
    .map((name) => Number(name.slice(0, 20)))
    .sort((a, b) => a - b)
}

/**
 * A byte position in segment `base` at or before the frame of `offset`, with the offset of the frame
 * there, from the index; the segment's start when the index does not help.
 */
export async function seekIndex(
  directory: string,
  base: number,
  offset: number,
): Promise<{ offset: number; position: number }> {
  const start = { offset: base, position: 0 }
  const index = await readFile(join(directory, indexName(base))).catch(() => Buffer.alloc(0))
  let found = start
  for (let at = 0; at + 8 <= index.length; at += 8) {
    const entry = { offset: base + index.readUInt32BE(at), position: index.readUInt32BE(at + 4) }
    if (entry.offset > offset) break
    if (entry.offset >= found.offset) found = entry
  }
  if (found === start) return start
  // The index is not synced: believe it only if a whole frame of that offset lies there.
  const handle = await open(join(directory, segmentName(base)), 'r')
  try {
    return (await frameAt(handle, found.position, found.offset)) ? found : start
  } finally {
    await handle.close()
  }
}

async function frameAt(handle: FileHandle, position: number, offset: number): Promise<boolean> {
  const header = Buffer.alloc(FRAME_HEADER_BYTES)
  const { bytesRead } = await handle.read(header, 0, header.length, position)
  if (bytesRead < header.length) return false
  const size = FRAME_PREFIX_BYTES + header.readUInt32BE(0)
  if (size > FRAME_BYTES_MAX + FRAME_PREFIX_BYTES || size < FRAME_HEADER_BYTES) return false
  const frame = Buffer.alloc(size)
  const whole = await handle.read(frame, 0, size, position)
  return frameSize(frame, 0, whole.bytesRead, offset) > 0
}

export function encodeEnd(offset: number): Buffer {
  const bytes = Buffer.alloc(END_BYTES)
  bytes.writeBigInt64BE(BigInt(offset), 0)
  bytes.writeUInt32BE(crc32(bytes.subarray(0, 8)), 8)
  return bytes
}

/** The published end of a partition; null when it is missing or was caught half written. */
export async function readEnd(directory: string): Promise<number | null> {
  const bytes = await readFile(join(directory, END_FILE)).catch(() => Buffer.alloc(0))
  if (bytes.length !== END_BYTES || crc32(bytes.subarray(0, 8)) !== bytes.readUInt32BE(8)) return null
  return Number(bytes.readBigInt64BE(0))
}
