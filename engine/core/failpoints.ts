/**
 * The steps of the checkpoint protocol at which a test may stop a process.
 *
 * The engine tells `Io.failpoint`, where there is one, that it is at a step, just before or after what the
 * name says. Nothing outside tests provides it, so in production a step costs one look at an absent property.
 */

export const FAILPOINTS = [
  // Recovery, on the coordinator's thread.
  'takeover-created',
  'sinks-fenced',
  'pending-applied',
  'leftovers-swept',
  'deployment-planned',
  // Recovery, in a worker.
  'stores-opened',
  'worker-ready',
  // A checkpoint, in a worker.
  'source-cut',
  'subtask-cut',
  'cut-whole',
  'outbox-synced',
  'store-imaged',
  'files-shared',
  'acked',
  // A checkpoint, on the coordinator's thread.
  'attempt-triggered',
  'ack-received',
  'manifest-built',
  'manifest-created',
  'commit-begins',
  'commit-applied',
  'segments-removed',
  'attempt-aborted',
  // Inside sinks.
  'sink-part-renamed',
  'sink-parts-in-place',
  'sink-marker-moved',
  'sink-transaction-begun',
  'sink-rows-written',
  'sink-transaction-committed',
] as const

export type Failpoint = (typeof FAILPOINTS)[number]
