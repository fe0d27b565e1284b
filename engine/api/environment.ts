/**
 * The environment: where a program begins, sets its job's options and runs it.
 *
 * Invariant: it touches nothing outside itself before `execute`.
 */
import { collectSink } from '../../connectors/collect/collect-sink.ts'
import { streamSink } from '../../connectors/collect/stream-sink.ts'
import { type CollectionOptions, collectionSource } from '../../connectors/collection/collection-source.ts'
import { type DataGenOptions, dataGenSource } from '../../connectors/datagen/datagen-source.ts'
import { sequenceSource } from '../../connectors/datagen/sequence-source.ts'
import { printSink } from '../../connectors/print/print-sink.ts'
import { type SocketSourceOptions, socketSource } from '../../connectors/socket/socket-source.ts'
import type { Change } from '../../operators/changes.ts'
import type { JobGraph } from '../contract/job-graph.ts'
import type { Source } from '../contract/source.ts'
import { MillraceError } from '../core/errors.ts'
import type { Duration } from '../core/time.ts'
import type { JobExecutionResult, RestartStrategy, RunningJob, StateBackendName } from '../runtime/launcher-types.ts'
import { ChangelogStream, type FromChangelogOptions } from './changelog-stream.ts'
import { checkInstance } from './check-function.ts'
import { CheckpointConfig, type CheckpointingMode } from './checkpoint-config.ts'
import { AwaitedJob, type CloseableIterator, rowIterator } from './closeable-iterator.ts'
import { type DataStream, DataStreamSink, SingleOutputStreamOperator, type StreamHome } from './data-stream.ts'
import {
  type ExecuteOptions,
  type ExecutionMode,
  executionMode,
  inheritedConfig,
  type Program,
  type Started,
  startJob,
} from './execution.ts'
import { checkMaxParallelism, checkParallelism, GraphBuilder } from './graph-builder.ts'
import type { JobSettings } from './job-settings.ts'
import { isRestartStrategy } from './restart-strategies.ts'
import { parseMemorySize } from './run-flags.ts'
import { RuntimeExecutionMode } from './runtime-mode.ts'
import type { WatermarkStrategy } from './watermark-strategy.ts'

/** Name of a job whose program gives none. */
const NAME_DEFAULT = 'Millrace job'

export class StreamExecutionEnvironment {
  /** The `--set KEY=VALUE` pairs. */
  readonly config: Readonly<Record<string, string | undefined>>
  private readonly configPairs: Readonly<Record<string, string>>
  private builder = new GraphBuilder()
  /** The job that comes next, when iterators wait for its rows. */
  private awaited: AwaitedJob | null = null
  private readonly checkpointConfig = new CheckpointConfig()
  private parallelism: number | null = null
  private maxParallelism: number | null = null
  private isChainingDisabled = false
  private runtimeMode: RuntimeExecutionMode = RuntimeExecutionMode.STREAMING
  private restart: RestartStrategy | null = null
  private stateBackend: StateBackendName | null = null
  private stateMemoryBytes: number | null = null

  private constructor(config: Readonly<Record<string, string>>) {
    this.config = config
    this.configPairs = config
  }

  /** A new environment; its `config` comes from the command line where there is one. */
  static getExecutionEnvironment(): StreamExecutionEnvironment {
    return new StreamExecutionEnvironment(inheritedConfig())
  }

  /** A new environment with a given `config`, whatever the command line says. */
  static createEnvironment(config: Readonly<Record<string, string>> = {}): StreamExecutionEnvironment {
    return new StreamExecutionEnvironment(config)
  }

  /** Default number of subtasks of an operator. `--parallelism` overrides it. */
  setParallelism(parallelism: number): this {
    this.parallelism = checkParallelism(parallelism)
    return this
  }

  /**
   * How jobs are executed: `STREAMING` unless told. In `BATCH` every source must be bounded (`BATCH_UNBOUNDED`), there
   * are no checkpoints, and only final results come out: windows and timers of both kinds fire at the end of input,
   * nothing is late, and running aggregates emit one result a key. `AUTOMATIC` is batch when every source is bounded.
   * `--runtime-mode` overrides it.
   */
  setRuntimeMode(mode: RuntimeExecutionMode): this {
    if (!Object.values(RuntimeExecutionMode).includes(mode)) {
      throw new MillraceError('RUNTIME_MODE_UNKNOWN', `There is no runtime mode ${JSON.stringify(mode)}.`, {
        hint: 'Use RuntimeExecutionMode.STREAMING, BATCH or AUTOMATIC.',
      })
    }
    this.runtimeMode = mode
    return this
  }

  /**
   * Most subtasks that a keyed operator may ever have: the job's number of key groups, 128 unless told. It is
   * part of every checkpoint, so it is fixed for the life of a job. Throws `PARALLELISM_INVALID`.
   */
  setMaxParallelism(maxParallelism: number): this {
    this.maxParallelism = checkMaxParallelism(maxParallelism)
    return this
  }

  /** Runs every operator of this environment's jobs in a task of its own: to find out where time goes. */
  disableOperatorChaining(): this {
    this.isChainingDisabled = true
    return this
  }

  /** Takes a checkpoint every `interval`; exactly once unless told. */
  enableCheckpointing(interval: Duration | number, mode?: CheckpointingMode): this {
    this.checkpointConfig.setCheckpointInterval(interval)
    if (mode !== undefined) this.checkpointConfig.setCheckpointingConsistencyMode(mode)
    return this
  }

  getCheckpointConfig(): CheckpointConfig {
    return this.checkpointConfig
  }

  /** Without one, a job with checkpoints restarts up to 10 times, 1 s apart, and one without never. Throws `RESTART_INVALID`. */
  setRestartStrategy(strategy: RestartStrategy): this {
    if (!isRestartStrategy(strategy)) {
      throw new MillraceError('RESTART_INVALID', 'That is no restart strategy.', {
        hint: 'Make one by RestartStrategies, for example RestartStrategies.fixedDelayRestart(3, seconds(1)).',
      })
    }
    this.restart = strategy
    return this
  }

  /** Where keyed state is kept. Unless told, RocksDB where its addon is built, else memory. Throws `STATE_BACKEND_UNKNOWN`. */
  setStateBackend(backend: StateBackendName): this {
    if (backend !== 'memory' && backend !== 'rocksdb') {
      throw new MillraceError('STATE_BACKEND_UNKNOWN', `There is no state backend ${JSON.stringify(backend)}.`, {
        hint: 'Use "memory" or "rocksdb".',
      })
    }
    this.stateBackend = backend
    return this
  }

  /**
   * Working memory of keyed state, a worker: a number of bytes or text as `512m`. Tables take most of it; an eighth, of
   * small ones a quarter, is for RocksDB's caches and buffers, another, up to 64 MiB, for changes on their way into a
   * checkpoint. What does not fit lies in the state backend and is read when it is needed. 512 MiB unless told. Throws
   * `STATE_MEMORY_INVALID`.
   */
  setStateMemory(size: number | string): this {
    const bytes = parseMemorySize(String(size))
    if (bytes === null) {
      throw new MillraceError('STATE_MEMORY_INVALID', `${JSON.stringify(size)} is no size of state memory.`, {
        hint: 'Give a number of bytes, or text as "512m" or "2g", of at least 1 MiB.',
      })
    }
    this.stateMemoryBytes = bytes
    return this
  }

  /** Begins a stream. Without a strategy event times are the source's own, and there are no watermarks. */
  fromSource<T>(
    source: Source<T>,
    watermarks?: WatermarkStrategy<NoInfer<T>>,
    name?: string,
  ): SingleOutputStreamOperator<T> {
    checkInstance('fromSource', source, 'createReader')
    const node = this.builder.add({
      name: name ?? `Source: ${source.kind}`,
      outputSchema: source.schema,
      inputs: [],
      body: { role: 'source', source: source as Source, watermarks: watermarks?.toPlan(source.schema) ?? null },
    })
    return new SingleOutputStreamOperator<T>(this.home(), node, source.schema)
  }

  /** Flink's older name: begin a stream, and call `assignTimestampsAndWatermarks` on it. */
  addSource<T>(source: Source<T>, name?: string): SingleOutputStreamOperator<T> {
    return name === undefined ? this.fromSource(source) : this.fromSource(source, undefined, name)
  }

  /** A bounded stream of these elements, in order, read by one subtask. */
  fromElements<T>(...elements: readonly T[]): SingleOutputStreamOperator<T> {
    return this.fromCollection(elements)
  }

  /**
   * A bounded stream of these elements, in order, read by one subtask. `schema` gives them columns; with `batchRows: 1`
   * a watermark comes after each of them, so that some can be late. Throws `OPTION_INVALID`.
   */
  fromCollection<T>(
    elements: readonly T[],
    options: CollectionOptions<NoInfer<T>> = {},
  ): SingleOutputStreamOperator<T> {
    if (typeof (elements as Partial<readonly T[]> | null)?.[Symbol.iterator] !== 'function') {
      throw new MillraceError('OPTION_INVALID', `A collection of elements cannot be ${String(elements)}.`, {
        hint: 'Give an array, or another iterable.',
      })
    }
    const source = collectionSource<T>(elements, options as CollectionOptions<T>)
    return this.fromSource(source, undefined, 'Source: Collection').setParallelism(1)
  }

  /** The lines of a TCP connection, read by one subtask; at most once, so for trying things out. Throws `OPTION_INVALID`. */
  socketTextStream(
    host: string,
    port: number,
    options: Omit<SocketSourceOptions, 'host' | 'port'> = {},
  ): SingleOutputStreamOperator<string> {
    const source = socketSource({ host, port, ...options })
    return this.fromSource(source, undefined, 'Source: Socket').setParallelism(1)
  }

  /** The whole numbers from `from` to `to`, both included; in order when one subtask reads them. */
  fromSequence(from: number, to: number): SingleOutputStreamOperator<number> {
    return this.fromSource(sequenceSource(from, to), undefined, 'Source: Sequence')
  }

  /**
   * Rows that `generator` makes from their index, 0 on: `count` of them, or without an end; at `ratePerSecond`, or as
   * fast as they are taken. Each of `splits` subtasks makes its share. The same index must give the same row.
   */
  fromDataGenerator<T>(
    generator: (index: number) => T,
    options: Omit<DataGenOptions<NoInfer<T>>, 'generator'> = {},
  ): SingleOutputStreamOperator<T> {
    const source = dataGenSource<T>({ ...(options as DataGenOptions<T>), generator })
    return this.fromSource(source, undefined, 'Source: Data Generator')
  }

  /** A changelog of inserts: each row of a stream with declared columns is one. Throws `SCHEMA_MISSING`. */
  fromDataStream<T>(stream: DataStream<T>): ChangelogStream<T> {
    return ChangelogStream.ofInserts(stream)
  }

  /**
   * The changelog that a stream of changes `{ kind: '+U', row }` makes; a -U that is not right before its +U is taken for
   * a -D. Changes of a row must come in order: from one subtask of the stream. Throws `CHANGELOG_KEY_MISSING`.
   */
  fromChangelogStream<T>(stream: DataStream<Change<T>>, options: FromChangelogOptions<T>): ChangelogStream<T> {
    return ChangelogStream.ofChanges(stream, options)
  }

  /**
   * Runs the job and waits for its end; rejects with the cause when it fails. At the top level of the
   * program that Node was started with, worker threads import that program again, and stop here.
   */
  async execute(name: string = NAME_DEFAULT, options: ExecuteOptions = {}): Promise<JobExecutionResult> {
    // Before any await: the mode is read from the stack.
    return this.start(name, executionMode(), options).result
  }

  /**
   * Starts the job and resolves when it is deployed. Subtasks run on the calling thread unless `module` is given. Under
   * `millrace run` the job is the program's, as one that `execute` runs, and the program ends after it.
   */
  async executeAsync(name: string = NAME_DEFAULT, options: ExecuteOptions = {}): Promise<RunningJob> {
    return this.start(name, executionMode(true), options).job
  }

  private start(name: string, mode: ExecutionMode, options: ExecuteOptions = {}): Started {
    const program: Program = {
      name,
      graph: this.getGraph(),
      settings: this.getSettings(),
      sharesMemory: this.awaited !== null,
    }
    const { awaited } = this
    // What comes after belongs to another job.
    this.builder = new GraphBuilder()
    this.awaited = null
    const started = startJob(program, this.configPairs, mode, options)
    awaited?.start(started.job)
    return started
  }

  /** The graph of what was declared so far. Throws as `GraphBuilder.build`. */
  getGraph(): JobGraph {
    return this.builder.build({ isChainingDisabled: this.isChainingDisabled })
  }

  /** What was set, for the streams declared so far. */
  getSettings(): JobSettings {
    return {
      parallelism: this.parallelism,
      runtimeMode: this.runtimeMode,
      unboundedSources: this.builder.unboundedSources(),
      maxParallelism: this.maxParallelism,
      checkpointIntervalMs: this.checkpointConfig.checkpointIntervalMs,
      checkpointTimeoutMs: this.checkpointConfig.checkpointTimeoutMs,
      checkpointPolicy: this.checkpointConfig.checkpointPolicy,
      checkpointDirectory: this.checkpointConfig.checkpointStorage,
      stateBackend: this.stateBackend,
      stateMemoryBytes: this.stateMemoryBytes,
      restart: this.restart,
    }
  }

  private home(): StreamHome {
    return {
      builder: this.builder,
      printSink: (prefix, standardError) => printSink({ prefix: prefix ?? '', standardError }),
      collect: (stream) => this.collect(stream),
      iterate: (stream) => this.iterate(stream),
      iterateLater: (stream) => this.iteratorOver(stream),
    }
  }

  private iterate<T>(stream: DataStream<T>): CloseableIterator<T> {
    const iterator = this.iteratorOver(stream)
    try {
      this.start('Collect', executionMode(true))
    } catch (error) {
      this.awaited?.start(Promise.reject(error))
      this.awaited = null
    }
    return iterator
  }

  private iteratorOver<T>(stream: DataStream<T>): CloseableIterator<T> {
    const rows = streamSink<T>()
    new DataStreamSink(stream.addNode('Collect', stream.schema, { role: 'sink', sink: rows.sink })).setParallelism(1)
    this.awaited ??= new AwaitedJob()
    return rowIterator(rows, this.awaited)
  }

  private async collect<T>(stream: DataStream<T>): Promise<T[]> {
    const sink = collectSink<T>()
    new DataStreamSink(stream.addNode('Collect', stream.schema, { role: 'sink', sink })).setParallelism(1)
    await this.start('Collect', executionMode(true)).result
    return sink.rows()
  }
}
