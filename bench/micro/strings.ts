/**
 * What it costs to gather strings by a selection of rows, as an exchange between subtasks does: byte by byte, in words
 * (what the engine does), and by WebAssembly SIMD, with and without bringing the bytes into its memory first.
 *
 * `node bench/micro/strings.ts` prints nanoseconds a row, the best of seven rounds.
 */
import { BATCH_ROWS_MAX } from '../../engine/core/batch.ts'
import { murmur3 } from '../../engine/core/keys.ts'
import { gatherStrings } from '../../engine/core/strings.ts'

/**
 * gather(bytes, starts, ends, rows, count, to): copies each row in steps of 16 bytes, v128.store of v128.load, with up to
 * 15 bytes too many that the next row overwrites; returns where the last row ends. One memory of 64 pages, exported.
 */
const GATHER_WASM =
  'AGFzbQEAAAABCwFgBn9/f39/fwF/AwIBAAUDAQBABxMCBm1lbW9yeQIABmdhdGhlcgAACn4BfAEFfyADIARBAnRqIQYCQANAIAMgBk8NASADKAIAQQJ0IQcgACABIAdqKAIAaiEIIAAgAiAHaigCAGohCSAFIQogBSAJIAhraiEFA0AgCiAI/QAAAP0LAAAgCkEQaiEKIAhBEGohCCAIIAlJDQALIANBBGohAwwACwsgBQs='

export interface Strings {
  readonly bytes: Uint8Array
  readonly starts: Int32Array
  readonly ends: Int32Array
  /** A selection in random order. */
  readonly rows: Int32Array
}

/** Strings of one length, back to back. */
export function stringsOf(count: number, length: number): Strings {
  const bytes = new Uint8Array(count * length).map((_, i) => 97 + ((i * 31) % 26))
  const starts = Int32Array.from({ length: count }, (_, i) => i * length)
  return {
    bytes,
    starts,
    ends: starts.map((start) => start + length),
    rows: Int32Array.from({ length: count }, (_, i) => (i * 773) % count),
  }
}

/** The plain loop. */
export function gatherByBytes(strings: Strings, to: Uint8Array): number {
  const { bytes, starts, ends, rows } = strings
  let at = 0
  for (let i = 0; i < rows.length; i++) {
    const end = ends[rows[i]!]!
    for (let k = starts[rows[i]!]!; k < end; k++) to[at++] = bytes[k]!
  }
  return at
}

export interface WasmGather {
  /** Brings the strings into the module's memory. */
  load(strings: Strings): void
  /** Gathers what was loaded; returns the bytes. */
  gather(): Uint8Array
}

/** What this file needs of a global that the project's types leave out. */
interface WebAssemblyApi {
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (
    module: object,
  ) => {
    readonly exports: {
      readonly memory: { readonly buffer: ArrayBuffer }
      readonly gather: (bytes: number, starts: number, ends: number, rows: number, count: number, to: number) => number
    }
  }
}

export function wasmGather(): WasmGather {
  const { Module, Instance } = (globalThis as unknown as { WebAssembly: WebAssemblyApi }).WebAssembly
  const { memory, gather } = new Instance(new Module(Buffer.from(GATHER_WASM, 'base64'))).exports
  const u8 = new Uint8Array(memory.buffer)
  const i32 = new Int32Array(memory.buffer)
  let count = 0
  const places = { starts: 0, ends: 0, rows: 0, bytes: 0, to: 0 }
  return {
    load({ bytes, starts, ends, rows }) {
      count = rows.length
      places.ends = 4 * starts.length
      places.rows = places.ends + 4 * ends.length
      places.bytes = places.rows + 4 * rows.length
      places.to = places.bytes + bytes.length + 16
      i32.set(starts, places.starts)
      i32.set(ends, places.ends >> 2)
      i32.set(rows, places.rows >> 2)
      u8.set(bytes, places.bytes)
    },
    gather() {
      return u8.subarray(places.to, gather(places.bytes, places.starts, places.ends, places.rows, count, places.to))
    },
  }
}

function nsOf(rows: number, rounds: number, work: () => void): number {
  for (let i = 0; i < rounds; i++) work()
  const best = Array.from({ length: 7 }, () => {
    const before = process.cpuUsage()
    for (let i = 0; i < rounds; i++) work()
    const { user, system } = process.cpuUsage(before)
    return ((user + system) * 1_000) / rounds / rows
  })
  return Math.min(...best)
}

/** Nanoseconds a row by way of gathering. */
export function benchGather(length: number, rounds: number): Readonly<Record<string, number>> {
  const strings = stringsOf(BATCH_ROWS_MAX, length)
  const { bytes, starts, ends, rows } = strings
  const to = new Uint8Array(bytes.length + 8)
  const wasm = wasmGather()
  const hashes = new Int32Array(rows.length)
  const ns = (work: () => void): number => nsOf(rows.length, rounds, work)
  wasm.load(strings)
  return {
    bytes: ns(() => gatherByBytes(strings, to)),
    words: ns(() => gatherStrings(bytes, starts, ends, rows, rows.length, to, 0)),
    wasmInPlace: ns(() => wasm.gather()),
    wasmCopyIn: ns(() => {
      wasm.load(strings)
      wasm.gather()
    }),
    wasmCopyInAndOut: ns(() => {
      wasm.load(strings)
      to.set(wasm.gather())
    }),
    murmur3: ns(() => {
      for (let i = 0; i < rows.length; i++) hashes[i] = murmur3(bytes, starts[i]!, ends[i]!)
    }),
  }
}

if (import.meta.main) {
  for (const length of [8, 17, 32, 100]) {
    const parts = Object.entries(benchGather(length, 2_000)).map(([name, ns]) => `${name}=${ns.toFixed(1)}`)
    console.log(`${String(length).padStart(3)} bytes  ${parts.join('  ')}`)
  }
}
