/**
 * The exactly-once sink of simulated jobs: rows wait in the engine's outbox until their epoch commits.
 *
 * Called by sim-job.ts. Its committer does what every connector's must: fence earlier owners, and apply
 * rows and marker in one transaction.
 */
import type { OutboxSegment, Sink, SinkWriterContext } from '../../contract/sink.ts'
import type { JsonValue } from '../../core/json-value.ts'
import { rowReader } from '../../core/rows.ts'
import type { SeededRandom } from './seeded-random.ts'
import type { SimExternal, SinkRow } from './sim-external.ts'
import type { SimShape } from './sim-input.ts'
import type { Scope } from './sim-scheduler.ts'

export interface SimSinkWorld {
  readonly shape: SimShape
  readonly random: SeededRandom
  readonly external: SimExternal
  /** The process whose connections it uses. */
  readonly scope: Scope
}

/** `id` names the table outside. */
export function simSink(world: SimSinkWorld, id: string): Sink {
  const { external, scope, random } = world
  return {
    kind: 'simulated',
    guarantee: 'exactly-once',
    createWriter: (context) => createWriter(world, context),
    createCommitter(context) {
      let owner = 0
      return {
        async open() {
          owner = await external.claim(scope, id)
        },
        readMarker: () => external.readMarker(scope, id),
        // Not every sink can say: the same must come out after the takeover.
        peekMarker: async () => (random.chance(0.5) ? external.readMarker(scope, id) : null),
        async commit(epoch, committables) {
          const rows: SinkRow[] = []
          for (const segment of committables as unknown as readonly OutboxSegment[]) {
            for await (const record of context.readOutbox(segment)) {
              rows.push(JSON.parse(Buffer.from(record).toString()) as SinkRow)
            }
          }
          await external.transact(scope, id, owner, epoch, rows)
        },
        async close() {},
      }
    },
  }
}

function createWriter({ shape, random }: SimSinkWorld, context: SinkWriterContext) {
  const outbox = context.createOutbox()
  const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('sink'))
  let isFull = false
  return {
    async open() {},
    write(batch: Parameters<typeof read>[0], from: number): number {
      if (isFull) return from
      let to = batch.length
      if (random.chance(shape.slowSinkRate)) {
        to = random.between(from, batch.length)
        isFull = true
        context.worker.io.timers.schedule(random.next() * 10, () => {
          isFull = false
          context.wake()
        })
      }
      for (let i = from; i < to; i++) outbox.append(Buffer.from(JSON.stringify(read(batch, i))))
      if (random.chance(0.3)) outbox.flush().catch((error: unknown) => context.fail(error))
      return to
    },
    prepareCommit: async () => (await outbox.seal()) as JsonValue | null,
    close: () => outbox.close(),
  }
}
