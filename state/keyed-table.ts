/**
 * One declared table: its segments by namespace, and the dropped ones the store has yet to hear of.
 *
 * Made by keyed-backend.ts; operators see it as `StateTable`. Invariants:
 * - A namespace whose deletion the store has not heard of is recreated as a complete segment, so stale
 *   stored entries are never read.
 * - Deletions are kept until a write or a settled checkpoint carried them.
 */
import type { StateSegment, StateTable, TableDeclaration } from '../engine/contract/keyed-state.ts'
import { assert } from '../engine/core/assert.ts'
import { keyPrefix, prefixEnd, setKeyGroup, type WriteBatchBuilder } from './keyed-layout.ts'
import { Segment, type SegmentShared } from './keyed-segment.ts'

export class Table implements StateTable {
  readonly declaration: TableDeclaration
  readonly shared: SegmentShared
  readonly segments = new Map<number, Segment>()
  /** Dropped segments whose keys the store may hold. */
  private dropped: Segment[] = []
  /** Dropped segments in the cut of a checkpoint that is not settled. */
  private droppedCaptured: Segment[] = []
  /** Namespaces to delete whole, because not all their keys are known. */
  private ranges: number[] = []
  /** The segment used last: most tables are asked for one namespace again and again. */
  private recent: Segment | null = null

  constructor(declaration: TableDeclaration, shared: SegmentShared) {
    this.declaration = declaration
    this.shared = shared
  }

  segment(namespace: number): StateSegment {
    if (this.recent !== null && this.recent.namespace === namespace) return this.recent
    return this.segmentOf(namespace, true)
  }

  /** The segment of a namespace, created as complete or not when absent. */
  segmentOf(namespace: number, complete: boolean): Segment {
    assert(!Number.isNaN(namespace), 'a namespace is a number')
    let segment = this.segments.get(namespace)
    if (segment === undefined) {
      segment = new Segment(namespace, this.shared, complete)
      this.segments.set(namespace, segment)
    }
    this.recent = segment
    return segment
  }

  existing(namespace: number): StateSegment | null {
    return this.segments.get(namespace) ?? null
  }

  namespaces(): number[] {
    return [...this.segments.keys()].sort((a, b) => a - b)
  }

  drop(namespace: number): void {
    const segment = this.segments.get(namespace)
    if (segment === undefined) return
    this.segments.delete(namespace)
    if (this.recent === segment) this.recent = null
    if (!segment.complete) {
      this.ranges.push(segment.namespace)
      segment.dispose()
    } else if (segment.persistedAny()) {
      segment.release()
      this.dropped.push(segment)
    } else {
      segment.dispose()
    }
  }

  /**
   * Appends the deletes of dropped segments and applies whole-namespace deletions to the store. Comes
   * before the changes of segments, which may put the same keys again.
   */
  captureDeletions(into: WriteBatchBuilder, isCut: boolean): void {
    for (const namespace of this.ranges) this.deleteNamespace(namespace)
    this.ranges = []
    this.dropped.forEach((segment, i) => {
      const successors = this.dropped.slice(i + 1).filter((later) => later.namespace === segment.namespace)
      const current = this.segments.get(segment.namespace)
      if (current !== undefined) successors.push(current)
      segment.captureDeletes(into, successors)
    })
    if (isCut) this.droppedCaptured.push(...this.dropped)
    else for (const segment of this.dropped) segment.dispose()
    this.dropped = []
  }

  /** True while memory holds keys only to delete them from the store. */
  get deletionsWait(): boolean {
    return this.dropped.length > 0
  }

  private deleteNamespace(namespace: number): void {
    const prefix = keyPrefix(this.shared.operatorId, this.shared.stateId, namespace)
    for (let group = this.shared.keyGroups.from; group < this.shared.keyGroups.to; group++) {
      setKeyGroup(prefix, group)
      const end = prefixEnd(prefix)
      assert(end !== null, 'a namespace has a successor')
      this.shared.store.deleteRange(prefix, end)
    }
  }

  settle(succeeded: boolean): void {
    if (succeeded) for (const segment of this.droppedCaptured) segment.dispose()
    else this.dropped = [...this.droppedCaptured, ...this.dropped]
    this.droppedCaptured = []
    for (const segment of this.segments.values()) segment.settle(succeeded)
  }
}
