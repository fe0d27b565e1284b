/**
 * Names inside a checkpoint directory. One place, so that recovery, GC and verification agree.
 *
 *   lock              OS lock of the one process that owns the job
 *   manifests/        000000000001.json ...
 *   shared/           files of keyed state by SHA-256
 *   outbox/           sealed output that waits for its commit
 *   dead-letters/     committed dead letters, JSON lines
 *   live/             working directories of the running attempt; worthless after a crash
 *
 * A remote directory (s3://bucket/prefix) has the same names, without `lock` and `live`: those lie in a
 * local directory of the process (launcher.ts).
 */
export const layout = {
  lock: (dir: string) => `${dir}/lock`,
  manifests: (dir: string) => `${dir}/manifests`,
  manifest: (dir: string, name: string) => `${dir}/manifests/${name}`,
  shared: (dir: string) => `${dir}/shared`,
  sharedFile: (dir: string, sha256: string) => `${dir}/shared/${sha256}`,
  outbox: (dir: string) => `${dir}/outbox`,
  deadLetters: (dir: string) => `${dir}/dead-letters`,
  live: (dir: string) => `${dir}/live`,
} as const
