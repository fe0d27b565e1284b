/**
 * Preloaded into a process under test (`node --import`), and by that into its worker threads: kills the
 * process with SIGKILL when it reaches the step that CHAOS_FAILPOINT names, as `step:nth`.
 *
 * SIGUSR2 has the coordinator's thread collect its garbage, so that memory read afterwards is what is in use.
 *
 * Steps are those of the engine's protocol and, as `before:...` and `after:...`, the calls it makes to the
 * disk by kind of call and folder. Only tests load this; nothing that is published does.
 */
import { isMainThread } from 'node:worker_threads'
import type { Disk, DiskFile } from '../../engine/core/io.ts'
import { nodeIo } from '../../engine/runtime/node-io.ts'
import { folderOf } from './steps.ts'

const [step, nth] = splitLast(process.env['CHAOS_FAILPOINT'] ?? '')
let left = nth

function splitLast(text: string): [string, number] {
  const at = text.lastIndexOf(':')
  return [text.slice(0, at), Number(text.slice(at + 1))]
}

function reached(name: string): void {
  if (name !== step || --left > 0) return
  process.kill(process.pid, 'SIGKILL')
  // The signal is on its way; nothing may happen any more.
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
}

async function around<R>(call: string, path: string, work: () => Promise<R>): Promise<R> {
  const name = `${call}-${folderOf(path)}`
  reached(`before:${name}`)
  const result = await work()
  reached(`after:${name}`)
  return result
}

function armedFile(path: string, file: DiskFile): DiskFile {
  return {
    append: (bytes) => around('append', path, () => file.append(bytes)),
    sync: () => around('sync', path, () => file.sync()),
    close: () => file.close(),
  }
}

function armedDisk(disk: Disk): Disk {
  return {
    ...disk,
    create: async (path) => armedFile(path, await around('create', path, () => disk.create(path))),
    createExclusive: (path, bytes) => around('createExclusive', path, () => disk.createExclusive(path, bytes)),
    rename: (from, to) => around('rename', to, () => disk.rename(from, to)),
    link: (from, to, content) => around('link', to, () => disk.link(from, to, content)),
    syncDirectory: (path) => around('syncDirectory', path, () => disk.syncDirectory(path)),
    remove: (path) => around('remove', path, () => disk.remove(path)),
  }
}

if (step !== '') Object.assign(nodeIo, { failpoint: reached, disk: armedDisk(nodeIo.disk) })

if (isMainThread) process.on('SIGUSR2', () => globalThis.gc?.())
