/**
 * What a user's test may use from Millrace: `import { SeededRandom } from 'millrace/testing'`.
 *
 * Kept small on purpose; each name here is a promise.
 */
export {
  type SinkCheck,
  type SinkChecksOptions,
  type SinkSubject,
  type SinkTarget,
  sinkChecks,
} from '../../connectors/sink-conformance.ts'
export { checkSource, type SourceCheckOptions } from './check-source.ts'
export { SeededRandom } from './sim/seeded-random.ts'
export { type DiskObserver, SimDisk, type SimDiskOptions } from './sim/sim-disk.ts'
export { type PostOptions, Scope, SimScheduler } from './sim/sim-scheduler.ts'
