/**
 * The jobs that there are golden checkpoints of. A checkpoint lies in the folder JOB-NUMBER-BACKEND beside this file.
 */
import { type GoldenRun, startGolden } from './golden-job.ts'
import { startWindowRows } from './window-rows-job.ts'

export interface GoldenJob {
  readonly start: (run: GoldenRun) => ReturnType<typeof startGolden>
  /** Rows before the savepoint, and until the end. */
  readonly rowsBefore: number
  readonly rows: number
  /** By what came out, whether all rows before the savepoint were taken. */
  readonly isReady: (lines: readonly string[]) => boolean
}

export const GOLDEN_JOBS: Readonly<Record<string, GoldenJob>> = {
  format: {
    start: startGolden,
    rowsBefore: 40,
    rows: 90,
    isReady: (lines) => lines.filter((line) => line.startsWith('k')).length >= 40,
  },
  'window-rows': {
    start: startWindowRows,
    rowsBefore: 200,
    rows: 300,
    isReady: (lines) => lines.includes('row 199'),
  },
}
