/**
 * The exactly-once sink of simulated jobs: rows wait in the engine's outbox until their epoch commits.
 *
 * Called by sim-job.ts. Its committer does what every connector's must: fence earlier owners, and apply
 * rows and marker in one transaction. A writer may hold rows back, which are its state then.
 */
import type { OutboxSegment, Sink, SinkWriter, SinkWriterContext } from '../../contract/sink.ts'
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

/** `id` names the table outside; writers hold up to `heldMax` rows back. */
export function simSink(world: SimSinkWorld, id: string, heldMax: number): Sink {
  const { external, scope, random } = world
  return {
    kind: 'simulated',
    guarantee: 'exactly-once',
    createWriter: (context) => createWriter(world, heldMax, context),
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

/** Rows that writers held back, of any number of them: each to one. */
function heldBefore({ restored, subtask, parallelism }: SinkWriterContext): string[] {
  return restored.flatMap((state, old) => (old % parallelism === subtask ? (state as string[]) : []))
}

function createWriter({ shape, random }: SimSinkWorld, heldMax: number, context: SinkWriterContext): SinkWriter {
  const outbox = context.createOutbox()
  const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('sink'))
  let isFull = false
  const held = heldMax === 0 ? [] : heldBefore(context)
  const release = (count: number): void => {
    for (const row of held.splice(0, count)) outbox.append(Buffer.from(row))
  }
  return {
    async open() {},
    write(batch, from) {
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
      for (let i = from; i < to; i++) held.push(JSON.stringify(read(batch, i)))
      release(held.length - heldMax)
      if (random.chance(0.3)) outbox.flush().catch((error: unknown) => context.fail(error))
      return to
    },
    ...(heldMax === 0 ? {} : { endInput: () => release(held.length), snapshotState: () => [...held] }),
    prepareCommit: async () => (await outbox.seal()) as JsonValue | null,
    close: () => outbox.close(),
  }
}
