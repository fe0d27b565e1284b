/**
 * `npm run test:services`: tests against real servers, which they start themselves on free ports. A server
 * that cannot be started is a failure, never a skip.
 */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const files = ['main-job-postgres.ts', 'checkpoints-s3.ts', 'multipart-s3.ts'].map((name) =>
  fileURLToPath(new URL(name, import.meta.url)),
)
const result = spawnSync(process.execPath, ['--test', '--test-timeout=900000', ...files], { stdio: 'inherit' })
process.exit(result.status ?? 1)
