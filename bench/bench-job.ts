/**
 * What the jobs of benchmarks have in common: options out of `env.config`, and what they hand back.
 */
import { StreamExecutionEnvironment } from 'millrace'
import type { JobGraph } from '../engine/contract/job-graph.ts'
import type { Tally } from './tally-sink.ts'

export interface BuiltBench {
  readonly graph: JobGraph
  readonly tally: Tally
  /** In how many windows each event has to be counted. */
  readonly windowsOfEvent: number
}

export interface BenchEnvironment {
  readonly env: StreamExecutionEnvironment
  readonly parallelism: number
  readonly events: number
  readonly keys: number
  /** A number of the configuration, or the fallback. */
  option(name: string, fallback: number): number
}

export function benchEnvironment(config: Readonly<Record<string, string>>): BenchEnvironment {
  const env = StreamExecutionEnvironment.createEnvironment(config)
  const option = (name: string, fallback: number): number => Number(env.config[name] ?? fallback)
  return {
    env,
    parallelism: option('parallelism', 1),
    events: option('events', 1_000_000),
    keys: option('keys', 100_000),
    option,
  }
}
