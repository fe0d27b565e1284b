/**
 * A job for the server's tests: a realistic status, and a control that records what it was asked.
 *
 * Used by the tests of this folder only. The status is of a job that reads four Kafka partitions, one
 * of them slow and one idle, and writes windows to Postgres.
 */
import { MillraceError } from '../core/errors.ts'
import type { JobControl, JobStatus, OperatorStatus, SubtaskStatus } from '../runtime/status.ts'

export const fixtureNowMs = Date.UTC(2026, 0, 15, 12, 0, 0)
const watermarkMs = fixtureNowMs - 5000

function subtask(vertex: number, index: number, over: Partial<SubtaskStatus>): SubtaskStatus {
  const { busy = 0.25, backPressured = 0 } = over
  return {
    vertex,
    subtask: index,
    worker: index,
    recordsIn: 0,
    recordsOut: 0,
    lateDropped: 0,
    filtered: 0,
    deadLettered: 0,
    watermarkMs,
    timeIdle: false,
    ended: false,
    busy,
    backPressured,
    idle: 1 - busy - backPressured,
    running: busy / 2,
    paused: false,
    keyGroups: null,
    stateBytes: 0,
    operators: [],
    userMetrics: [],
    accumulators: [],
    ...over,
  }
}

function aggregate(over: Partial<OperatorStatus>, entries: number): OperatorStatus {
  const { recordsIn = 0, stateBytes = 0 } = over
  return {
    uid: 'windows',
    name: 'aggregate',
    recordsIn,
    recordsOut: recordsIn / 10,
    busy: 0.25,
    backPressured: 0,
    idle: 0.75,
    stateBytes,
    coldReads: 2,
    tables: [
      { name: 'windows', memoryBytes: stateBytes, entries, storedBytes: entries * 40, checkpointBytes: entries * 20 },
    ],
    ...over,
  }
}

/** Half of the key groups, and the one operator. */
function keyed(index: number, recordsIn: number, stateBytes: number): Partial<SubtaskStatus> {
  return {
    keyGroups: { from: index * 64, to: index * 64 + 64 },
    operators: [aggregate({ recordsIn, stateBytes }, 50 - index * 20)],
  }
}

function split(index: number, behindMs: number, idle = false): JobStatus['splitWatermarks'][number] {
  return {
    vertex: 0,
    subtask: index >> 1,
    split: `learning-events-${index}`,
    watermarkMs: watermarkMs - behindMs,
    idle,
    paused: false,
    records: 100,
    silentMs: idle ? 60_000 : 100,
    idleAfterMs: 30_000,
  }
}

export function fixtureStatus(over: Partial<JobStatus> = {}): JobStatus {
  return {
    id: 'job-1',
    name: 'Pattern "detection"',
    state: 'running',
    startedAtMs: fixtureNowMs - 3_600_000,
    restarts: 2,
    stateBackend: 'rocksdb 7.8.3',
    checkpointDirectory: 'checkpoints',
    checkpointIntervalMs: 10_000,
    workers: 2,
    parallelism: 2,
    vertices: [
      { id: 0, uid: 'events', name: 'learning-events', parallelism: 2, operators: ['kafka', 'parse'], role: 'source' },
      { id: 1, uid: 'windows', name: 'windows', parallelism: 2, operators: ['aggregate'], role: 'operator' },
      { id: 2, uid: 'store', name: 'pattern store', parallelism: 1, operators: ['postgres'], role: 'sink' },
    ],
    edges: [
      { from: 0, to: 1, partitioning: 'hash' },
      { from: 1, to: 2, partitioning: 'rebalance' },
    ],
    subtasks: [
      subtask(0, 0, { recordsIn: 1000, recordsOut: 990, deadLettered: 7, filtered: 3 }),
      subtask(0, 1, { recordsIn: 500, recordsOut: 500 }),
      subtask(1, 0, {
        recordsIn: 890,
        recordsOut: 90,
        lateDropped: 4,
        stateBytes: 2048,
        busy: 0.95,
        ...keyed(0, 890, 2048),
      }),
      subtask(1, 1, { recordsIn: 600, recordsOut: 60, stateBytes: 1024, backPressured: 0.5, ...keyed(1, 600, 1024) }),
      subtask(2, 0, { recordsIn: 150, recordsOut: 148, watermarkMs: watermarkMs - 1000 }),
    ],
    splitWatermarks: [split(0, -4000), split(1, 0), split(2, -3000), split(3, 9000, true)],
    alignment: [
      {
        group: 'events',
        maxDriftMs: 2000,
        limitMs: watermarkMs + 2000,
        subtasks: [
          { vertex: 0, subtask: 0, watermarkMs, driftMs: 0, state: 'reading' },
          { vertex: 0, subtask: 1, watermarkMs: watermarkMs + 3000, driftMs: 3000, state: 'paused' },
        ],
      },
    ],
    checkpoints: [
      {
        id: 41,
        kind: 'checkpoint',
        status: 'completed',
        epoch: 40,
        manifest: 44,
        triggeredAtMs: fixtureNowMs - 12_000,
        durationMs: 34,
        alignmentMsMax: 6.5,
        alignmentAt: { vertex: 1, subtask: 0 },
        barrierMsMax: 9,
        syncMsMax: 1.5,
        asyncMsMax: 20,
        commitMs: 3,
        stateBytes: 3072,
        newBytes: 512,
        failure: null,
      },
      {
        id: 42,
        kind: 'checkpoint',
        status: 'in-progress',
        epoch: null,
        manifest: null,
        triggeredAtMs: fixtureNowMs - 100,
        durationMs: null,
        alignmentMsMax: null,
        alignmentAt: null,
        barrierMsMax: null,
        syncMsMax: null,
        asyncMsMax: null,
        commitMs: null,
        stateBytes: null,
        newBytes: null,
        failure: null,
      },
    ],
    checkpointsCompleted: 40,
    checkpointsFailed: 1,
    exceptions: [
      {
        atMs: fixtureNowMs - 60_000,
        where: 'windows #1',
        code: null,
        message: 'confidence is not a number',
        stack: 'Error: confidence is not a number\n    at add (job.ts:12:3)',
      },
    ],
    sinks: [{ id: 'store', name: 'Pattern store', kind: 'postgres', guarantee: 'exactly-once', markerEpoch: 40 }],
    ...over,
  }
}

export interface FixtureJob extends JobControl {
  /** Calls so far, such as `rescale 4`. */
  readonly calls: string[]
  /** What `status` answers from now on. */
  set(status: JobStatus): void
  /** The next request to the job fails with this. */
  failNext(error: Error): void
}

export function fixtureJob(initial: JobStatus = fixtureStatus()): FixtureJob {
  const calls: string[] = []
  let status = initial
  let failure: Error | null = null
  const record = async (call: string): Promise<void> => {
    calls.push(call)
    const error = failure
    failure = null
    if (error !== null) throw error
  }
  return {
    calls,
    set(next) {
      status = next
    },
    failNext(error) {
      failure = error
    },
    status: () => status,
    async savepoint() {
      await record('savepoint')
      return 'checkpoints/savepoint-45'
    },
    stop: () => record('stop'),
    cancel: () => record('cancel'),
    rescale: (parallelism) => record(`rescale ${parallelism}`),
  }
}

/** What a job answers when it cannot do something now. */
export const fixtureRefusal = new MillraceError('CHECKPOINT_RUNNING', 'A checkpoint is running.', {
  hint: 'Try again in a second.',
})
