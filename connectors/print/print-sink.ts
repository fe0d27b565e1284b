/**
 * The print sink: each row as one line on standard output.
 *
 * Called by jobs. Writers format rows and post whole batches of lines; the coordinator's thread writes
 * them, because a worker's own stdout is a pipe through that thread and loses its end when the process
 * exits. Lines of one subtask keep their order; lines of several subtasks mix by batch.
 *
 * Guarantee: at-least-once. Rows after the last checkpoint are printed again after a restart. Of a changelog each line
 * begins with what the row does: +I, -U, +U or -D.
 */
import { inspect } from 'node:util'
import type { Sink } from '../../engine/contract/sink.ts'
import { KIND_TEXTS, kindAt } from '../../engine/core/row-kinds.ts'
import { rowReader } from '../../engine/core/rows.ts'

/** The part of a writable stream that is used. */
export interface LineStream {
  /** `done` is called once the text has left the process, or cannot leave it any more. */
  write(text: string, done: () => void): unknown
  once(event: 'close' | 'error', listener: () => void): unknown
}

export interface PrintSinkOptions<T> {
  /** Put before each line, followed by `> `. */
  readonly prefix?: string
  /** The line of a row, without its end; by default a string as it is, and JSON for all else. */
  readonly format?: (row: T) => string
  /** True for the process's standard error instead of its output. */
  readonly standardError?: boolean
  /** Where the lines go instead of the process's own streams. */
  readonly stream?: LineStream
}

export interface PrintSink<T> extends Sink<T> {
  /** Resolves when all lines so far have left the process, so that it may exit, or the stream is closed. */
  flushed(): Promise<void>
}

/** Makes the sink; a bare string is the prefix. */
export function printSink<T = unknown>(options: PrintSinkOptions<T> | string = {}): PrintSink<T> {
  const { prefix, format, stream, standardError } = typeof options === 'string' ? { prefix: options } : options
  const start = prefix === undefined || prefix === '' ? '' : `${prefix}> `
  const lineOf = (format as ((row: unknown) => string) | undefined) ?? plainLine
  const printer = new Printer(() => stream ?? (standardError === true ? process.stderr : process.stdout))
  return {
    kind: 'print',
    guarantee: 'at-least-once',
    changelogMode: 'upsert',
    createWriter(context) {
      const isChangelog = (context.changelogMode ?? 'insert-only') !== 'insert-only'
      const read = rowReader(context.schema, context.worker.interner, context.worker.uniqueId('print'))
      return {
        open: async () => {},
        write(batch, from) {
          let text = ''
          for (let i = from; i < batch.length; i++) {
            const kind = isChangelog ? `${KIND_TEXTS[kindAt(batch.kinds, i)]} ` : ''
            text += `${start}${kind}${lineOf(read(batch, i))}\n`
          }
          if (text !== '') context.post(text)
          return batch.length
        },
        // What was written is posted already.
        prepareCommit: async () => null,
        close: async () => {},
      }
    },
    onMessage: (message) => printer.print(message as string),
    flushed: () => printer.flushed(),
  }
}

/**
 * Writes in order and counts what has not left the process yet.
 *
 * A full stream is written to all the same: writers cannot be held up from here, so waiting text takes the
 * same memory in the stream's own buffer, where whoever ends the process can wait for it.
 */
class Printer {
  private readonly streamOf: () => LineStream
  private state: 'unused' | 'open' | 'gone' = 'unused'
  private pending = 0
  private waiters: (() => void)[] = []

  constructor(streamOf: () => LineStream) {
    this.streamOf = streamOf
  }

  print(text: string): void {
    // The reader left, as in `job | head`; the job goes on without printing.
    if (this.state === 'gone') return
    const stream = this.streamOf()
    if (this.state === 'unused') {
      this.state = 'open'
      stream.once('error', () => this.gone())
      stream.once('close', () => this.gone())
    }
    this.pending++
    stream.write(text, () => {
      this.pending--
      this.wakeIfFlushed()
    })
  }

  flushed(): Promise<void> {
    if (this.isFlushed) return Promise.resolve()
    return new Promise((resolve) => this.waiters.push(resolve))
  }

  private get isFlushed(): boolean {
    return this.state === 'gone' || this.pending === 0
  }

  private gone(): void {
    this.state = 'gone'
    this.wakeIfFlushed()
  }

  private wakeIfFlushed(): void {
    if (!this.isFlushed) return
    for (const waiter of this.waiters) waiter()
    this.waiters = []
  }
}

/**
 * A row for people to read: a string as it is, else JSON with bigints as digits, NaN and infinities as texts, maps and
 * sets as arrays and errors as their text; what has a circle as Node shows it.
 */
function plainLine(row: unknown): string {
  if (typeof row === 'string') return row
  try {
    return (JSON.stringify(row, readable) as string | undefined) ?? String(row)
  } catch {
    return inspect(row, { breakLength: Number.POSITIVE_INFINITY, compact: true })
  }
}

function readable(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return rawJson(value.toString())
  if (typeof value === 'number' && !Number.isFinite(value)) return String(value)
  if (value instanceof Map || value instanceof Set) return [...value]
  return value instanceof Error ? String(value) : value
}

/** JSON.rawJSON writes a text as it is; TypeScript does not know it yet. */
const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON
