/**
 * Rich functions: `open` and `close`, metrics and accumulators. A metric is looked at while the job runs (under
 * `/metrics` as `millrace_user_bad_lines`); an accumulator is merged over all subtasks into the job's result.
 *
 * Reach for one when a function needs something made once for each subtask, or must be observed. Each subtask runs a copy
 * of the instance. `perSubtask` makes one for each instead, also of a plain function that keeps something of its own.
 */
import { type Counter, RichFlatMapFunction, type RuntimeContext, StreamExecutionEnvironment } from 'millrace'

const lines = ['12', '7', 'seven', '', '30']

class ParseNumbers extends RichFlatMapFunction<string, number> {
  private badLines!: Counter

  override open(context: RuntimeContext): void {
    this.badLines = context.metricGroup.counter('bad_lines')
    context.getIntCounter('bad lines')
  }

  flatMap(line: string): number[] {
    const number = Number(line)
    if (line !== '' && Number.isFinite(number)) return [number]
    this.badLines.inc()
    this.getRuntimeContext().getIntCounter('bad lines').add(1)
    return []
  }
}

const env = StreamExecutionEnvironment.getExecutionEnvironment()
env.fromCollection(lines).flatMap(new ParseNumbers()).print()
const result = await env.execute('parse numbers')
console.log(`${result.getAccumulatorResult('bad lines')} lines could not be parsed`)

/* prints:
12
7
30
2 lines could not be parsed
*/
