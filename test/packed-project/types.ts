/**
 * For test/packed-install.ts: compiled and never run. What is right compiles, what is wrong does not.
 */
import { type DataStream, StreamExecutionEnvironment } from 'millrace'
import { SeededRandom } from 'millrace/testing'

const rows = StreamExecutionEnvironment.createEnvironment().fromElements({ page: 'a', clicks: 1 })
rows.keyBy('page')
// @ts-expect-error there is no such field
rows.keyBy('pagee')
export const clicks: DataStream<number> = rows.map((row) => row.clicks)
// @ts-expect-error clicks are numbers
export const words: DataStream<string> = rows.map((row) => row.clicks)
export const random = new SeededRandom(1)
