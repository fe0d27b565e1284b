/**
 * How long the files of a checkpoint take from an object store to the local disk by themselves: as many threads as
 * the checkpoint has stores, each with as many downloads at a time as a restore has, and nothing done with the bytes.
 *
 * Used by recovery.ts, which takes this off the time of a whole recovery. The start of the threads does not count.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { layout } from '../engine/checkpoint/layout.ts'
import { manifestNumbers, readManifest } from '../engine/checkpoint/manifest-store.ts'
import { splitObjectUrl } from '../engine/contract/object-store.ts'
import { siblingModule } from '../engine/core/own-module.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'
import { s3SettingsOf } from '../engine/runtime/s3-client.ts'
import { RESTORE_FILES_AT_ONCE } from '../engine/runtime/state-restore.ts'
import type { RawDownload } from './raw-download-thread.ts'

/** Milliseconds that the newest checkpoint of `directory` takes into a new folder in `scratch`, which is removed. */
export async function measureTransferMs(directory: string, scratch: string): Promise<number> {
  const newest = (await manifestNumbers(nodeIo.disk, directory)).at(-1)
  assert.ok(newest !== undefined, `${directory} has no checkpoint`)
  const { manifest, error } = await readManifest(nodeIo.disk, directory, newest)
  assert.ok(manifest !== null, error ?? '')
  const settings = s3SettingsOf(splitObjectUrl(directory).store, process.env)
  const folder = await mkdtemp(join(scratch, 'transfer-'))
  const threads = manifest.stores.map(({ files }, i) => {
    const workerData: RawDownload = {
      settings,
      files: files.map(({ sha256, name }) => ({
        key: splitObjectUrl(layout.sharedFile(directory, sha256)).key,
        path: join(folder, `${i}-${name}`),
      })),
      atOnce: RESTORE_FILES_AT_ONCE,
    }
    return new Worker(siblingModule(import.meta.url, './raw-download-thread'), { workerData })
  })
  try {
    await Promise.all(threads.map((thread) => once(thread, 'message')))
    const beganMs = performance.now()
    const done = threads.map((thread) => once(thread, 'message'))
    for (const thread of threads) thread.postMessage('go')
    await Promise.all(done)
    return Math.round(performance.now() - beganMs)
  } finally {
    await Promise.all(threads.map((thread) => thread.terminate()))
    await rm(folder, { recursive: true, force: true })
  }
}
