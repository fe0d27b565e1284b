/**
 * Commands that ask a running process, when it is not there, or goes while it is asked.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseFlags } from '../engine/api/run-flags.ts'
import { COMMANDS } from './help.ts'
import { savepointCommand } from './remote-commands.ts'
import { storeToken } from './rest-token.ts'

test('a process that dies while it is asked is told from one that is not there', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-remote-'))
  const server = createServer((socket) => socket.once('data', () => socket.destroy()))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const forget = storeToken(port, 'secret', folder)
  t.after(() => {
    forget()
    rmSync(folder, { recursive: true, force: true })
  })
  const ask = () => savepointCommand(parseFlags(['--port', String(port)], COMMANDS.savepoint.flags))
  await assert.rejects(ask(), { code: 'CONNECTION_LOST', message: /went away.*checkpoints list DIR/ })
  server.close()
  await once(server, 'close')
  await assert.rejects(ask(), { code: 'NOT_REACHABLE', message: /Nothing answers on port/ })
})
