/**
 * Dead letters as an exactly-once sink of every job: DIR/dead-letters/*.jsonl, one object a record.
 *
 * Source subtasks append letters to an outbox; when their epoch commits, its letters become one file
 * named by the epoch. Creating a file that exists already is the proof that the epoch was applied.
 */

import type { OutboxSegment, OutboxWriter, SinkCommitter, SinkCommitterContext } from '../contract/sink.ts'
import type { DeadLetter } from '../contract/source.ts'
import { layout } from './layout.ts'

export const DEAD_LETTER_SINK = 'dead-letters'

/** A letter as a line of JSON without its newline. */
export function encodeDeadLetter(letter: DeadLetter): Uint8Array {
  const { source, partition, offset, reason } = letter
  return Buffer.from(
    JSON.stringify({ source, partition, offset, reason, bytes: Buffer.from(letter.bytes).toString('base64') }),
  )
}

export interface DeadLetterWriter {
  write(letter: DeadLetter): void
  prepareCommit(): Promise<OutboxSegment | null>
  close(): Promise<void>
}

export function deadLetterWriter(outbox: OutboxWriter): DeadLetterWriter {
  return {
    write: (letter) => outbox.append(encodeDeadLetter(letter)),
    prepareCommit: () => outbox.seal(),
    close: () => outbox.close(),
  }
}

const FILE = /^epoch-(\d{12})\.jsonl$/

export function deadLetterCommitter(context: SinkCommitterContext, directory: string): SinkCommitter {
  const disk = context.io.disk
  const folder = layout.deadLetters(directory)
  const readMarker = async (): Promise<number> => {
    const epochs = (await disk.list(folder)).map((name) => FILE.exec(name)).filter((match) => match !== null)
    return epochs.reduce((max, match) => Math.max(max, Number(match[1])), 0)
  }
  return {
    /** What is there proves that an epoch was applied, so it has to survive: a process may have ended before its sync. */
    async open() {
      await disk.makeDirectory(folder)
      await disk.syncDirectory(folder)
    },
    readMarker,
    peekMarker: readMarker,
    async commit(epoch, committables) {
      const lines: Buffer[] = []
      for (const segment of committables as unknown as readonly OutboxSegment[]) {
        for await (const record of context.readOutbox(segment)) lines.push(Buffer.from(record), Buffer.from('\n'))
      }
      await disk.createExclusive(`${folder}/epoch-${String(epoch).padStart(12, '0')}.jsonl`, Buffer.concat(lines))
    },
    async close() {},
  }
}
