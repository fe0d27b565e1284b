/**
 * Bugs of single parts of the engine that the simulator must find: of what reads damaged files, of timers and state
 * that go by the clock, of sources, of operators with several inputs, of spilling. See sim-mutants.ts, which runs them.
 */
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Manifest } from '../../checkpoint/manifest.ts'
import type { GraphEdge, JobGraph } from '../../contract/job-graph.ts'
import type { ValueCodec } from '../../contract/keyed-state.ts'
import type { WriteBatch } from '../../contract/keyed-store.ts'
import type { OperatorContext } from '../../contract/operator.ts'
import type { OutboxSegment } from '../../contract/sink.ts'
import type { SplitState } from '../../contract/source.ts'
import { messageOf } from '../../core/errors.ts'
import type { Disk } from '../../core/io.ts'
import { CHANGELOG_MUTANTS } from './sim-changelog-mutants.ts'
import type { SimDisk } from './sim-disk.ts'
import type { Fault } from './sim-faults.ts'
import { type SimShape, withRepeats } from './sim-input.ts'
import type { Mutant } from './sim-plant.ts'
import {
  changeNodes,
  changeOperators,
  changeSinks,
  changeTables,
  contextWith,
  isManifest,
  type OperatorChange,
  readManifestsAs,
  readPositionsAs,
} from './sim-plant-parts.ts'
import type { SimStore, SimStoreFactory } from './sim-store.ts'

/** Faults with more of one kind. */
function more(kind: Fault['kind'], faults: readonly Fault[]): Fault[] {
  const added = [120, 260].map((atStep): Fault => ({ kind, atStep, amount: 0.1, steps: 200 }))
  return [...faults, ...added].sort((a, b) => a.atStep - b.atStep)
}

/** A rescale or a power cut, and soon after it bits that flip. */
function rotAfterRestores(faults: readonly Fault[]): Fault[] {
  const rot = [40, 80, 120, 160].map(
    (after): Fault => ({ kind: 'rot-meanwhile', atStep: 150 + after, amount: 0, steps: 0 }),
  )
  const crash: Fault = { kind: 'crash', atStep: 150, amount: 0, steps: 0 }
  return [...faults, crash, ...rot].sort((a, b) => a.atStep - b.atStep)
}

/** A store that has other names for the files that it was restored with: the engine does not know them again. */
function renamesRestored(factory: SimStoreFactory, raw: SimDisk): SimStoreFactory {
  return {
    ...factory,
    restore(image, directory) {
      const restored = new Set(raw.listNow(image))
      const store = factory.restore(image, directory)
      const writeAndCheckpoint = store.writeAndCheckpoint.bind(store)
      return Object.assign(store, {
        async writeAndCheckpoint(...[batch, target]: Parameters<typeof writeAndCheckpoint>) {
          const files = await writeAndCheckpoint(batch, target)
          return files.map(({ name, size }) => {
            if (!restored.has(name)) return { name, size }
            const renamed = name.replace('.sst', 'x.sst')
            raw.linkNow(`${target}/${name}`, `${target}/${renamed}`)
            return { name: renamed, size }
          })
        },
      })
    },
  }
}

/** A store that says of every batch ahead of an image that it has it. */
function takesAnything(factory: SimStoreFactory): SimStoreFactory {
  const easy = (store: SimStore): SimStore => {
    const write = store.writeInBackground.bind(store)
    return Object.assign(store, { writeInBackground: (batch: WriteBatch) => write(batch).catch(() => {}) })
  }
  return {
    ...factory,
    create: (directory) => easy(factory.create(directory)),
    restore: (image, directory) => easy(factory.restore(image, directory)),
  }
}

/** Bits flip in output that waits for a sink which does not answer. */
function rotOfWaitingOutput(faults: readonly Fault[]): Fault[] {
  const outage: Fault = { kind: 'sink-outage', atStep: 100, amount: 0, steps: 250 }
  const rot = [160, 220, 280].map((atStep): Fault => ({ kind: 'rot-meanwhile', atStep, amount: 0, steps: 0 }))
  return [...faults, outage, ...rot].sort((a, b) => a.atStep - b.atStep)
}

/** Manifests read as if their checksum fitted, and the output that they list as if its did. */
function manifestsUnchecked(disk: Disk): Disk {
  return {
    ...disk,
    async read(path) {
      const bytes = Buffer.from(await disk.read(path))
      if (!isManifest(path) || bytes.length < HEX_DIGEST_BYTES) return bytes
      const body = bytes.subarray(0, bytes.length - HEX_DIGEST_BYTES).toString()
      return Buffer.from(`${body}${createHash('sha256').update(body).digest('hex')}\n`)
    },
  }
}

/** With the end of line. */
const HEX_DIGEST_BYTES = 65

function outputUnchecked(disk: Disk): Disk {
  const asFound = async (directory: string, manifest: Manifest): Promise<Manifest> => {
    const pending = manifest.pending.map(async (commit) => {
      const committables = commit.committables.map(async (committable) => {
        const segment = committable as unknown as OutboxSegment
        const bytes = await disk.read(`${directory}/${segment.file}`).catch(() => null)
        return bytes === null ? committable : { ...segment, crc32: crc32(bytes) }
      })
      return { ...commit, committables: await Promise.all(committables) }
    })
    return { ...manifest, pending: await Promise.all(pending) }
  }
  return {
    ...disk,
    async read(path) {
      if (!isManifest(path)) return disk.read(path)
      const directory = path.slice(0, path.indexOf('/manifests/'))
      return readManifestsAs(disk, (manifest) => asFound(directory, manifest)).read(path)
    },
  }
}

/** Timers are set, but the engine is not asked for calls while an operator opens. */
function unscheduled(context: OperatorContext): OperatorContext {
  let isOpening = true
  queueMicrotask(() => {
    isOpening = false
  })
  return contextWith(context, {
    scheduleProcessingTime: () => (timeMs) => {
      if (!isOpening) context.scheduleProcessingTime(timeMs)
    },
  })
}

/** Timers that fire so much before their time has passed. */
function earlier(ms: number): OperatorChange {
  return {
    passedMs: (passedMs) => passedMs + ms,
    context: (context) =>
      contextWith(context, {
        scheduleProcessingTime: () => (timeMs) => context.scheduleProcessingTime(timeMs - ms),
      }),
  }
}

/** Of values with a stamp: each read from bytes is as if it had been used just now. */
function neverOld(codec: ValueCodec, nowMs: () => number): ValueCodec {
  return {
    ...codec,
    decode(bytes, start, end) {
      const stamped = codec.decode(bytes, start, end) as { atMs: number }
      stamped.atMs = nowMs()
      return stamped
    },
  }
}

function changeEdges(graph: JobGraph, change: (edge: GraphEdge, uid: string) => GraphEdge): JobGraph {
  const uids = new Map(graph.nodes.map(({ id, uid }) => [id, uid]))
  return { ...graph, edges: graph.edges.map((edge) => change(edge, uids.get(edge.to)!)) }
}

export const PART_MUTANTS = {
  ...CHANGELOG_MUTANTS,
  'state-rot-unnoticed': {
    what: 'a flipped bit in a state file is not noticed',
    plant: () => ({
      ignoresChecksums: true,
      faults: (faults) => more('rot', faults),
      disk: (disk) => ({ ...disk, link: (from, to) => disk.link(from, to) }),
    }),
  },
  'output-rot-unnoticed': {
    what: 'a flipped bit in output that waits for its commit is not noticed',
    plant: () => ({ faults: (faults) => more('rot', faults), disk: outputUnchecked }),
  },
  'lost-changes-taken-for-written': {
    what: 'changes that the store could not take ahead of an image are taken for written',
    plant: () => ({ faults: (faults) => more('disk-errors', faults), stores: takesAnything }),
  },
  'restored-hashed-anew': {
    what: 'the first checkpoint after a restore hashes restored files anew, and takes damage for content',
    plant: () => {
      let disk: SimDisk | null = null
      return {
        faults: rotAfterRestores,
        disk(view, raw) {
          disk = raw
          return view
        },
        stores: (factory) => renamesRestored(factory, disk!),
      }
    },
  },
  'lost-output-retried': {
    what: 'output that is gone or damaged is waited for, again and again',
    plant: () => ({
      faults: rotOfWaitingOutput,
      graph: (graph) =>
        changeSinks(graph, {
          committer: (committer) => ({
            open: () => committer.open(),
            readMarker: () => committer.readMarker(),
            commit: (epoch, committables) =>
              committer.commit(epoch, committables).catch((error: unknown) => {
                throw new Error(messageOf(error))
              }),
            close: () => committer.close(),
          }),
        }),
    }),
  },
  'damaged-state-retried': {
    what: 'a checkpoint whose state is damaged is restored again and again',
    plant: () => ({
      shape: (shape: SimShape) => ({ ...shape, isRemote: false, noticesRotLate: true }),
      faults: (faults) => more('rot', faults),
      disk: (disk) => ({
        ...disk,
        async hash(path) {
          const found = await disk.hash(path)
          const name = /\/shared\/([0-9a-f]{64})$/.exec(path)?.[1]
          return name === undefined ? found : { ...found, sha256: name }
        },
      }),
    }),
  },
  'manifest-rot-unnoticed': {
    what: 'a flipped bit in a manifest is not noticed',
    plant: () => ({ faults: (faults) => more('damage', faults), disk: manifestsUnchecked }),
  },
  'clock-timers-early': {
    what: 'processing-time timers fire before their time',
    plant: () => ({ graph: (graph) => changeOperators(graph, earlier(30)) }),
  },
  'clock-timers-at-once': {
    what: 'processing-time timers fire in their millisecond, in which more rows may come',
    plant: () => ({ graph: (graph) => changeOperators(graph, earlier(1)) }),
  },
  'clock-timers-forgotten': {
    what: 'restored processing-time timers wait for another one to be set',
    plant: () => ({ graph: (graph) => changeOperators(graph, { context: unscheduled }) }),
  },
  'lives-too-long': {
    what: 'state with a time to live is as new after a restore',
    plant: () => ({
      graph: (graph) =>
        changeOperators(graph, {
          context: (context) =>
            changeTables(context, (declaration) => {
              const { layout, isExpired } = declaration
              if (isExpired === undefined || layout.kind !== 'object') return declaration
              const codec = neverOld(layout.codec, () => context.worker.nowMs())
              return { ...declaration, layout: { ...layout, codec } }
            }),
        }),
    }),
  },
  'dies-too-early': {
    what: 'the sweep takes state whose time to live has not passed',
    plant: () => ({
      graph: (graph) =>
        changeOperators(graph, {
          context: (context) =>
            changeTables(context, (declaration) =>
              declaration.isExpired === undefined ? declaration : { ...declaration, isExpired: () => true },
            ),
        }),
    }),
  },
  'found-splits-forgotten': {
    what: 'positions of splits that were found while the job ran are in no checkpoint',
    plant: () => ({
      graph: (graph) =>
        changeNodes(graph, {
          source: (node) => ({
            ...node,
            source: {
              ...node.source,
              createReader(context) {
                const reader = node.source.createReader(context)
                const found = new Set<string>()
                const [addSplits, snapshot] = [reader.addSplits?.bind(reader), reader.snapshot.bind(reader)]
                return Object.assign(reader, {
                  addSplits(splits: readonly SplitState[]) {
                    for (const { id } of splits) found.add(id)
                    addSplits?.(splits)
                  },
                  snapshot: () => snapshot().filter(({ id }) => !found.has(id)),
                })
              },
            },
          }),
        }),
    }),
  },
  'inputs-mixed-up': {
    what: 'rows of one input are taken for those of the other',
    plant: () => ({
      graph: (graph) =>
        changeEdges(graph, (edge, uid) =>
          /^(connected|matched|grouped)/.test(uid) ? { ...edge, input: 1 - (edge.input ?? 0) } : edge,
        ),
    }),
  },
  'broadcast-to-one': {
    what: 'a broadcast element reaches one subtask only',
    plant: () => ({
      graph: (graph) =>
        changeEdges(graph, (edge) =>
          edge.partitioning === 'broadcast' ? { ...edge, partitioning: 'rebalance' } : edge,
        ),
    }),
  },
  'broadcast-forgotten': {
    what: 'broadcast state is not restored',
    plant: () => ({ graph: (graph) => changeOperators(graph, { of: /^ruled/, restored: () => [] }) }),
  },
  'requests-forgotten': {
    what: 'rows that wait for an answer are not restored',
    plant: () => ({ graph: (graph) => changeOperators(graph, { of: /asking/, restored: () => [] }) }),
  },
  'at-least-once-unasked': {
    what: 'barriers hold nothing back although exactly-once was asked for',
    plant: () => ({
      options: (options) => ({ ...options, checkpointPolicy: { ...options.checkpointPolicy, mode: 'at-least-once' } }),
    }),
  },
  'at-least-once-loses': {
    what: 'positions are taken one row too far where rows may repeat',
    plant: () => ({
      shape: (shape: SimShape) => withRepeats(shape),
      graph: (graph, { shape }) => readPositionsAs(graph, (position) => Math.min(shape.rowsPerSplit, position + 1)),
    }),
  },
  'spill-fails-silently': {
    what: 'what does not fit the disk is left out of a spill file',
    plant: () => ({
      shape: (shape: SimShape) => ({ ...shape, spillBeyondBytes: 0 }),
      faults: (faults) => more('disk-errors', faults),
      spill: (file) => ({
        ...file,
        append(bytes) {
          try {
            file.append(bytes)
          } catch {
            // As if it had been written.
          }
        },
      }),
    }),
  },
} as const satisfies Record<string, Mutant>
