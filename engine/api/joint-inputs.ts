/**
 * Two streams as the inputs of one operator. Used by the streams of two inputs.
 */
import { MillraceError } from '../core/errors.ts'
import type { DataStream } from './data-stream.ts'
import type { Upstream } from './graph-builder.ts'

type Input = Pick<DataStream<unknown>, 'home' | 'upstreams'>

/**
 * Edges from both streams, the first into input 0 and the second into input 1. Throws `STREAMS_UNRELATED` for streams
 * of different environments.
 */
export function jointInputs(first: Input, second: Input): Upstream[] {
  if (first.home.builder !== second.home.builder) {
    throw new MillraceError('STREAMS_UNRELATED', 'Streams of different environments cannot meet in one operator.', {
      hint: 'Make both from the same StreamExecutionEnvironment.',
    })
  }
  return [...first.upstreams, ...second.upstreams.map((upstream) => ({ ...upstream, input: 1 }))]
}
