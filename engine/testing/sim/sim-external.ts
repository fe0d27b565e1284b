/**
 * An outside system that takes exactly-once output in transactions: rows and marker in one atomic step.
 *
 * Used by sim-job.ts. It outlives the processes. Like a real one it may lose a reply: a transaction may be
 * applied and then report an error, or be refused before; one under way at a crash may still be applied
 * afterwards, unless a new owner has fenced it off first.
 */
import { MillraceError } from '../../core/errors.ts'
import type { SeededRandom } from './seeded-random.ts'
import { Scope, type SimScheduler } from './sim-scheduler.ts'

export interface SinkRow {
  readonly [field: string]: string | number
}

export interface ExternalSink {
  readonly rows: SinkRow[]
  marker: number
  owner: number
}

export interface ExternalFaults {
  /** Plants a fault: transactions do not look at the marker. */
  readonly ignoresMarker?: boolean
}

export class SimExternal {
  /** Share of transactions that fail, before or after they were applied. */
  errorRate = 0
  /** Told of each applied epoch. */
  onApplied: (sink: string, epoch: number, markerBefore: number) => void = () => {}
  readonly sinks = new Map<string, ExternalSink>()
  private readonly scope = new Scope('external', null)
  private readonly scheduler: SimScheduler
  private readonly random: SeededRandom
  private readonly faults: ExternalFaults

  constructor(scheduler: SimScheduler, random: SeededRandom, faults: ExternalFaults = {}) {
    this.scheduler = scheduler
    this.random = random
    this.faults = faults
  }

  sink(id: string): ExternalSink {
    let sink = this.sinks.get(id)
    if (sink === undefined) {
      sink = { rows: [], marker: 0, owner: 0 }
      this.sinks.set(id, sink)
    }
    return sink
  }

  /** Becomes the owner: transactions of earlier owners fail from now on. Returns the owner's number. */
  claim(caller: Scope, id: string): Promise<number> {
    // The connection of a dead process is closed, and its request with it; only transactions outlive it.
    return this.call(caller, `claim ${id}`, () => (caller.alive ? ++this.sink(id).owner : 0))
  }

  readMarker(caller: Scope, id: string): Promise<number> {
    return this.call(caller, `marker ${id}`, () => this.sink(id).marker)
  }

  /** Adds the rows and sets the marker, unless the marker is there already. */
  transact(caller: Scope, id: string, owner: number, epoch: number, rows: readonly SinkRow[]): Promise<void> {
    const failure = this.random.chance(this.errorRate) ? (this.random.chance(0.5) ? 'before' : 'after') : 'none'
    return this.call(caller, `transact ${id} ${epoch} ${failure}`, () => {
      const sink = this.sink(id)
      if (sink.owner !== owner) {
        throw new MillraceError('SINK_FENCED', `Another owner has sink ${id}.`, { domain: 'external' })
      }
      if (failure === 'before') throw new Error('the transaction was refused')
      if (epoch > sink.marker || this.faults.ignoresMarker) {
        const before = sink.marker
        sink.rows.push(...rows)
        sink.marker = epoch
        this.onApplied(id, epoch, before)
      }
      if (failure === 'after') throw new Error('the reply to the transaction was lost')
    })
  }

  private call<T>(caller: Scope, label: string, effect: () => T): Promise<T> {
    const delayMs = this.random.next() * (this.random.chance(0.1) ? 60 : 3)
    return new Promise((resolve, reject) => {
      const run = (): void => {
        try {
          const value = effect()
          if (caller.alive) resolve(value)
        } catch (error) {
          if (caller.alive) reject(error)
        }
      }
      this.scheduler.post(this.scope, `external ${label}`, run, { delayMs })
    })
  }
}
