#!/usr/bin/env node
/**
 * The command line. Nothing but Node's own modules is loaded before the command is known.
 *
 * Exit codes: 0 success, 1 failure, 2 wrong usage, 130 and 143 after SIGINT and SIGTERM.
 */

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(`millrace needs Node 22.18 or later; this is ${process.version}.\n`)
  process.exit(1)
}
const { useCompileCache } = await import('./compile-cache.ts')
useCompileCache()
const { main } = await import('./commands.ts')
await main(process.argv.slice(2))

export {}
