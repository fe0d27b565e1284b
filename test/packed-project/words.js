/**
 * For test/packed-install.ts: a JavaScript job that calls `execute` at its top level.
 */
import { StreamExecutionEnvironment } from 'millrace'

const env = StreamExecutionEnvironment.getExecutionEnvironment()
env
  .fromElements('to be', 'or not', 'to be')
  .flatMap((line) => line.split(' '))
  .map((word) => ({ word, times: 1 }))
  .keyBy((row) => row.word)
  .reduce((a, b) => ({ word: a.word, times: a.times + b.times }))
  .map((row) => `${row.word} ${row.times}`)
  .print()
const result = await env.execute('words')
process.stdout.write(`read ${result.recordsIn} records\n`)
