/**
 * Where a bug can be planted around the engine, to see that the simulator finds it. All parts may be
 * left out; without any the engine runs as it is. The bugs are in sim-mutants.ts.
 */
import type { JobGraph } from '../../contract/job-graph.ts'
import type { Disk, SpillFile } from '../../core/io.ts'
import type { JobOptions } from '../../runtime/launcher-types.ts'
import type { FromWorker } from '../../runtime/protocol.ts'
import type { ChannelPlant } from './sim-channels.ts'
import type { SimDisk } from './sim-disk.ts'
import type { ExternalFaults } from './sim-external.ts'
import type { Fault } from './sim-faults.ts'
import type { SimShape } from './sim-input.ts'
import type { SimJobWorld } from './sim-job.ts'
import type { SimStoreFactory } from './sim-store.ts'

export interface Plant extends ChannelPlant {
  readonly external?: ExternalFaults
  readonly syncDoesNothing?: boolean
  /** State files are read whatever their checksums say. */
  readonly ignoresChecksums?: boolean
  /** Makes the situation in which the bug shows more frequent; must leave the shape possible. */
  shape?(shape: SimShape): SimShape
  faults?(faults: readonly Fault[]): Fault[]
  options?(options: JobOptions): JobOptions
  /** What the engine sees of the disk; `raw` is the disk itself. */
  disk?(disk: Disk, raw: SimDisk): Disk
  spill?(file: SpillFile): SpillFile
  graph?(graph: JobGraph, world: SimJobWorld): JobGraph
  stores?(factory: SimStoreFactory, worker: number): SimStoreFactory
  /** Messages of one worker on their way to the coordinator. */
  fromWorker?(deliver: (message: FromWorker) => void): (message: FromWorker) => void
  /** Replaces methods of the engine's classes for the run; what it returns puts them back. */
  patch?(): () => void
  /** Now and then, with a disk of a process; `directory` is the job's. */
  meanwhile?(disk: Disk, directory: string): void
}

/** Replaces a method that all objects of a class share; what it returns puts it back. */
export function replaceMethod<T extends object, K extends keyof T>(
  prototype: T,
  name: K,
  replace: (original: T[K]) => T[K],
): () => void {
  const original = prototype[name]
  prototype[name] = replace(original)
  return () => {
    prototype[name] = original
  }
}

/** A bug with its name in plain words; `plant` makes it afresh for every run, because some remember things. */
export interface Mutant {
  readonly what: string
  plant(): Plant
}
