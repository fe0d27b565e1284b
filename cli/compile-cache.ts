/**
 * Node's compile cache, for the command line and the threads and processes that it starts.
 *
 * Stripping types and compiling the engine takes a third of a CPU-second a thread, also of each worker thread that a
 * restarted job gets; with the cache it is a tenth. An embedding program decides for itself.
 */
import { enableCompileCache } from 'node:module'

/** Called before anything large is imported. `NODE_DISABLE_COMPILE_CACHE=1` turns it off, as everywhere. */
export function useCompileCache(): void {
  const { directory } = enableCompileCache()
  // Worker threads do not inherit the call, but read the variable.
  if (directory !== undefined) process.env.NODE_COMPILE_CACHE = directory
}
