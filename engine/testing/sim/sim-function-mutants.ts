/**
 * Bugs of what serves users' functions, which the simulator must find: of states that a function rewrites, of windows
 * that keep their rows, of requests, of state of sinks, of batch execution and of watermark alignment. See
 * sim-mutants.ts, which runs them.
 *
 * Each is planted where it could be made: in a method of a class of the engine, or between an operator and its context.
 */

import { KeyedList } from '../../../operators/list-state.ts'
import { ElementPieces } from '../../../operators/window-elements.ts'
import { ElementsKeeper } from '../../../operators/window-keepers.ts'
import type { KeyWindows, WindowRecord } from '../../../operators/window-records.ts'
import { WindowStates } from '../../../operators/window-state.ts'
import { KeyedBackend } from '../../../state/keyed-backend.ts'
import { Segment } from '../../../state/keyed-segment.ts'
import type { ValueCodec } from '../../contract/keyed-state.ts'
import type { OperatorContext } from '../../contract/operator.ts'
import type { SourceReader } from '../../contract/source.ts'
import type { Timers } from '../../core/io.ts'
import { AlignmentBoard } from '../../runtime/watermark-alignment.ts'
import type { BranchName } from './sim-branches.ts'
import type { SimShape } from './sim-input.ts'
import { type Mutant, replaceMethod } from './sim-plant.ts'
import { changeNodes, changeOperators, changeSinks, changeTables, contextWith } from './sim-plant-parts.ts'

/** A job of one part, over as many sources as any needs. */
const only =
  (name: BranchName, change: Partial<SimShape> = {}) =>
  (shape: SimShape): SimShape => ({
    ...shape,
    branches: [name],
    splits: [shape.splits[0]!, shape.splits[1] ?? 2],
    hasQuietSplit: false,
    isAtLeastOnce: false,
    ...change,
  })

const DRIFT_MS = 20

/** Sources that have to wait for each other. */
const aligned = (shape: SimShape): SimShape => ({
  ...shape,
  driftMs: DRIFT_MS,
  idleAfterMs: null,
  discovery: null,
  hasQuietSplit: false,
  isBatch: false,
  pausesSplits: true,
})

/** Of the windows of a key: states of the windows' functions are gone from what is read from bytes. */
function windowsWithoutState(codec: ValueCodec): ValueCodec {
  const stateNames = ({ states }: WindowRecord): string[] => {
    const names: string[] = []
    for (let kept = states; kept !== null; kept = kept.next) names.push(kept.name)
    return names
  }
  return {
    ...codec,
    decode(bytes, start, end) {
      const windows = codec.decode(bytes, start, end) as KeyWindows
      for (const record of windows.records) {
        for (const name of stateNames(record)) if (name.startsWith('window.')) record.deleteState(name)
      }
      return windows
    },
  }
}

/** Nothing is scheduled while an operator opens. */
function timersAfterOpening(context: OperatorContext): OperatorContext {
  let isOpening = true
  queueMicrotask(() => {
    isOpening = false
  })
  return contextWith(context, {
    worker: () => {
      const { worker } = context
      const timers: Timers = {
        schedule: (delayMs, task) => (isOpening ? () => {} : worker.io.timers.schedule(delayMs, task)),
      }
      return Object.create(worker, { io: { value: { ...worker.io, timers } } }) as OperatorContext['worker']
    },
  })
}

/** A reader that never reads on what it was once told to stop reading. */
function pausesForEver(reader: SourceReader): SourceReader {
  const { pauseSplits } = reader
  const all = new Set<string>()
  if (pauseSplits === undefined) return reader
  return Object.assign(reader, {
    pauseSplits(splits: ReadonlySet<string>) {
      for (const id of splits) all.add(id)
      pauseSplits(all)
    },
  })
}

export const FUNCTION_MUTANTS = {
  'cleared-map-comes-back': {
    what: 'clearing a map forgets what memory has of it, and not what the store has',
    plant: () => ({
      shape: only('mapped', { stateMemoryBytes: 1 << 10 }),
      patch: () => replaceMethod(Segment.prototype, 'noteCleared', () => () => {}),
    }),
  },
  'list-rewritten-from-nothing': {
    what: 'a list is emptied before what replaces it was read, which may come from the list',
    plant: () => ({
      patch: () =>
        replaceMethod(
          KeyedList.prototype,
          'update',
          () =>
            function update(this: KeyedList, values: Iterable<unknown>) {
              this.clear()
              this.addAll(values)
            },
        ),
    }),
  },
  'evicted-come-back': {
    what: 'what an evictor takes from a window is there again at the next firing',
    plant: () => ({ patch: () => replaceMethod(ElementsKeeper.prototype, 'retain', () => () => {}) }),
  },
  'windows-share-pieces': {
    what: 'rows of two windows of a key are kept under one name',
    plant: () => ({
      shape: only('met', { rowsPerSplit: 30, keys: 1, windowStepMs: 15, disorderMs: 0 }),
      patch: () =>
        replaceMethod(
          ElementPieces.prototype,
          'spill',
          (spill) =>
            function shared(this: ElementPieces, elements) {
              spill.call(this, elements, 0)
            },
        ),
    }),
  },
  'window-state-forgotten': {
    what: 'states that a function keeps for a window are not restored',
    plant: () => ({
      graph: (graph) =>
        changeOperators(graph, {
          of: /^fired/,
          context: (context) =>
            changeTables(context, (declaration) => {
              const { layout, name } = declaration
              if (name !== '$windows' || layout.kind !== 'object') return declaration
              return { ...declaration, layout: { ...layout, codec: windowsWithoutState(layout.codec) } }
            }),
        }),
    }),
  },
  'merged-states-lost': {
    what: 'of windows that merge one keeps what its trigger counted, the others do not',
    plant: () => ({
      patch: () =>
        replaceMethod(
          WindowStates.prototype,
          'merge',
          (merge) =>
            function first(this: WindowStates, descriptor, from) {
              merge.call(this, descriptor, from.slice(0, 1))
            },
        ),
    }),
  },
  'time-outs-forgotten': {
    what: 'requests that were restored are never given up',
    plant: () => ({
      shape: only('retried', { requestTimeoutMs: 80 }),
      graph: (graph) => changeOperators(graph, { of: /^retried/, context: timersAfterOpening }),
    }),
  },
  'writer-state-forgotten': {
    what: 'what a writer held back at a checkpoint is not restored',
    plant: () => ({
      graph: (graph) => changeSinks(graph, { context: (context) => ({ ...context, restored: [] }) }),
    }),
  },
  'writer-state-twice': {
    what: 'what a sink function held back is restored twice, after a power cut, when rows may repeat anyway',
    plant: () => ({
      shape: only('portioned', { isBatch: false }),
      faults: (faults) => faults.filter(({ kind }) => kind === 'crash'),
      graph: (graph) =>
        changeSinks(graph, {
          context: (context) => ({ ...context, restored: [...context.restored, ...context.restored] }),
        }),
    }),
  },
  'calls-not-awaited': {
    what: 'a checkpoint does not wait for what a sink function has under way',
    plant: () => ({
      shape: only('portioned'),
      graph: (graph) =>
        changeNodes(graph, {
          sink: (node) => {
            if (node.sink.kind !== 'function') return node
            const createWriter: typeof node.sink.createWriter = (context) =>
              Object.assign(node.sink.createWriter(context), { prepareCommit: async () => null })
            return { ...node, sink: { ...node.sink, createWriter } }
          },
        }),
    }),
  },
  'state-outlives-key': {
    what: 'in batch execution a key begins with the state of the one before',
    plant: () => ({
      shape: only('reduced', { isBatch: true, driftMs: null }),
      patch: () => replaceMethod(KeyedBackend.prototype, 'clear', () => () => {}),
    }),
  },
  'drift-too-wide': {
    what: 'sources that are aligned read further ahead of the slowest than they may',
    plant: () => ({
      shape: aligned,
      patch: () =>
        replaceMethod(
          AlignmentBoard.prototype,
          'report',
          (report) =>
            function wider(this: AlignmentBoard, reports) {
              return report
                .call(this, reports)
                .map(({ group, watermark }) => ({ group, watermark: watermark + 2 * DRIFT_MS }))
            },
        ),
    }),
  },
  'paused-for-ever': {
    what: 'a split that was too far ahead is not read on when the others have come as far',
    plant: () => ({
      shape: aligned,
      graph: (graph) =>
        changeNodes(graph, {
          source: (node) => ({
            ...node,
            source: { ...node.source, createReader: (context) => pausesForEver(node.source.createReader(context)) },
          }),
        }),
    }),
  },
} as const satisfies Record<string, Mutant>
