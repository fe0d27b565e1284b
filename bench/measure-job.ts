/**
 * Runs a benchmark's job once, and says what it cost. Called by the benchmarks that deploy whole jobs.
 *
 * CPU-seconds are the whole process's, between the start of the deployed job and its end: sources, exchange, state,
 * checkpoints, garbage collection and the coordinator.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CHECKPOINT_POLICY_DEFAULT } from '../engine/checkpoint/checkpoint-policy.ts'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import { siblingModule } from '../engine/core/own-module.ts'
import { launchJob } from '../engine/runtime/launcher.ts'
import type { JobStatus } from '../engine/runtime/status.ts'
import { defaultStateBackend } from '../engine/runtime/store-factories.ts'

export interface MeasuredJob {
  readonly name: string
  readonly graph: JobGraph
  /** The module next to this one that worker threads import, without its extension: it builds `graph`. */
  readonly module: `./${string}`
  readonly config: Readonly<Record<string, string>>
  readonly parallelism: number
  /** Null: no checkpoints while it runs. */
  readonly checkpointIntervalMs: number | null
  /** Bytes of keyed working set per worker; default 512 MiB. */
  readonly stateMemoryBytes?: number
  /** Called about every `everyMs` milliseconds while the job runs. */
  readonly sample?: { readonly everyMs: number; readonly take: (status: () => JobStatus) => void }
}

export interface JobCost {
  readonly stateBackend: string
  readonly seconds: number
  readonly cpuSeconds: number
  readonly rssPeakMiB: number
  readonly checkpoints: number
  /** Rows that the sources read. */
  readonly recordsIn: number
}

/** Rejects when the job fails. */
export async function measureJob(options: MeasuredJob): Promise<JobCost> {
  const directory = await mkdtemp(join(tmpdir(), 'millrace-bench-'))
  try {
    const job = await launchJob(options.graph, {
      name: options.name,
      parallelism: options.parallelism,
      workers: options.parallelism,
      moduleUrl: siblingModule(import.meta.url, options.module).href,
      checkpointIntervalMs: options.checkpointIntervalMs,
      checkpointTimeoutMs: 60_000,
      runtimeMode: 'streaming',
      checkpointPolicy: CHECKPOINT_POLICY_DEFAULT,
      checkpointDirectory: directory,
      stateBackend: defaultStateBackend(),
      restore: null,
      allowNonRestoredState: false,
      acceptDuplicates: false,
      restart: { kind: 'none' },
      keyGroups: 128,
      stateMemoryBytes: options.stateMemoryBytes ?? 512 << 20,
      config: options.config,
      onEvent() {},
    })
    // Until workers are deployed: loading their modules is not the engine's speed.
    while (job.status().state === 'starting') await new Promise((resolve) => setTimeout(resolve, 1))
    const { sample } = options
    const sampler = sample === undefined ? undefined : setInterval(sample.take, sample.everyMs, () => job.status())
    const cpuBefore = process.cpuUsage()
    const startedMs = performance.now()
    const result = await job.done.finally(() => clearInterval(sampler))
    const seconds = (performance.now() - startedMs) / 1_000
    const cpu = process.cpuUsage(cpuBefore)
    return {
      stateBackend: job.status().stateBackend,
      seconds,
      cpuSeconds: (cpu.user + cpu.system) / 1_000_000,
      rssPeakMiB: process.resourceUsage().maxRSS / 1_024,
      checkpoints: result.checkpoints,
      recordsIn: result.recordsIn,
    }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}
