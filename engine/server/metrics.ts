/**
 * Renders the statuses of all jobs as Prometheus metrics, for `GET /metrics`.
 *
 * Invariants: names and label names are stable, because alerts are built on them; times are seconds
 * and sizes bytes; a value that is not known (no watermark yet, no checkpoint yet) has no sample.
 * `operator` is the vertex's uid, which survives a rescale; workers are no label for that reason. Metrics of single
 * operators of a chain have the operator's own uid there, and the vertex's as `task`. Where Flink has a name for a
 * figure, as busyTimeMsPerSecond, it is there under that name and in that unit.
 */
import type {
  CheckpointStatus,
  JobState,
  JobStatus,
  OperatorStatus,
  SubtaskStatus,
  UserMetricStatus,
} from '../runtime/status.ts'
import { Exposition, type Labels, type MetricFamily, type MetricType } from './exposition.ts'
import { heldBackBy } from './held-back.ts'
import { skewOf } from './skew.ts'
import { jobTotals, jobWatermarkMs } from './views.ts'

const jobStates: readonly JobState[] = [
  'starting',
  'running',
  'restarting',
  'stopping',
  'finished',
  'failed',
  'cancelled',
]

type JobMetric = readonly [name: string, type: MetricType, help: string, value: (status: JobStatus) => number | null]

const jobMetrics: readonly JobMetric[] = [
  ['start_time_seconds', 'gauge', 'When the job started, Unix time.', (job) => job.startedAtMs / 1000],
  ['restarts_total', 'counter', 'Restarts from a checkpoint after a failure.', (job) => job.restarts],
  ['workers', 'gauge', 'Worker threads of the job.', (job) => job.workers],
  ['parallelism', 'gauge', 'Default number of subtasks per operator.', (job) => job.parallelism],
  ['records_in_total', 'counter', 'Records read by all sources.', (job) => jobTotals(job).recordsIn],
  ['records_out_total', 'counter', 'Records written by all sinks.', (job) => jobTotals(job).recordsOut],
  ['watermark_seconds', 'gauge', 'Event time reached at the end of the graph, Unix time.', watermarkSeconds],
]

type SubtaskMetric = readonly [
  name: string,
  type: MetricType,
  help: string,
  value: (subtask: SubtaskStatus) => number | null,
]

const subtaskMetrics: readonly SubtaskMetric[] = [
  ['records_in_total', 'counter', 'Records that entered the subtask.', (subtask) => subtask.recordsIn],
  ['records_out_total', 'counter', 'Records that left the subtask.', (subtask) => subtask.recordsOut],
  ['late_dropped_total', 'counter', 'Records dropped because they were too late.', (subtask) => subtask.lateDropped],
  ['filtered_total', 'counter', 'Records filtered out.', (subtask) => subtask.filtered],
  ['dead_lettered_total', 'counter', 'Records written to dead letters.', (subtask) => subtask.deadLettered],
  ['busy_ratio', 'gauge', 'Share of time spent on records, 0 to 1.', (subtask) => subtask.busy],
  ['back_pressured_ratio', 'gauge', 'Share of time blocked by output, 0 to 1.', (subtask) => subtask.backPressured],
  ['idle_ratio', 'gauge', 'Share of time with nothing to do, 0 to 1.', (subtask) => subtask.idle],
  ['running_ratio', 'gauge', 'Share of time on the worker thread, 0 to 1; part of busy.', (subtask) => subtask.running],
  ['busyTimeMsPerSecond', 'gauge', 'Milliseconds a second spent on records.', (subtask) => subtask.busy * 1000],
  [
    'backPressuredTimeMsPerSecond',
    'gauge',
    'Milliseconds a second without room downstream.',
    (subtask) => subtask.backPressured * 1000,
  ],
  ['idleTimeMsPerSecond', 'gauge', 'Milliseconds a second with nothing to do.', (subtask) => subtask.idle * 1000],
  ['paused', 'gauge', '1 while alignment keeps a source from reading.', (subtask) => (subtask.paused ? 1 : 0)],
  ['state_bytes', 'gauge', 'Size of the state of the subtask.', (subtask) => subtask.stateBytes],
  ['ended', 'gauge', '1 after the end of input.', (subtask) => (subtask.ended ? 1 : 0)],
]

type OperatorMetric = readonly [
  name: string,
  type: MetricType,
  help: string,
  value: (operator: OperatorStatus) => number,
]

const operatorMetrics: readonly OperatorMetric[] = [
  ['records_in_total', 'counter', 'Records that entered the operator.', (operator) => operator.recordsIn],
  ['records_out_total', 'counter', 'Records that left the operator.', (operator) => operator.recordsOut],
  ['busyTimeMsPerSecond', 'gauge', 'Milliseconds a second in the operator.', (operator) => operator.busy * 1000],
  [
    'backPressuredTimeMsPerSecond',
    'gauge',
    'Milliseconds a second without room after it.',
    (operator) => operator.backPressured * 1000,
  ],
  ['idleTimeMsPerSecond', 'gauge', 'Milliseconds a second with nothing for it.', (operator) => operator.idle * 1000],
  ['state_bytes', 'gauge', 'Keyed state in memory.', (operator) => operator.stateBytes],
  ['cold_reads_total', 'counter', 'State look-ups that had to read the store.', (operator) => operator.coldReads],
]

type TableMetric = readonly [name: string, help: string, value: (table: Table) => number | null]
type Table = OperatorStatus['tables'][number]

const tableMetrics: readonly TableMetric[] = [
  ['memory_bytes', 'Bytes of a state in memory.', (table) => table.memoryBytes],
  ['entries', 'Entries of a state, in memory and in the store.', (table) => table.entries],
  ['stored_bytes', 'Estimate of what all entries take as they are stored.', (table) => table.storedBytes],
  ['checkpoint_bytes', 'Changes that the last checkpoint took from a state.', (table) => table.checkpointBytes],
]

type CheckpointMetric = readonly [name: string, help: string, value: (checkpoint: CheckpointStatus) => number | null]

const lastCheckpointMetrics: readonly CheckpointMetric[] = [
  ['duration_seconds', 'Trigger to commit of the last completed checkpoint.', (last) => seconds(last.durationMs)],
  ['alignment_seconds', 'Longest barrier alignment in one subtask.', (last) => seconds(last.alignmentMsMax)],
  ['barrier_seconds', 'Trigger to the last cut of the slowest worker.', (last) => seconds(last.barrierMsMax)],
  ['sync_seconds', 'Longest synchronous cut of one subtask.', (last) => seconds(last.syncMsMax)],
  ['async_seconds', 'Longest from the last cut of a worker to its durable files.', (last) => seconds(last.asyncMsMax)],
  ['commit_seconds', 'Writing the manifest that makes it valid.', (last) => seconds(last.commitMs)],
  ['state_bytes', 'State that the last completed checkpoint references.', (last) => last.stateBytes],
  ['new_bytes', 'Bytes that the last completed checkpoint wrote.', (last) => last.newBytes],
  ['epoch', 'Epoch of the last completed checkpoint.', (last) => last.epoch],
  ['triggered_time_seconds', 'When it was triggered, Unix time.', (last) => seconds(last.triggeredAtMs)],
]

function seconds(ms: number | null): number | null {
  return ms === null || !Number.isFinite(ms) ? null : ms / 1000
}

function watermarkSeconds(status: JobStatus): number | null {
  return seconds(jobWatermarkMs(status))
}

function lagSeconds(watermarkMs: number | null, nowMs: number): number | null {
  return watermarkMs === null ? null : seconds(nowMs - watermarkMs)
}

function writeJobs(exposition: Exposition, jobs: readonly JobStatus[], nowMs: number): void {
  const info = exposition.family('millrace_job_info', 'gauge', 'Name and state backend of a job; always 1.')
  const state = exposition.family('millrace_job_state', 'gauge', '1 for the state that the job is in, else 0.')
  for (const job of jobs) {
    info.add({ job_id: job.id, job_name: job.name, state_backend: job.stateBackend }, 1)
    for (const name of jobStates) state.add({ job_id: job.id, state: name }, job.state === name ? 1 : 0)
  }
  for (const [name, type, help, value] of jobMetrics) {
    const family = exposition.family(`millrace_job_${name}`, type, help)
    for (const job of jobs) family.add({ job_id: job.id }, value(job))
  }
  const lag = exposition.family('millrace_job_watermark_lag_seconds', 'gauge', 'Processing time minus watermark.')
  for (const job of jobs) lag.add({ job_id: job.id }, lagSeconds(jobWatermarkMs(job), nowMs))
}

function writeSubtasks(exposition: Exposition, jobs: readonly JobStatus[], nowMs: number): void {
  const rows: { readonly labels: Labels; readonly subtask: SubtaskStatus }[] = []
  for (const job of jobs) {
    const vertices = new Map(job.vertices.map((vertex) => [vertex.id, vertex]))
    for (const subtask of job.subtasks) {
      const vertex = vertices.get(subtask.vertex)
      const operator = vertex?.uid ?? String(subtask.vertex)
      const name = vertex?.name ?? operator
      rows.push({ labels: { job_id: job.id, operator, operator_name: name, subtask: subtask.subtask }, subtask })
    }
  }
  for (const [name, type, help, value] of subtaskMetrics) {
    const family = exposition.family(`millrace_subtask_${name}`, type, help)
    for (const { labels, subtask } of rows) family.add(labels, value(subtask))
  }
  const watermark = exposition.family('millrace_subtask_watermark_seconds', 'gauge', 'Watermark, Unix time.')
  for (const { labels, subtask } of rows) watermark.add(labels, seconds(subtask.watermarkMs))
  const lag = exposition.family('millrace_subtask_watermark_lag_seconds', 'gauge', 'Processing time minus watermark.')
  for (const { labels, subtask } of rows) lag.add(labels, lagSeconds(subtask.watermarkMs, nowMs))
}

function writeOperators(exposition: Exposition, jobs: readonly JobStatus[]): void {
  const rows = jobs.flatMap((job) => {
    const tasks = new Map(job.vertices.map((vertex) => [vertex.id, vertex.uid]))
    return job.subtasks.flatMap(({ vertex, subtask, operators }) =>
      operators.map((operator) => ({
        operator,
        labels: {
          job_id: job.id,
          task: tasks.get(vertex) ?? String(vertex),
          operator: operator.uid,
          operator_name: operator.name,
          subtask,
        },
      })),
    )
  })
  for (const [name, type, help, value] of operatorMetrics) {
    const family = exposition.family(`millrace_operator_${name}`, type, help)
    for (const { labels, operator } of rows) family.add(labels, value(operator))
  }
  for (const [name, help, value] of tableMetrics) {
    const family = exposition.family(`millrace_state_${name}`, 'gauge', help)
    for (const { labels, operator } of rows) {
      for (const table of operator.tables) family.add({ ...labels, state: table.name }, value(table))
    }
  }
}

function writeSkew(exposition: Exposition, jobs: readonly JobStatus[]): void {
  const records = exposition.family(
    'millrace_vertex_records_skew_ratio',
    'gauge',
    'Records of the most loaded subtask over the mean; 1 is even.',
  )
  const state = exposition.family(
    'millrace_vertex_state_skew_ratio',
    'gauge',
    'State of the largest subtask over the mean; 1 is even.',
  )
  for (const job of jobs) {
    const uids = new Map(job.vertices.map((vertex) => [vertex.id, vertex.uid]))
    for (const skew of skewOf(job)) {
      const labels = { job_id: job.id, operator: uids.get(skew.vertex) ?? String(skew.vertex) }
      records.add(labels, skew.records?.ratio ?? null)
      state.add(labels, skew.state?.ratio ?? null)
    }
  }
}

function writeAlignment(exposition: Exposition, jobs: readonly JobStatus[]): void {
  const drift = exposition.family(
    'millrace_alignment_drift_seconds',
    'gauge',
    'How far a source subtask is ahead of the slowest of its alignment group.',
  )
  const allowed = exposition.family('millrace_alignment_drift_max_seconds', 'gauge', 'Drift that a group allows.')
  const paused = exposition.family('millrace_alignment_paused', 'gauge', '1 while it waits for its group.')
  for (const job of jobs) {
    const uids = new Map(job.vertices.map((vertex) => [vertex.id, vertex.uid]))
    for (const { group, maxDriftMs, subtasks } of job.alignment) {
      allowed.add({ job_id: job.id, group }, seconds(maxDriftMs))
      for (const { vertex, subtask, driftMs, state } of subtasks) {
        const labels = { job_id: job.id, group, operator: uids.get(vertex) ?? String(vertex), subtask }
        drift.add(labels, seconds(driftMs))
        paused.add(labels, state === 'paused' ? 1 : 0)
      }
    }
  }
}

interface UserRow {
  readonly labels: Labels
  readonly metric: UserMetricStatus
}

/**
 * Metrics of user functions, under names of theirs. Counters are gauges, as in Flink's reporter: they may go down.
 * Of metrics with the same name and different kinds, which can only be of different operators, the later kinds
 * have theirs in the name.
 */
function writeUserMetrics(exposition: Exposition, jobs: readonly JobStatus[]): void {
  const byName = new Map<string, UserRow[]>()
  const isSummary = new Map<string, boolean>()
  for (const job of jobs) {
    for (const { subtask, userMetrics } of job.subtasks) {
      for (const metric of userMetrics) {
        const summary = metric.summary !== undefined
        const taken = (isSummary.get(metric.name) ?? summary) !== summary
        const name = taken ? `${metric.name}_${metric.kind}` : metric.name
        if (!taken) isSummary.set(name, summary)
        const { operator, operatorName } = metric
        const labels = { job_id: job.id, operator, operator_name: operatorName, subtask }
        byName.set(name, [...(byName.get(name) ?? []), { labels, metric }])
      }
    }
  }
  for (const [name, rows] of byName) {
    const type = rows[0]!.metric.summary === undefined ? 'gauge' : 'summary'
    const family = exposition.family(`millrace_user_${name}`, type, 'Registered by a user function.')
    for (const row of rows) writeUserMetric(family, row)
  }
}

function writeUserMetric(family: MetricFamily, { labels, metric }: UserRow): void {
  if (metric.summary === undefined) {
    family.add(labels, metric.value)
    return
  }
  for (const [q, value] of metric.summary.quantiles) family.add({ ...labels, quantile: q }, value)
  family.addSuffixed('_sum', labels, metric.summary.sum)
  family.addSuffixed('_count', labels, metric.value)
}

function writeSplits(exposition: Exposition, jobs: readonly JobStatus[]): void {
  const watermark = exposition.family('millrace_split_watermark_seconds', 'gauge', 'Watermark of a split, Unix time.')
  const idle = exposition.family('millrace_split_idle', 'gauge', '1 when the split is idle and holds nothing back.')
  const holds = exposition.family(
    'millrace_split_holds_time_back',
    'gauge',
    '1 for the split with the lowest watermark.',
  )
  const behind = exposition.family(
    'millrace_split_behind_seconds',
    'gauge',
    'How far the split that holds time back is behind the furthest one; its reason is a label.',
  )
  for (const job of jobs) {
    const held = heldBackBy(job)
    const uids = new Map(job.vertices.map((vertex) => [vertex.id, vertex.uid]))
    for (const split of job.splitWatermarks) {
      const operator = uids.get(split.vertex) ?? String(split.vertex)
      const labels = { job_id: job.id, operator, subtask: split.subtask, split: split.split }
      const isHeld = held?.vertex === split.vertex && held.subtask === split.subtask && held.split === split.split
      watermark.add(labels, seconds(split.watermarkMs))
      idle.add(labels, split.idle ? 1 : 0)
      holds.add(labels, isHeld ? 1 : 0)
      if (isHeld) behind.add({ ...labels, reason: held.reason }, seconds(held.behindMs))
    }
  }
}

function writeCheckpoints(exposition: Exposition, jobs: readonly JobStatus[]): void {
  const total = exposition.family('millrace_checkpoints_total', 'counter', 'Checkpoints by outcome.')
  const running = exposition.family('millrace_checkpoints_in_progress', 'gauge', 'Checkpoints being taken now.')
  const marker = exposition.family('millrace_sink_marker_epoch', 'gauge', 'Last epoch that a sink has applied.')
  for (const job of jobs) {
    total.add({ job_id: job.id, status: 'completed' }, job.checkpointsCompleted)
    total.add({ job_id: job.id, status: 'failed' }, job.checkpointsFailed)
    const inProgress = job.checkpoints.filter((checkpoint) => checkpoint.status === 'in-progress')
    running.add({ job_id: job.id }, inProgress.length)
    for (const sink of job.sinks) {
      marker.add({ job_id: job.id, sink: sink.id, kind: sink.kind, guarantee: sink.guarantee }, sink.markerEpoch)
    }
  }
  for (const [name, help, value] of lastCheckpointMetrics) {
    const family = exposition.family(`millrace_last_checkpoint_${name}`, 'gauge', help)
    for (const job of jobs) {
      const last = job.checkpoints.findLast((checkpoint) => checkpoint.status === 'completed')
      if (last !== undefined) family.add({ job_id: job.id }, value(last))
    }
  }
}

/** The text of `GET /metrics`; `writeProcess` adds the metrics of the process itself. */
export function renderMetrics(
  jobs: readonly JobStatus[],
  nowMs: number,
  writeProcess: (exposition: Exposition) => void,
): string {
  const exposition = new Exposition()
  writeProcess(exposition)
  writeJobs(exposition, jobs, nowMs)
  writeSubtasks(exposition, jobs, nowMs)
  writeOperators(exposition, jobs)
  writeSkew(exposition, jobs)
  writeUserMetrics(exposition, jobs)
  writeSplits(exposition, jobs)
  writeAlignment(exposition, jobs)
  writeCheckpoints(exposition, jobs)
  return exposition.toString()
}
