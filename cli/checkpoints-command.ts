/**
 * `millrace checkpoints list|verify DIR`.
 */
import { existsSync } from 'node:fs'
import { type ParsedFlags, usageError } from '../engine/api/run-flags.ts'
import { type CheckpointSummary, listCheckpoints, verifyCheckpoints } from '../engine/checkpoint/verify.ts'
import { isObjectUrl } from '../engine/contract/object-store.ts'
import { nodeIo } from '../engine/runtime/node-io.ts'

const COLUMNS = ['number', 'kind', 'epoch', 'taken', 'state bytes', 'path'] as const

function cells(summary: CheckpointSummary): string[] {
  const taken = summary.createdAtMs === null ? '-' : new Date(summary.createdAtMs).toISOString()
  return [
    String(summary.number),
    summary.error === null ? (summary.kind ?? '-') : 'INVALID',
    String(summary.epoch ?? '-'),
    taken,
    String(summary.stateBytes ?? '-'),
    summary.error === null ? summary.path : `${summary.path} (${summary.error})`,
  ]
}

function table(summaries: readonly CheckpointSummary[]): string {
  const rows = [[...COLUMNS], ...summaries.map(cells)]
  const widths = COLUMNS.map((_, k) => Math.max(...rows.map((row) => row[k]!.length)))
  return rows
    .map((row) =>
      row
        .map((cell, k) => cell.padEnd(widths[k]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

export async function checkpointsCommand(flags: ParsedFlags): Promise<number> {
  const [action, directory, stray] = flags.positionals
  if ((action !== 'list' && action !== 'verify') || directory === undefined || stray !== undefined) {
    throw usageError(
      'This command needs an action and a directory.',
      'Write millrace checkpoints list DIR, or verify DIR.',
    )
  }
  if (!isObjectUrl(directory) && !existsSync(directory))
    throw usageError(`There is no directory ${directory}.`, "Give a job's --checkpoint-dir.")
  return action === 'list' ? list(directory, flags.has('json')) : verify(directory, flags.has('json'))
}

async function list(directory: string, asJson: boolean): Promise<number> {
  const summaries = await listCheckpoints(nodeIo.disk, directory)
  process.stdout.write(`${asJson ? JSON.stringify(summaries) : table(summaries)}\n`)
  return 0
}

/** Exit code 1 when anything is wrong. */
async function verify(directory: string, asJson: boolean): Promise<number> {
  const found = await verifyCheckpoints(nodeIo.disk, directory)
  const { checkpoints, filesChecked, problems } = found
  if (asJson) process.stdout.write(`${JSON.stringify(found)}\n`)
  else {
    const verdict =
      problems.length === 0 ? 'all is well' : problems.length === 1 ? '1 problem' : `${problems.length} problems`
    const head = `${checkpoints.length} checkpoints, ${filesChecked} files: ${verdict}`
    process.stdout.write(`${[head, ...problems].join('\n')}\n`)
  }
  return problems.length === 0 ? 0 : 1
}
