/** Assertions about types, and a stream to make them about. For the tests of what the compiler infers. */
import { type DataStream, type KeyedStream, StreamExecutionEnvironment, schema, t } from './index.ts'

/** `true` when both are the same type. */
export type Equal<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false
/** Does nothing; its type parameter must be `true`. */
export function check<_T extends true>(): void {}
export type Element<S> = S extends DataStream<infer T> ? T : never
export type KeyOf<S> = S extends KeyedStream<infer _, infer K> ? K : never
export type Flat<T> = { [F in keyof T]: T[F] }

const FLIGHTS = schema({
  origin: t.string(),
  date: t.timestamp(),
  delay: t.nullable(t.float64()),
  distance: t.float64(),
  big: t.int64(),
  extra: t.json<{ carrier: string }>(),
})
export const flights = () =>
  StreamExecutionEnvironment.createEnvironment().fromCollection(
    [{ origin: 'LAX', date: 0, delay: 1 as number | null, distance: 2, big: 3n, extra: { carrier: 'AA' } }],
    { schema: FLIGHTS },
  )
