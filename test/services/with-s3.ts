/**
 * `node test/services/with-s3.ts COMMAND ...`: runs a command beside a real S3 server of its own, with the server's
 * address and credentials in its environment; the bucket is `s3://checkpoints`, and goes away with the server.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { startS3 } from './s3-server.ts'

const [command, ...args] = process.argv.slice(2)
if (command === undefined) throw new Error('Write node test/services/with-s3.ts COMMAND ...')
const server = await startS3()
try {
  const child = spawn(command, args, { env: { ...process.env, ...server.env }, stdio: 'inherit' })
  const [code] = await once(child, 'exit')
  process.exitCode = code ?? 1
} finally {
  await server.stop()
}
