/**
 * The public DataStream API: everything that `import ... from 'millrace'` offers. A reviewed list;
 * test/api-surface.txt must agree with it.
 */

export type { Change } from '../../operators/changes.ts'
export type { JoinType } from '../../operators/streaming-join.ts'
export type {
  AggregateFunction,
  AggregatingState,
  AsyncFunction,
  AsyncFunctionContext,
  AsyncRequest,
  AsyncResults,
  AsyncRetryStrategy,
  BuiltInAggregate,
  CheckpointedFunction,
  CheckpointListener,
  FilterFunction,
  FilterObject,
  FlatMapFunction,
  FlatMapObject,
  FunctionInitializationContext,
  FunctionSnapshotContext,
  JobInfo,
  KeyedProcessFunction,
  KeyedStateStore,
  KeySelector,
  ListState,
  MapFunction,
  MapObject,
  MapState,
  OnTimerContext,
  OperatorStateStore,
  OutputTag,
  Partitioner,
  ProcessContext,
  ProcessFunction,
  ProcessFunctionContext,
  ProcessWindowCallback,
  ProcessWindowContext,
  ProcessWindowFunction,
  ReduceFunction,
  ReduceObject,
  ReducingState,
  RuntimeContext,
  StatefulProcessWindowContext,
  TimeDomain,
  TimerService,
  ValueState,
  WindowFunction,
} from '../contract/functions.ts'
export type {
  BroadcastContext,
  BroadcastProcessFunction,
  BroadcastReadOnlyContext,
  BroadcastState,
  CoFlatMapFunction,
  CoGroupFunction,
  CoGroupObject,
  CoMapFunction,
  CoProcessFunction,
  FlatJoinFunction,
  JoinFunction,
  KeyedBroadcastContext,
  KeyedBroadcastOnTimerContext,
  KeyedBroadcastProcessFunction,
  KeyedBroadcastReadOnlyContext,
  KeyedCoProcessFunction,
  ProcessJoinContext,
  ProcessJoinFunction,
  ReadOnlyBroadcastState,
  TaggedUnion,
} from '../contract/joint-functions.ts'
export type {
  OutboxSegment,
  OutboxWriter,
  Sink,
  SinkCommitter,
  SinkCommitterContext,
  SinkContext,
  SinkGuarantee,
  SinkWriter,
  SinkWriterContext,
} from '../contract/sink.ts'
export type {
  DeadLetter,
  Source,
  SourcePoll,
  SourceReader,
  SourceReaderContext,
  SplitEnumeratorContext,
  SplitState,
} from '../contract/source.ts'
export {
  type Evictor,
  type EvictorContext,
  MergingWindowAssigner,
  type OnMergeContext,
  type TimestampedValue,
  TimeWindow,
  Trigger,
  type TriggerContext,
  TriggerResult,
  WindowAssigner,
  type WindowAssignerContext,
} from '../contract/windows.ts'
export {
  type Accumulator,
  AverageAccumulator,
  DoubleCounter,
  DoubleMaximum,
  DoubleMinimum,
  HistogramAccumulator,
  IntCounter,
  LongCounter,
} from '../core/accumulators.ts'
export type { Batch } from '../core/batch.ts'
export { MillraceError } from '../core/errors.ts'
export type { JsonValue } from '../core/json-value.ts'
export type { Key } from '../core/keys.ts'
export { batchOfRows, type RowReader, rowReader } from '../core/rows.ts'
export { type RowOf, type Schema, schema, t } from '../core/schema.ts'
export { type Duration, days, hours, milliseconds, minutes, seconds, Time } from '../core/time.ts'
export type { Counter, Histogram, Meter, MetricGroup } from '../core/user-metrics.ts'
export type { JobExecutionResult, RestartStrategy, RunningJob, StateBackendName } from '../runtime/launcher-types.ts'
export type { JobEvent, JobStatus } from '../runtime/status.ts'
export { avg, count, max, min, sum } from './aggregates.ts'
export { AsyncDataStream, type AsyncInvoke } from './async-data-stream.ts'
export { AsyncRetryStrategies, AsyncRetryStrategyBuilder, RetryPredicates } from './async-retry-strategies.ts'
export {
  BroadcastConnectedStream,
  BroadcastStream,
  KeyedBroadcastConnectedStream,
} from './broadcast-stream.ts'
export {
  type ChangelogAggregates,
  ChangelogStream,
  type FromChangelogOptions,
  GroupedChangelog,
  type JoinOptions,
} from './changelog-stream.ts'
export { CheckpointConfig, CheckpointingMode, ExternalizedCheckpointRetention } from './checkpoint-config.ts'
export type { CloseableIterator } from './closeable-iterator.ts'
export { ConnectedStreams, KeyedConnectedStreams } from './connected-streams.ts'
export { DataStream, DataStreamSink, KeyedStream, SingleOutputStreamOperator } from './data-stream.ts'
export { StreamExecutionEnvironment } from './environment.ts'
export { CountEvictor, DeltaEvictor, TimeEvictor } from './evictors.ts'
export type { ExecuteOptions } from './execution.ts'
export type { SinkFunction, SinkObject } from './function-sink.ts'
export { IntervalJoin, IntervalJoined } from './interval-join.ts'
export { type BuiltJob, JobDefinition, job } from './job-definition.ts'
export {
  CoGroupedStreams,
  type EqualTo,
  type InWindow,
  JoinedStreams,
  WindowedCoGroup,
  WindowedJoin,
} from './joined-streams.ts'
export { outputTag } from './output-tag.ts'
export { perSubtask } from './per-subtask.ts'
export { type ExponentialDelayOptions, RestartStrategies } from './restart-strategies.ts'
export {
  RichCoFlatMapFunction,
  RichCoGroupFunction,
  RichCoMapFunction,
  RichFilterFunction,
  RichFlatJoinFunction,
  RichFlatMapFunction,
  RichJoinFunction,
  RichMapFunction,
  RichReduceFunction,
  RichSinkFunction,
} from './rich-functions.ts'
export { RuntimeExecutionMode } from './runtime-mode.ts'
export {
  AggregatingStateDescriptor,
  ListStateDescriptor,
  MapStateDescriptor,
  ReducingStateDescriptor,
  type StateOptions,
  ValueStateDescriptor,
} from './state-descriptors.ts'
export { StateTtlConfig, type StateTtlConfigBuilder } from './state-ttl-config.ts'
export { BoundedOutOfOrdernessTimestampExtractor } from './timestamp-extractor.ts'
export {
  ContinuousEventTimeTrigger,
  ContinuousProcessingTimeTrigger,
  CountTrigger,
  type DeltaFunction,
  DeltaTrigger,
  EventTimeTrigger,
  NeverTrigger,
  ProcessingTimeTrigger,
  PurgingTrigger,
} from './triggers.ts'
export type { WatermarkGenerator, WatermarkOutput } from './watermark-generators.ts'
export { type TimestampAssigner, WatermarkStrategy } from './watermark-strategy.ts'
export {
  CumulativeEventTimeWindows,
  EventTimeSessionWindows,
  GlobalWindows,
  ProcessingTimeSessionWindows,
  type SessionWindowTimeGapExtractor,
  SlidingEventTimeWindows,
  SlidingProcessingTimeWindows,
  TumblingEventTimeWindows,
  TumblingProcessingTimeWindows,
  type WindowAlignment,
} from './window-assigners.ts'
export { AllWindowedStream, WindowedStream } from './windowed-stream.ts'
