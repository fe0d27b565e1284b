/**
 * An outside system that takes exactly-once output in transactions: rows and marker in one atomic step.
 *
 * Used by sim-sink.ts. It outlives the processes. Like a real one it may refuse a request, lose a reply,
 * answer that it failed and apply the transaction later all the same, or apply one after the process that
 * sent it has died; unless a new owner has fenced it off first.
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
  /** Plants a fault: transactions do not look at the owner. */
  readonly ignoresOwner?: boolean
}

/** How a transaction may go wrong. */
type Outcome = 'fine' | 'refused' | 'reply-lost' | 'late'

/** A transaction that was answered with a time-out may still be applied this much later. */
const LATE_MS_MAX = 120

export class SimExternal {
  /** Share of requests that fail, before or after they had their effect. */
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
    const outcome: Outcome = this.random.chance(this.errorRate)
      ? this.random.pick(['refused', 'reply-lost', 'late'])
      : 'fine'
    const label = `transact ${id} ${epoch} ${outcome}`
    return this.call(caller, label, () => {
      if (outcome === 'refused') throw new Error('the transaction was refused')
      if (outcome === 'late') {
        const apply = (): void => {
          if (this.owns(id, owner)) this.apply(id, epoch, rows)
        }
        this.scheduler.post(this.scope, `late ${label}`, apply, { delayMs: this.random.next() * LATE_MS_MAX })
        throw new Error('no reply to the transaction')
      }
      if (!this.owns(id, owner)) {
        throw new MillraceError('SINK_FENCED', `Another owner has sink ${id}.`, { domain: 'external' })
      }
      this.apply(id, epoch, rows)
      if (outcome === 'reply-lost') throw new Error('the reply to the transaction was lost')
    })
  }

  /** Adds rows as they come, whoever sent them. */
  put(caller: Scope, id: string, rows: readonly SinkRow[]): Promise<void> {
    const outcome: Outcome = this.random.chance(this.errorRate) ? this.random.pick(['refused', 'reply-lost']) : 'fine'
    return this.call(caller, `put ${id} ${outcome}`, () => {
      if (outcome === 'refused') throw new Error('simulated, rows were refused')
      this.sink(id).rows.push(...rows)
      if (outcome === 'reply-lost') throw new Error('simulated, the reply was lost')
    })
  }

  private owns(id: string, owner: number): boolean {
    return this.sink(id).owner === owner || this.faults.ignoresOwner === true
  }

  private apply(id: string, epoch: number, rows: readonly SinkRow[]): void {
    const sink = this.sink(id)
    if (epoch <= sink.marker && this.faults.ignoresMarker !== true) return
    const before = sink.marker
    sink.rows.push(...rows)
    sink.marker = epoch
    this.onApplied(id, epoch, before)
  }

  /** The effect happens outside, whatever becomes of the caller; the reply waits for it to run. */
  private call<T>(caller: Scope, label: string, effect: () => T): Promise<T> {
    const delayMs = this.random.next() * (this.random.chance(0.1) ? 60 : 3)
    return new Promise((resolve, reject) => {
      const run = (): void => {
        let reply: () => void
        try {
          const value = effect()
          reply = () => resolve(value)
        } catch (error) {
          reply = () => reject(error)
        }
        this.scheduler.post(caller, `reply to ${label}`, reply)
      }
      this.scheduler.post(this.scope, `external ${label}`, run, { delayMs })
    })
  }
}
