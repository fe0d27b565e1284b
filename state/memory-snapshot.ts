/**
 * The file that a checkpoint of the memory store consists of.
 *
 * Layout, little-endian:
 *   magic 8 bytes
 *   blocks: u32 payload length (not 0) | u32 rows | u32 CRC-32 of the two and the payload | payload
 *           payload: rows of u32 key length | u32 value length | key | value
 *   footer: u32 0 | u32 number of blocks | f64 rows in all | u32 CRC-32 of the sixteen bytes before
 * The file ends with the footer. Every byte is under a check, so a torn or flipped file is noticed; the
 * reader checks a block before it hands out a row of it. Used by memory-store.ts only.
 */
import type { FileHandle } from 'node:fs/promises'
import { crc32 } from 'node:zlib'
import { MillraceError } from '../engine/core/errors.ts'

const MAGIC = Buffer.from('MRMEMSN1', 'latin1')
/** Small, because encoding one holds up the event loop. */
const BLOCK_BYTES = 256 << 10
const BLOCK_HEADER_BYTES = 12
const ROW_HEADER_BYTES = 8
const FOOTER_BYTES = 20

/** Writes all of `keys` (code units below 256) and `values`; returns the file's size in bytes. */
export async function writeMemorySnapshot(
  file: FileHandle,
  keys: readonly string[],
  values: readonly Uint8Array[],
): Promise<number> {
  let size = await writeFully(file, MAGIC)
  let blocks = 0
  for (let start = 0; start < keys.length; ) {
    const end = blockEnd(keys, values, start)
    size += await writeFully(file, encodeBlock(keys, values, start, end))
    blocks++
    start = end
  }
  const footer = Buffer.alloc(FOOTER_BYTES)
  footer.writeUInt32LE(blocks, 4)
  footer.writeDoubleLE(keys.length, 8)
  footer.writeUInt32LE(crc32(footer.subarray(0, 16)), 16)
  return size + (await writeFully(file, footer))
}

async function writeFully(file: FileHandle, bytes: Uint8Array): Promise<number> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done)).bytesWritten
  }
  return bytes.length
}

function rowBytes(keys: readonly string[], values: readonly Uint8Array[], row: number): number {
  return ROW_HEADER_BYTES + keys[row].length + values[row].length
}

function blockEnd(keys: readonly string[], values: readonly Uint8Array[], start: number): number {
  let bytes = 0
  let row = start
  while (row < keys.length && (row === start || bytes + rowBytes(keys, values, row) <= BLOCK_BYTES)) {
    bytes += rowBytes(keys, values, row++)
  }
  return row
}

function encodeBlock(keys: readonly string[], values: readonly Uint8Array[], start: number, end: number): Buffer {
  let payload = 0
  for (let row = start; row < end; row++) payload += rowBytes(keys, values, row)
  const block = Buffer.allocUnsafe(BLOCK_HEADER_BYTES + payload)
  let at = BLOCK_HEADER_BYTES
  for (let row = start; row < end; row++) {
    at = block.writeUInt32LE(keys[row].length, at)
    at = block.writeUInt32LE(values[row].length, at)
    at += block.latin1Write(keys[row], at)
    block.set(values[row], at)
    at += values[row].length
  }
  block.writeUInt32LE(payload, 0)
  block.writeUInt32LE(end - start, 4)
  block.writeUInt32LE(crc32(block.subarray(BLOCK_HEADER_BYTES), crc32(block.subarray(0, 8))), 8)
  return block
}

/**
 * Reads a snapshot through `read(length)`, which returns the next bytes of the file (fewer at its end).
 * Throws `SNAPSHOT_CORRUPT` naming `path`.
 */
export function readMemorySnapshot(
  path: string,
  read: (length: number) => Buffer,
  sizeBytes: number,
  onRow: (key: string, value: Uint8Array) => void,
): void {
  let left = sizeBytes
  const take = (length: number): Buffer => {
    // Checked before reading: a flipped length must not become a huge allocation.
    if (length > left) throw corrupt(path, 'it ends too early')
    const bytes = read(length)
    if (bytes.length !== length) throw corrupt(path, 'it ends too early')
    left -= length
    return bytes
  }
  if (!take(MAGIC.length).equals(MAGIC)) throw corrupt(path, 'it does not start like a snapshot')
  let blocks = 0
  let rows = 0
  for (;;) {
    const head = take(4)
    const payloadLength = head.readUInt32LE(0)
    if (payloadLength === 0) {
      checkFooter(path, Buffer.concat([head, take(FOOTER_BYTES - 4)]), blocks, rows)
      if (left !== 0) throw corrupt(path, 'bytes follow its end')
      return
    }
    const rest = take(8)
    const payload = take(payloadLength)
    if (crc32(payload, crc32(rest.subarray(0, 4), crc32(head))) !== rest.readUInt32LE(4)) {
      throw corrupt(path, `block ${blocks} fails its checksum`)
    }
    const blockRows = rest.readUInt32LE(0)
    let at = 0
    for (let row = 0; row < blockRows; row++) {
      const keyEnd = at + ROW_HEADER_BYTES + payload.readUInt32LE(at)
      const valueEnd = keyEnd + payload.readUInt32LE(at + 4)
      onRow(payload.latin1Slice(at + ROW_HEADER_BYTES, keyEnd), payload.subarray(keyEnd, valueEnd))
      at = valueEnd
    }
    blocks++
    rows += blockRows
  }
}

function checkFooter(path: string, footer: Buffer, blocks: number, rows: number): void {
  if (crc32(footer.subarray(0, 16)) !== footer.readUInt32LE(16)) throw corrupt(path, 'its footer fails its checksum')
  if (footer.readUInt32LE(4) !== blocks || footer.readDoubleLE(8) !== rows) throw corrupt(path, 'blocks are missing')
}

function corrupt(path: string, reason: string): MillraceError {
  return new MillraceError('SNAPSHOT_CORRUPT', `The state snapshot ${path} is damaged: ${reason}.`, {
    domain: 'external',
    hint: 'Restore an older checkpoint.',
  })
}
