/**
 * The calling thread's CPU time, to the microsecond: what a piece of work costs, whatever else runs on the machine.
 *
 * `process.threadCpuUsage` would say the same, but Linux brings its figures up to date only at the kernel's next tick, up
 * to 4 ms late, which is too coarse for a turn of a worker. WASI has the exact clock (CLOCK_THREAD_CPUTIME_ID).
 */
import { WASI } from 'node:wasi'

/** WASI's `thread_cputime_id`. */
const THREAD_CPU_TIME = 3
/** (module (memory (export "memory") 1)): where WASI writes the time. */
const MEMORY_MODULE = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 5, 3, 1, 0, 1, 7, 10, 1, 6, 109, 101, 109, 111, 114, 121, 2, 0],
)

/** What TypeScript's library without a browser does not declare. */
interface WithWebAssembly {
  readonly WebAssembly: {
    readonly Module: new (bytes: Uint8Array) => object
    readonly Instance: new (
      module: object,
    ) => { readonly exports: { readonly memory: { readonly buffer: ArrayBuffer } } }
  }
}

/** A clock for the calling thread: milliseconds of processor time. */
export function threadClock(): () => number {
  const wasi = new WASI({ version: 'preview1' })
  const { WebAssembly } = globalThis as unknown as WithWebAssembly
  const instance = new WebAssembly.Instance(new WebAssembly.Module(MEMORY_MODULE))
  wasi.initialize(instance)
  const time = new BigUint64Array(instance.exports.memory.buffer, 0, 1)
  const timeGet = wasi.wasiImport['clock_time_get'] as (clock: number, precision: bigint, at: number) => number
  return () => {
    const error = timeGet(THREAD_CPU_TIME, 0n, 0)
    if (error !== 0) throw new Error(`this system has no clock of a thread's CPU time (WASI error ${error})`)
    return Number(time[0]) / 1e6
  }
}
