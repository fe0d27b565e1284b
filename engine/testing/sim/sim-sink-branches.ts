/**
 * Parts of simulated jobs whose sinks hold rows back in state of their own: a writer of an exactly-once sink, and a
 * sink function, which is at-least-once whatever the job is.
 */
import {
  type FunctionInitializationContext,
  type ListState,
  ListStateDescriptor,
  perSubtask,
  type SinkObject,
} from '../../api/index.ts'
import type { Branch } from './sim-branch.ts'
import type { InputRow, SimShape } from './sim-input.ts'

const heldMax = ({ countSize }: SimShape): number => 2 * countSize

/** Rows that a writer holds back over checkpoints, and never for good. */
export const held: Branch = {
  sources: 1,
  mayRepeat: true,
  build({ shape, streams, sink }) {
    sink(
      streams[0]!.rebalance().map(({ id }) => ({ id })),
      'held',
      heldMax(shape),
    )
  },
  check(results) {
    const ids = results.rows(0).map(({ id }) => String(id))
    results.same('rows', ids, results.texts('held', ['id']))
  },
}

type Put = (ids: readonly number[]) => Promise<void>

/** Gives rows away in portions; what has not come to one is operator state. */
class Portions implements SinkObject<InputRow> {
  private waiting: number[] = []
  private saved!: ListState<number>
  private readonly size: number
  private readonly put: Put

  constructor(size: number, put: Put) {
    this.size = size
    this.put = put
  }

  initializeState({ operatorStateStore }: FunctionInitializationContext): void {
    this.saved = operatorStateStore.getListState(new ListStateDescriptor<number>('waiting'))
    this.waiting = [...this.saved.get()]
  }

  snapshotState(): void {
    this.saved.update(this.waiting)
  }

  invoke({ id }: InputRow): void | Promise<void> {
    this.waiting.push(id)
    return this.waiting.length < this.size ? undefined : this.giveAway()
  }

  finish(): Promise<void> {
    return this.giveAway()
  }

  private giveAway(): Promise<void> {
    const ids = this.waiting
    this.waiting = []
    return this.put(ids)
  }
}

/** Rows that a sink function writes outside by itself: none is lost, and after a failure some come again. */
export const portioned: Branch = {
  sources: 1,
  mayRepeat: true,
  isAtLeastOnce: true,
  build({ shape, streams, put }) {
    const give: Put = (ids) =>
      put(
        'portioned',
        ids.map((id) => ({ id })),
      )
    streams[0]!
      .rebalance()
      .addSink(perSubtask(() => new Portions(shape.countSize, give)))
      .uid('portioned')
  },
  check(results) {
    const ids = results.rows(0).map(({ id }) => String(id))
    results.same('rows', ids, results.texts('portioned', ['id']))
  },
}
