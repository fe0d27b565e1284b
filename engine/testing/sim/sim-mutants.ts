/**
 * Bugs that the simulator must find, planted around the engine: one for each lesson of the reliability
 * design that the engine could have to learn again, and more of their kind. Here those of the protocol; those of single
 * parts are in sim-part-mutants.ts, those of what serves users' functions in sim-function-mutants.ts.
 *
 * Run by mutants.ts (`npm run sim:mutants`), a few by the tests. Each entry says what the bug is; `plant`
 * makes it afresh for every run, because some remember things.
 */
import { CHECKPOINT_POLICY_DEFAULT } from '../../checkpoint/checkpoint-policy.ts'
import { collectGarbage } from '../../checkpoint/gc.ts'
import { decodeManifest, manifestNumber } from '../../checkpoint/manifest.ts'
import type { SinkWriter } from '../../contract/sink.ts'
import type { JsonValue } from '../../core/json-value.ts'
import { rowReader } from '../../core/rows.ts'
import type { FromWorker, WorkerAck } from '../../runtime/protocol.ts'
import type { SinkRow } from './sim-external.ts'
import { FUNCTION_MUTANTS } from './sim-function-mutants.ts'
import type { SimShape } from './sim-input.ts'
import type { SimJobWorld } from './sim-job.ts'
import { PART_MUTANTS } from './sim-part-mutants.ts'
import type { Mutant, Plant } from './sim-plant.ts'
import {
  barrierIgnored,
  barrierOvertakes,
  changeNodes,
  changeOperators,
  changeSinks,
  isManifest,
  longOpenOutbox,
  mapPaths,
  readManifestsAs,
  readPositionsAs,
} from './sim-plant-parts.ts'
import { readStoreFiles, type SimStore } from './sim-store.ts'

const IDLE_NEVER = null
/** A broker gives a transaction up that was open for this long. */
const BROKER_TIMEOUT_MS = 40
const STEPS_BETWEEN_COLLECTIONS = 37

function danglingTransactions(): Plant {
  const open = new Map<number, { readonly rows: SinkRow[]; readonly openedAtMs: number }>()
  let ids = 0
  const writerOf = (context: Parameters<NonNullable<Parameters<typeof changeSinks>[1]['writer']>>[1]): SinkWriter => {
    const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('dangling'))
    let rows: SinkRow[] = []
    return {
      async open() {},
      write(batch, from) {
        for (let i = from; i < batch.length; i++) rows.push(read(batch, i) as SinkRow)
        return batch.length
      },
      async prepareCommit() {
        if (rows.length === 0) return null
        const id = ++ids
        open.set(id, { rows, openedAtMs: context.worker.io.clock.monotonicMs() })
        rows = []
        return id
      },
      async close() {},
    }
  }
  return {
    graph: (graph, { external, scope }) =>
      changeNodes(graph, {
        sink: (node) => {
          if (node.sink.guarantee !== 'exactly-once') return node
          const createCommitter: typeof node.sink.createCommitter = (context) => {
            let owner = 0
            return {
              async open() {
                owner = await external.claim(scope, context.sinkId)
              },
              readMarker: () => external.readMarker(scope, context.sinkId),
              async commit(epoch, committables) {
                const alive = (id: JsonValue): SinkRow[] => {
                  const transaction = open.get(id as number)!
                  const age = context.io.clock.monotonicMs() - transaction.openedAtMs
                  return age < BROKER_TIMEOUT_MS ? transaction.rows : []
                }
                await external.transact(scope, context.sinkId, owner, epoch, committables.flatMap(alive))
              },
              async close() {},
            }
          }
          return { ...node, sink: { ...node.sink, createWriter: writerOf, createCommitter } }
        },
      }),
  }
}

/** Output shows as it is made. */
function directOutput(): Plant {
  return {
    graph: (graph, { external }: SimJobWorld) =>
      changeSinks(graph, {
        writer: (writer, context) => {
          const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('direct'))
          return {
            open: () => writer.open(),
            write(batch, from) {
              for (let i = from; i < batch.length; i++)
                external.sink(context.sinkId).rows.push(read(batch, i) as SinkRow)
              return batch.length
            },
            prepareCommit: async () => null,
            close: () => writer.close(),
          }
        },
      }),
  }
}

/** The ack of an attempt that was given up counts for the next one. */
function staleAcks(): Plant {
  return {
    fromWorker(deliver) {
      let stale: WorkerAck | null = null
      let newest: WorkerAck | null = null
      return (message: FromWorker) => {
        if (message.type === 'abortDone' && newest?.attempt === message.attempt) stale = newest
        if (message.type !== 'ack') {
          deliver(message)
          return
        }
        newest = message.ack
        deliver(stale === null ? message : { type: 'ack', ack: { ...stale, attempt: message.ack.attempt } })
        stale = null
      }
    },
  }
}

/** Stores are opened as they were left, with what no manifest has. */
function liveStores(): Plant {
  const left = new Map<number, SimStore>()
  return {
    stores: (factory, worker) => ({
      ...factory,
      create(directory) {
        const store = factory.create(directory)
        left.set(worker, store)
        return store
      },
      restore(image, directory) {
        const store = factory.restore(image, directory)
        const earlier = left.get(worker)
        if (earlier !== undefined) {
          store.entries.clear()
          for (const [key, value] of earlier.entries) store.entries.set(key, value)
        }
        left.set(worker, store)
        return store
      },
    }),
  }
}

/** Only with remote checkpoints can two processes be at work. */
const remotely = (shape: SimShape): SimShape => ({ ...shape, isRemote: true })

/** Once it owns a job, a process sees no manifests but its own, whatever it is told; sinks take what it sends. */
function blindZombies(): Plant {
  return {
    shape: remotely,
    external: { ignoresOwner: true },
    disk(disk) {
      let own = Number.POSITIVE_INFINITY
      return {
        ...disk,
        async createExclusive(path, bytes) {
          const created = await disk.createExclusive(path, bytes)
          if (!isManifest(path)) return created
          own = decodeManifest(bytes, path).number
          return true
        },
        async list(path) {
          const names = await disk.list(path)
          return path.endsWith('/manifests') ? names.filter((name) => (manifestNumber(name) ?? 0) <= own) : names
        },
      }
    },
  }
}

function collectionAtAnyTime(): Plant {
  let calls = 0
  return {
    meanwhile(disk, directory) {
      if (++calls % STEPS_BETWEEN_COLLECTIONS === 0)
        collectGarbage(disk, directory, CHECKPOINT_POLICY_DEFAULT.retained).catch(() => {})
    },
  }
}

const PROTOCOL_MUTANTS = {
  'sink-acks-early': {
    what: 'a sink acks a barrier before it has looked at its errors',
    plant: () => ({
      graph: (graph) =>
        changeSinks(graph, {
          writer: (writer) => {
            const prepareCommit = writer.prepareCommit.bind(writer)
            return Object.assign(writer, { prepareCommit: () => prepareCommit().catch(() => null) })
          },
        }),
    }),
  },
  'transaction-dangles': {
    what: 'output waits in a transaction of the broker, which gives it up in time',
    plant: danglingTransactions,
  },
  'shared-file-deleted': {
    what: 'the files of a checkpoint go with it, although another one uses them',
    plant: () => ({
      disk: (disk) => ({
        ...disk,
        async remove(path) {
          if (isManifest(path)) {
            const directory = path.slice(0, path.indexOf('/manifests/'))
            const { stores } = decodeManifest(await disk.read(path), path)
            for (const { sha256 } of stores.flatMap((store) => store.files)) {
              await disk.remove(`${directory}/shared/${sha256}`)
            }
          }
          await disk.remove(path)
        },
      }),
    }),
  },
  'workers-share-directory': {
    what: 'two workers keep their stores in one directory',
    plant: () => {
      const map = (path: string): string => path.replace(/-w\d+(?=\/|$)/, '-w0')
      return {
        disk: (disk) => mapPaths(disk, map),
        stores: (factory) => ({
          ...factory,
          create: (directory) => factory.create(map(directory)),
          restore: (image, directory) => factory.restore(map(image), map(directory)),
        }),
      }
    },
  },
  'writers-share-file': {
    what: 'two writers of output use one file',
    plant: () => ({
      disk: (disk) => mapPaths(disk, (path) => path.replace(/-\d+(-\d{6}\.seg)$/, '-0$1')),
    }),
  },
  'watermark-forgotten': {
    what: 'watermarks of splits are not restored',
    plant: () => ({
      graph: (graph) =>
        changeNodes(graph, {
          source: (node) => ({
            ...node,
            watermarks: {
              ...node.watermarks!,
              createGenerator: () => Object.assign(node.watermarks!.createGenerator(), { restore() {} }),
            },
          }),
        }),
    }),
  },
  'operator-watermark-forgotten': {
    what: 'state of operators that is not keyed, such as their watermark, is not restored',
    plant: () => ({
      graph: (graph) => changeOperators(graph, { restored: () => [] }),
    }),
  },
  'live-store-reopened': {
    what: 'after a failure the live store is opened again, with writes of no checkpoint',
    plant: liveStores,
  },
  'late-dropped': {
    what: 'late rows vanish',
    plant: () => ({
      graph: (graph) =>
        changeOperators(graph, {
          output: (output) => ({
            emit: (batch) => output.emit(batch),
            emitSide() {},
            get blocked() {
              return output.blocked
            },
          }),
        }),
    }),
  },
  'poison-kills': {
    what: 'a record that cannot be used fails the job',
    plant: () => ({
      graph: (graph) =>
        changeNodes(graph, {
          source: (node) => ({
            ...node,
            watermarks: {
              ...node.watermarks!,
              createAssigner: () => {
                const assign = node.watermarks!.createAssigner!()
                return (batch) => {
                  const times = assign(batch)
                  if (times.some((time) => time < 0)) throw new Error('a record cannot be used')
                  return times
                }
              },
            },
          }),
        }),
    }),
  },
  'quiet-partition-stalls': {
    what: 'a silent split holds time back for ever',
    plant: () => ({
      graph: (graph) =>
        changeNodes(graph, {
          source: (node) => ({ ...node, watermarks: { ...node.watermarks!, idleAfterMs: IDLE_NEVER } }),
        }),
    }),
  },
  'file-outlives-collection': {
    what: 'an output file stays open over checkpoints and is removed when the first is applied',
    plant: () => ({
      graph: (graph) =>
        changeSinks(graph, {
          context: (context) => ({ ...context, createOutbox: () => longOpenOutbox(context) }),
        }),
    }),
  },
  'key-groups-changed': {
    what: 'a checkpoint is restored with another number of key groups',
    plant: () => {
      let keyGroups = 0
      return {
        options(options) {
          keyGroups = options.keyGroups
          return options
        },
        disk: (disk) => readManifestsAs(disk, (manifest) => ({ ...manifest, keyGroups })),
      }
    },
  },
  'barrier-overtakes': { what: 'a barrier overtakes the rows before it', plant: () => ({ writer: barrierOvertakes }) },
  'not-aligned': { what: 'an input goes on after its barrier', plant: () => ({ reader: barrierIgnored }) },
  'offsets-late': {
    what: 'positions are taken one row too far',
    plant: () => ({
      graph: (graph, { shape }) => readPositionsAs(graph, (position) => Math.min(shape.rowsPerSplit, position + 1)),
    }),
  },
  'marker-ignored': { what: 'an epoch is applied again', plant: () => ({ external: { ignoresMarker: true } }) },
  'stale-ack': { what: 'an ack of an aborted attempt counts for the next', plant: staleAcks },
  'sync-does-nothing': { what: 'fsync does nothing', plant: () => ({ syncDoesNothing: true }) },
  'directory-not-synced': {
    what: 'directories are not synced',
    plant: () => ({ disk: (disk) => ({ ...disk, async syncDirectory() {} }) }),
  },
  'state-not-synced': {
    what: 'state files are not synced',
    plant: () => ({ disk: (disk) => ({ ...disk, async syncFile() {} }) }),
  },
  'zombie-commits': {
    what: 'a process that was taken over does not notice, and no sink stops it',
    plant: blindZombies,
  },
  'collection-at-any-time': { what: 'garbage is collected while a checkpoint is made', plant: collectionAtAnyTime },
  'falls-back-past-marker': {
    what: 'an older checkpoint is restored although a sink is ahead of it',
    plant: () => ({ options: (options) => ({ ...options, acceptDuplicates: true }) }),
  },
  'manifest-overwritten': {
    what: 'a manifest is written over one that exists',
    plant: () => ({
      shape: remotely,
      disk: (disk) => ({
        ...disk,
        async createExclusive(path, bytes) {
          if (isManifest(path)) await disk.remove(path)
          return disk.createExclusive(path, bytes)
        },
      }),
    }),
  },
  'epoch-before-manifest': {
    what: 'a sink moves its marker when the barrier comes, before there is a manifest',
    plant: () => ({
      external: { ignoresOwner: true },
      graph: (graph, { external, scope }) =>
        changeSinks(graph, {
          writer: (writer, { sinkId }) => {
            const prepareCommit = writer.prepareCommit.bind(writer)
            return Object.assign(writer, {
              async prepareCommit() {
                await external.transact(scope, sinkId, 0, external.sink(sinkId).marker + 1, [])
                return prepareCommit()
              },
            })
          },
        }),
    }),
  },
  'output-before-manifest': { what: 'output shows before its manifest exists', plant: directOutput },
  'commit-gives-up': {
    what: 'a commit of unknown outcome is taken for done',
    plant: () => ({
      graph: (graph) =>
        changeSinks(graph, {
          committer: (committer) => ({
            open: () => committer.open(),
            readMarker: () => committer.readMarker(),
            commit: (epoch, committables) => committer.commit(epoch, committables).catch(() => {}),
            close: () => committer.close(),
          }),
        }),
    }),
  },
  'pending-forgotten': {
    what: 'recovery does not apply what the manifest lists as pending',
    plant: () => ({ disk: (disk) => readManifestsAs(disk, (manifest) => ({ ...manifest, pending: [] })) }),
  },
  'outbox-removed-early': {
    what: 'output is removed before it was applied',
    plant: () => ({
      disk: (disk) => ({
        ...disk,
        async read(path) {
          const bytes = await disk.read(path)
          if (path.includes('/outbox/')) await disk.remove(path)
          return bytes
        },
      }),
    }),
  },
  'restore-skips-file': {
    what: 'a restore leaves the newest state file out',
    plant: () => {
      let read: (path: string) => Buffer[] = () => []
      return {
        disk(disk, raw) {
          read = (image) => raw.listNow(image).map((name) => raw.readNow(`${image}/${name}`))
          return disk
        },
        stores: (factory) => ({
          ...factory,
          restore(image, directory) {
            const files = read(image)
            const store = factory.restore(image, directory)
            if (files.length > 1) {
              store.entries.clear()
              for (const [key, value] of readStoreFiles(files.slice(0, -1))) store.entries.set(key, value)
            }
            return store
          },
        }),
      }
    },
  },
  'rescale-keeps-group': {
    what: 'a rescale leaves key groups behind that belong to another worker now',
    plant: () => ({
      stores: (factory) => ({
        ...factory,
        restore: (image, directory) => Object.assign(factory.restore(image, directory), { deleteRange() {} }),
      }),
    }),
  },
  'rescale-loses-group': {
    what: 'a rescale leaves out the last key of each share',
    plant: () => ({
      stores: (factory) => ({
        ...factory,
        restore(image, directory) {
          const store = factory.restore(image, directory)
          const last = [...store.entries.keys()].sort().at(-1)
          if (last !== undefined) store.entries.delete(last)
          return store
        },
      }),
    }),
  },
} as const satisfies Record<string, Mutant>

export const MUTANTS = { ...PROTOCOL_MUTANTS, ...PART_MUTANTS, ...FUNCTION_MUTANTS } as const

export type MutantName = keyof typeof MUTANTS
