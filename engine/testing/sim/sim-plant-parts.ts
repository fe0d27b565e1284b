/**
 * Wrappers around the parts of a job in which sim-mutants.ts plants its bugs.
 */
import { crc32 } from 'node:zlib'
import { decodeManifest, encodeManifest, type Manifest } from '../../checkpoint/manifest.ts'
import type { GraphNode, JobGraph, OperatorNode, SinkNode, SourceNode } from '../../contract/job-graph.ts'
import type { KeyedState, TableDeclaration } from '../../contract/keyed-state.ts'
import type { Operator, OperatorContext, Output } from '../../contract/operator.ts'
import type { OutboxWriter, SinkCommitter, SinkWriter, SinkWriterContext } from '../../contract/sink.ts'
import type { Disk, DiskFile } from '../../core/io.ts'
import type { JsonValue } from '../../core/json-value.ts'
import type { ChannelReader, ChannelWriter, Message } from '../../runtime/channel.ts'
import { copyBatch } from '../../runtime/wire.ts'

const MANIFEST = /\/manifests\/\d{12}\.json$/

export const isManifest = (path: string): boolean => MANIFEST.test(path)

type NodeChange<N> = (node: N) => N

export interface NodeChanges {
  readonly source?: NodeChange<SourceNode>
  readonly operator?: NodeChange<OperatorNode>
  readonly sink?: NodeChange<SinkNode>
}

export function changeNodes(graph: JobGraph, changes: NodeChanges): JobGraph {
  const changed = (node: GraphNode): GraphNode => {
    switch (node.role) {
      case 'source':
        return changes.source?.(node) ?? node
      case 'operator':
        return changes.operator?.(node) ?? node
      case 'sink':
        return changes.sink?.(node) ?? node
    }
  }
  return { ...graph, nodes: graph.nodes.map(changed) }
}

export interface OperatorChange {
  /** Uids of the operators that are changed; all when left out. */
  readonly of?: RegExp
  restored?(restored: readonly JsonValue[]): readonly JsonValue[]
  context?(context: OperatorContext): OperatorContext
  output?(output: Output): Output
  /** What an operator is told of processing time. */
  passedMs?(passedMs: number): number
}

/** Each new operator with other restored state, another context or another output. */
export function changeOperators(graph: JobGraph, change: OperatorChange): JobGraph {
  const output = change.output ?? ((plain: Output) => plain)
  const context = (plain: OperatorContext): OperatorContext => {
    const restored = change.restored?.(plain.restored)
    const restoring = restored === undefined ? plain : contextWith(plain, { restored: () => restored })
    return change.context?.(restoring) ?? restoring
  }
  const changed = (operator: Operator): Operator => {
    const changes: Pick<Operator, 'open' | 'process' | 'advanceWatermark' | 'onProcessingTime'> = {
      open: (plain) => operator.open(context(plain)),
      process: (batch, from, plain, input) => operator.process(batch, from, output(plain), input),
      advanceWatermark: (watermark, plain) => operator.advanceWatermark(watermark, output(plain)),
      ...(operator.onProcessingTime === undefined
        ? {}
        : {
            onProcessingTime: (passedMs, plain) =>
              operator.onProcessingTime!(change.passedMs?.(passedMs) ?? passedMs, output(plain)),
          }),
    }
    return new Proxy(operator, {
      get(_, name) {
        const own: unknown = Reflect.get(changes, name) ?? Reflect.get(operator, name)
        return typeof own === 'function' ? own.bind(operator) : own
      },
    })
  }
  const isMeant = (uid: string): boolean => change.of?.test(uid) ?? true
  return changeNodes(graph, {
    operator: (node) => (isMeant(node.uid) ? { ...node, create: () => changed(node.create()) } : node),
  })
}

/** `keyed` is a getter that may throw: the context is not copied, and what replaces it is asked for when needed. */
export function contextWith(
  plain: OperatorContext,
  changes: { readonly [K in keyof OperatorContext]?: () => OperatorContext[K] },
): OperatorContext {
  const properties = Object.entries(changes).map(([name, get]) => [name, { get }] as const)
  return Object.create(plain, Object.fromEntries(properties)) as OperatorContext
}

/** Tables that are declared otherwise. */
export function changeTables(
  plain: OperatorContext,
  change: (declaration: TableDeclaration) => TableDeclaration,
): OperatorContext {
  return contextWith(plain, {
    keyed: () => {
      const { keyed } = plain
      const table: KeyedState['table'] = (declaration) => keyed.table(change(declaration))
      return Object.create(keyed, { table: { value: table } }) as KeyedState
    },
  })
}

/** Each new writer and committer of every sink, changed. */
export function changeSinks(
  graph: JobGraph,
  change: {
    context?(context: SinkWriterContext): SinkWriterContext
    writer?(writer: SinkWriter, context: SinkWriterContext): SinkWriter
    committer?(committer: SinkCommitter, sinkId: string): SinkCommitter
  },
): JobGraph {
  return changeNodes(graph, {
    sink: (node) => ({
      ...node,
      sink: {
        ...node.sink,
        createWriter(plain) {
          const context = change.context?.(plain) ?? plain
          const writer = node.sink.createWriter(context)
          return change.writer?.(writer, context) ?? writer
        },
        ...(node.sink.createCommitter === undefined
          ? {}
          : {
              createCommitter(context) {
                const committer = node.sink.createCommitter!(context)
                return change.committer?.(committer, context.sinkId) ?? committer
              },
            }),
      },
    }),
  })
}

/** Positions of splits differ in snapshots. */
export function readPositionsAs(graph: JobGraph, change: (position: number) => number): JobGraph {
  return changeNodes(graph, {
    source: (node) => ({
      ...node,
      source: {
        ...node.source,
        createReader(context) {
          const reader = node.source.createReader(context)
          const snapshot = reader.snapshot.bind(reader)
          return Object.assign(reader, {
            snapshot: () => snapshot().map(({ id, position }) => ({ id, position: change(position as number) })),
          })
        },
      },
    }),
  })
}

/** A disk on which manifests read differently. */
export function readManifestsAs(disk: Disk, change: (manifest: Manifest) => Manifest | Promise<Manifest>): Disk {
  return {
    ...disk,
    async read(path) {
      const bytes = await disk.read(path)
      if (!isManifest(path)) return bytes
      try {
        return encodeManifest(await change(decodeManifest(bytes, path)))
      } catch {
        // Damaged: that is for the engine to find.
        return bytes
      }
    },
  }
}

/** A disk on which every path is another one. */
export function mapPaths(disk: Disk, map: (path: string) => string): Disk {
  return {
    read: (path) => disk.read(map(path)),
    create: (path) => disk.create(map(path)),
    createExclusive: (path, bytes) => disk.createExclusive(map(path), bytes),
    rename: (from, to) => disk.rename(map(from), map(to)),
    link: (from, to) => disk.link(map(from), map(to)),
    hash: (path) => disk.hash(map(path)),
    syncFile: (path) => disk.syncFile(map(path)),
    syncDirectory: (path) => disk.syncDirectory(map(path)),
    makeDirectory: (path) => disk.makeDirectory(map(path)),
    list: (path) => disk.list(map(path)),
    size: (path) => disk.size(map(path)),
    remove: (path) => disk.remove(map(path)),
  }
}

/** Holds each batch back for one message, and lets barriers pass it. */
export function barrierOvertakes(writer: ChannelWriter): ChannelWriter {
  let held: Parameters<ChannelWriter['writeBatch']>[0] | null = null
  const release = (): boolean => {
    if (held === null) return true
    if (!writer.writeBatch(held, null, held.length)) return false
    held = null
    return true
  }
  return {
    writeBatch(batch, rows, count) {
      if (!release()) return false
      held = copyBatch(batch, rows, count)
      return true
    },
    writeControl(message) {
      if (message.kind !== 'barrier' && !release()) return false
      return writer.writeControl(message)
    },
    settle: () => writer.settle(),
    get rowsAllowed() {
      return writer.rowsAllowed
    },
  }
}

/** Hands one batch more to its subtask before it shows a barrier: the input is not held back. */
export function barrierIgnored(reader: ChannelReader): ChannelReader {
  let barrier: Message | null = null
  let passed = false
  const next = (): Message | null => {
    const message = reader.peek()
    if (barrier === null && message?.kind === 'barrier') {
      reader.pop()
      barrier = message
      passed = false
      return next()
    }
    return message
  }
  const showsBarrier = (message: Message | null): boolean => barrier !== null && (passed || message?.kind !== 'batch')
  return {
    allow: (rows) => reader.allow(rows),
    peek() {
      const message = next()
      return showsBarrier(message) ? barrier : message
    },
    pop() {
      if (showsBarrier(next())) barrier = null
      else {
        passed = true
        reader.pop()
      }
    },
  }
}

/** An outbox that writes on in the same file after a checkpoint. */
export function longOpenOutbox(context: SinkWriterContext): OutboxWriter {
  const disk = context.worker.io.disk
  const directory = context.scratchDirectory.slice(0, context.scratchDirectory.indexOf('/live/'))
  const name = `outbox/long-${context.attempt}-${context.sinkId}-${context.subtask}.seg`
  let file: DiskFile | null = null
  let waiting: Buffer[] = []
  const total = { records: 0, bytes: 0, crc32: 0 }
  return {
    append(record) {
      const frame = Buffer.alloc(4 + record.length)
      frame.writeUInt32LE(record.length)
      frame.set(record, 4)
      waiting.push(frame)
      total.records++
    },
    bufferedBytes: 0,
    flush: async () => {},
    async seal() {
      const bytes = Buffer.concat(waiting)
      waiting = []
      if (bytes.length === 0) return null
      file ??= await disk.create(`${directory}/${name}`)
      await file.append(bytes)
      total.bytes += bytes.length
      total.crc32 = crc32(bytes, total.crc32) >>> 0
      await file.sync()
      await disk.syncDirectory(`${directory}/outbox`)
      return { file: name, ...total }
    },
    close: async () => file?.close(),
  }
}
