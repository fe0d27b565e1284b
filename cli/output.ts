/**
 * What a running job prints: events as text on stderr or as JSON lines on stdout, and on a terminal one
 * progress line that is drawn over again.
 */
import type { JobEvent, JobStatus } from '../engine/runtime/status.ts'

export interface RunOutput {
  onEvent(event: JobEvent): void
  /** A line for people, on stderr. */
  note(line: string): void
  /** Begins the progress line. */
  watch(status: () => JobStatus): void
  close(): void
}

/** Where output goes; `process` in real life. */
export interface OutputStreams {
  readonly stdout: { write(text: string): unknown; readonly isTTY?: boolean }
  readonly stderr: { write(text: string): unknown; readonly isTTY?: boolean; readonly columns?: number }
}

const PROGRESS_EVERY_MS = 500

const number = new Intl.NumberFormat('en-US')

function bytes(count: number): string {
  if (count < 1_024) return `${count} B`
  const units = ['KiB', 'MiB', 'GiB', 'TiB']
  let value = count
  let unit = -1
  while (value >= 1_024 && unit < units.length - 1) {
    value /= 1_024
    unit++
  }
  return `${value.toFixed(1)} ${units[unit]}`
}

/** The text of an event, or null when people need not see it. */
export function describeEvent(event: JobEvent): string | null {
  switch (event.type) {
    case 'started': {
      const from = event.restoredFrom === null ? '' : `, continues ${event.restoredFrom}`
      const place = event.checkpointDirectory === null ? '' : ` in ${event.checkpointDirectory}`
      return `job "${event.job}" started, state ${event.stateBackend}${place}${from}`
    }
    case 'checkpoint':
      return null
    case 'checkpoint-failed':
      return `checkpoint ${event.id} failed: ${event.reason}`
    case 'restart':
      // The cause came as an exception just before.
      return `restart ${event.attempt} from the last checkpoint`
    case 'exception':
      return `exception in ${event.where}: ${event.message}`
    case 'finished':
      return (
        `${event.state}: ${number.format(event.recordsIn)} records in, ${number.format(event.recordsOut)} out, ` +
        `${number.format(event.late)} late, ${number.format(event.deadLettered)} dead-lettered, ` +
        `${number.format(event.checkpoints)} checkpoints`
      )
  }
}

/** Records that the job's sources have read. */
export function recordsRead(status: JobStatus): number {
  const sources = new Set(status.vertices.filter((vertex) => vertex.role === 'source').map((vertex) => vertex.id))
  let records = 0
  for (const subtask of status.subtasks) if (sources.has(subtask.vertex)) records += subtask.recordsIn
  return records
}

/** The slowest watermark of the tasks behind the sources; null while there is none. */
function watermarkOf(status: JobStatus): number | null {
  let lowest: number | null = null
  for (const { watermarkMs } of status.subtasks) {
    if (watermarkMs !== null && (lowest === null || watermarkMs < lowest)) lowest = watermarkMs
  }
  return lowest
}

/** A watermark for people; programs may count time from anywhere, so not every number is a date. */
function timeText(ms: number | null): string {
  if (ms === null) return '-'
  const date = new Date(ms)
  return Number.isNaN(date.getTime()) ? String(ms) : date.toISOString()
}

/** The progress line: events, events/s, watermark, last checkpoint. */
export function progressLine(status: JobStatus, eventsPerSecond: number): string {
  const last = status.checkpoints.findLast((checkpoint) => checkpoint.status === 'completed')
  const checkpoint =
    last === undefined ? '-' : `${last.id} in ${last.durationMs ?? 0} ms, ${bytes(last.stateBytes ?? 0)}`
  return [
    `${number.format(recordsRead(status))} events`,
    `${number.format(Math.round(eventsPerSecond))} events/s`,
    `watermark ${timeText(watermarkOf(status))}`,
    `checkpoint ${checkpoint}`,
  ].join('  ')
}

/** Human output on stderr. */
export function humanOutput(streams: OutputStreams): RunOutput {
  let timer: NodeJS.Timeout | null = null
  let isLineShown = false
  const { stderr } = streams
  const erase = (): void => {
    if (isLineShown) stderr.write('\r\u001b[2K')
    isLineShown = false
  }
  const note = (line: string): void => {
    erase()
    stderr.write(`${line}\n`)
  }
  let releaseStdout = (): void => {}
  return {
    note,
    onEvent(event) {
      const text = describeEvent(event)
      if (text !== null) note(text)
    },
    watch(status) {
      if (stderr.isTTY !== true) return
      releaseStdout = beforeWrites(streams.stdout, erase)
      let before = 0
      let beforeAt = performance.now()
      timer = setInterval(() => {
        const now = status()
        const at = performance.now()
        const records = recordsRead(now)
        // A restart counts from 0 again.
        const line = progressLine(now, (Math.max(0, records - before) * 1_000) / (at - beforeAt))
        before = records
        beforeAt = at
        erase()
        stderr.write(line.slice(0, (stderr.columns ?? 120) - 1))
        isLineShown = true
      }, PROGRESS_EVERY_MS)
      timer.unref()
    },
    close() {
      if (timer !== null) clearInterval(timer)
      timer = null
      releaseStdout()
      erase()
    },
  }
}

/** On a terminal, rows on stdout share the screen with the progress line, which has to go before each. */
function beforeWrites(stdout: OutputStreams['stdout'], action: () => void): () => void {
  if (stdout.isTTY !== true) return () => {}
  const write = stdout.write
  stdout.write = function (this: unknown, ...args: [string]) {
    action()
    return write.apply(stdout, args)
  }
  return () => {
    stdout.write = write
  }
}

/** Events as JSON lines on stdout; notes stay on stderr. */
export function jsonOutput(streams: OutputStreams): RunOutput {
  return {
    note: (line) => streams.stderr.write(`${line}\n`),
    onEvent: (event) => streams.stdout.write(`${JSON.stringify(event)}\n`),
    watch: () => {},
    close: () => {},
  }
}
