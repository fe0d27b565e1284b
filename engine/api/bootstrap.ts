/**
 * State for an operator that no job has run yet, made by running that operator over rows: what Flink's
 * OperatorTransformation is for. Given to `SavepointWriter.withOperator`.
 *
 *     const path = await SavepointWriter.newSavepoint()
 *       .withOperator('visits', bootstrapWith((env) =>
 *         env.fromCollection(rows).keyBy('user').process(new BootstrapVisits())))
 *       .write('bootstrapped')
 *
 * The rows go through the very operators of the API, so every kind of state can be made: values, lists and maps with
 * times to live, timers, windows. Invariants: nothing fires; what the operator emits goes nowhere; state has the layout
 * that the job will look for, as long as its descriptors (and its windows) are the same.
 */
import type { GraphNode, JobGraph } from '../contract/job-graph.ts'
import type { Operator, OperatorContext } from '../contract/operator.ts'
import { MillraceError } from '../core/errors.ts'
import { launchJob } from '../runtime/launcher.ts'
import type { BootstrapTarget, OperatorBootstrap } from '../runtime/savepoint-writer.ts'
import type { SingleOutputStreamOperator } from './data-stream.ts'
import { StreamExecutionEnvironment } from './environment.ts'
import { checkUid } from './graph-builder.ts'
import { toJobOptions } from './job-settings.ts'
import { parseRunFlags } from './run-flags.ts'

/**
 * `declare` builds a bounded job and returns the operator whose state is wanted, for example `stream.keyBy(...)
 * .process(fn)`: `fn` puts into state what it is called with, and may set timers of both kinds. They and windows do not
 * fire now, whatever the watermark. Names and versions of states must be those of the job that will restore them.
 */
export function bootstrapWith(
  declare: (env: StreamExecutionEnvironment) => SingleOutputStreamOperator<unknown>,
): OperatorBootstrap {
  return {
    async run(uid, target) {
      const env = StreamExecutionEnvironment.createEnvironment()
      env.setParallelism(1).setMaxParallelism(target.keyGroups).setStateBackend(target.stateBackend)
      const operator = declare(env).uid(checkUid(uid))
      operator.addSink(() => {})
      await runBounded(uid, env, target)
    },
  }
}

async function runBounded(uid: string, env: StreamExecutionEnvironment, target: BootstrapTarget): Promise<void> {
  const settings = { ...env.getSettings(), checkpointDirectory: target.directory }
  const [endless] = settings.unboundedSources
  if (endless !== undefined) {
    throw new MillraceError('BOOTSTRAP_UNBOUNDED', `The source "${endless}" never ends, so its state is never done.`, {
      hint: 'Bootstrap from bounded sources.',
    })
  }
  const flags = parseRunFlags([])
  const options = toJobOptions(`bootstrap ${uid}`, settings, flags, { workers: 0, moduleUrl: null }, () => {})
  const job = await launchJob(withSilentOperator(env.getGraph(), uid), options)
  await job.done
}

/** The graph with an operator in which nothing fires. */
function withSilentOperator(graph: JobGraph, uid: string): JobGraph {
  const nodes = graph.nodes.map((node): GraphNode => {
    if (node.uid !== uid) return node
    if (node.role === 'operator') return { ...node, create: () => silenced(node.create()) }
    throw new MillraceError('BOOTSTRAP_INVALID', `The ${node.role} "${node.name}" keeps no state to bootstrap.`, {
      hint: 'Return the stateful operator, for example stream.keyBy(...).process(fn).',
    })
  })
  return { nodes, edges: graph.edges }
}

function silenced(operator: Operator): Operator {
  const open = operator.open.bind(operator)
  operator.open = (context) => open(withoutSchedule(context))
  operator.advanceWatermark = () => true
  operator.onProcessingTime = () => true
  return operator
}

/** Over the context, whose properties may be computed when they are asked for. */
function withoutSchedule(context: OperatorContext): OperatorContext {
  return Object.create(context, { scheduleProcessingTime: { value: () => {} } }) as OperatorContext
}
