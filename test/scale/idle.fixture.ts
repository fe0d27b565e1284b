/**
 * A job that waits for records, for test/scale/idle.test.ts, which runs it as a program: words of a socket, of which each
 * sets a timer that is due in a day. Settings: `port` of the socket.
 */
import { socketSource } from '../../connectors/socket/index.ts'
import { job, type KeyedProcessFunction, type ProcessContext } from '../../engine/api/index.ts'

const DAY_MS = 86_400_000

class Remember implements KeyedProcessFunction<string, string, string> {
  processElement(word: string, { timerService }: ProcessContext<string>, collect: (word: string) => void): void {
    timerService.registerProcessingTimeTimer(timerService.currentProcessingTime() + DAY_MS)
    collect(`heard ${word}`)
  }

  onTimer(): void {
    throw new Error('this is a day off')
  }
}

export default job('idle', (env) => {
  env.setParallelism(2)
  env
    .fromSource(socketSource({ host: '127.0.0.1', port: Number(env.config['port']) }))
    .keyBy((word) => word)
    .process(new Remember())
    .print()
})
