/**
 * Operators of two inputs in the graph. Used by the streams of two inputs.
 */
import { MillraceError } from '../core/errors.ts'
import type { Schema } from '../core/schema.ts'
import { type DataStream, SingleOutputStreamOperator } from './data-stream.ts'
import type { Transformation, Upstream } from './graph-builder.ts'
import type { OperatorFactory } from './operators.ts'

/** Anything that edges can come from. */
export type JointInput = Pick<DataStream<unknown>, 'home' | 'upstreams'>

/**
 * Edges from both streams, the first into input 0 and the second into input 1. Throws `STREAMS_UNRELATED` for streams
 * of different environments.
 */
export function jointInputs(first: JointInput, second: JointInput): Upstream[] {
  if (first.home.builder !== second.home.builder) {
    throw new MillraceError('STREAMS_UNRELATED', 'Streams of different environments cannot meet in one operator.', {
      hint: 'Make both from the same StreamExecutionEnvironment.',
    })
  }
  return [...first.upstreams, ...second.upstreams.map((upstream) => ({ ...upstream, input: 1 }))]
}

export interface JointOperator<R> {
  readonly name: string
  readonly outputSchema: Schema<R>
  readonly isKeyed: boolean
  readonly create: OperatorFactory
}

/** Adds an operator that reads both streams. */
export function addJoint<R>(
  first: JointInput,
  second: JointInput,
  { name, outputSchema, isKeyed, create }: JointOperator<R>,
): { stream: SingleOutputStreamOperator<R>; node: Transformation } {
  const node = first.home.builder.add({
    name,
    outputSchema,
    inputs: jointInputs(first, second),
    body: { role: 'operator', isKeyed, create },
  })
  return { stream: new SingleOutputStreamOperator<R>(first.home, node, outputSchema), node }
}
