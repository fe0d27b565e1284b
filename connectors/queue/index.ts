/** Sources fed by the program that runs the job: a queue, or any async iterable. */
export { fromAsyncIterable, type QueueOptions, type QueueSource, queueSource } from './queue-source.ts'
