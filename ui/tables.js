/**
 * The tables of the page: subtasks, checkpoints, watermarks per split, sinks. Used by main.js.
 *
 * Invariant: a table shows at most `rowsMax` rows until it is asked for all, so that a job of a
 * thousand subtasks does not slow the page down.
 */
import { h } from './dom.js'
import {
  formatBytes,
  formatClock,
  formatCount,
  formatDuration,
  formatExact,
  formatPercent,
  formatRate,
  formatTime,
  unknown,
} from './format.js'

const rowsMax = 24

/** `columns`: [title, class, cell(row), title(row)?]. The first column heads its row. */
function table(label, columns, rows, rowProps) {
  return h(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': label },
    h(
      'table',
      null,
      h(
        'thead',
        null,
        h(
          'tr',
          null,
          columns.map(([title, kind]) => h('th', { scope: 'col', class: kind }, title)),
        ),
      ),
      h(
        'tbody',
        null,
        rows.map((row) =>
          h(
            'tr',
            rowProps(row),
            columns.map(([, kind, cell, title], index) =>
              index === 0
                ? h('th', { scope: 'row', class: kind, title: title?.(row) }, cell(row))
                : h('td', { class: kind, title: title?.(row) }, cell(row)),
            ),
          ),
        ),
      ),
    ),
  )
}

function card(id, title, note, body, className = '') {
  return h(
    'section',
    { class: `card ${className}`, 'aria-labelledby': `${id}-title` },
    h('div', { class: 'card-head' }, h('h2', { id: `${id}-title` }, title), note),
    body,
  )
}

function meter(share, name) {
  const percent = Math.round(Math.min(1, Math.max(0, share)) * 100)
  return h(
    'span',
    { class: 'meter' },
    h('span', { class: 'meter-track' }, h('span', { class: `meter-fill ${name}`, 'width%': percent })),
    h('span', { class: 'meter-text' }, formatPercent(share)),
  )
}

function pill(name, words) {
  return h('span', { class: `pill ${name}` }, words)
}

export function subtasksCard(status, rates, view) {
  const vertices = new Map(status.vertices.map((vertex) => [vertex.id, vertex]))
  const nameOf = (subtask) => vertices.get(subtask.vertex)?.name ?? `vertex ${subtask.vertex}`
  const rateOf = (kind) => (subtask) => rateText(rates.rate(`${kind}/${subtask.vertex}/${subtask.subtask}`))
  const all = status.subtasks.filter((subtask) => view.selected === null || subtask.vertex === view.selected)
  const shown = view.showAll ? all : all.slice(0, rowsMax)
  const columns = [
    ['Task', 'name', (row) => nameOf(row), nameOf],
    ['#', 'number', (row) => row.subtask],
    ['Worker', 'number', (row) => row.worker],
    ['In/s', 'number', rateOf('in'), (row) => `${formatExact(row.recordsIn)} in total`],
    ['Out/s', 'number', rateOf('out'), (row) => `${formatExact(row.recordsOut)} in total`],
    ['Records in', 'number', (row) => formatCount(row.recordsIn), (row) => formatExact(row.recordsIn)],
    ['Records out', 'number', (row) => formatCount(row.recordsOut), (row) => formatExact(row.recordsOut)],
    ['Late', 'number', (row) => formatCount(row.lateDropped)],
    ['Dead', 'number', (row) => formatCount(row.deadLettered), () => 'dead-lettered'],
    ['Busy', 'load', (row) => meter(row.busy, row.busy >= 0.9 ? 'hot' : 'busy')],
    ['Blocked', 'load', (row) => meter(row.backPressured, 'blocked')],
    ['State', 'number', (row) => formatBytes(row.stateBytes)],
    ['Watermark', 'time', (row) => (row.ended ? 'end of input' : formatTime(row.watermarkMs))],
  ]
  const selectedName = vertices.get(view.selected)?.name
  const note =
    selectedName === undefined
      ? h('span', { class: 'note' }, `${formatCount(all.length)} in all; choose a box of the graph to see its own`)
      : h('button', { type: 'button', class: 'link', onclick: view.onClear }, `only ${selectedName} – show all tasks`)
  const body =
    all.length === 0
      ? h('p', { class: 'empty' }, 'No subtask has reported yet.')
      : [
          table('Subtasks', columns, shown, (row) => ({ key: `${row.vertex}/${row.subtask}` })),
          all.length > shown.length
            ? h('button', { type: 'button', class: 'more', onclick: view.onShowAll }, `Show all ${all.length} subtasks`)
            : null,
        ]
  return card('subtasks', 'Subtasks', note, body, 'wide')
}

function rateText(rate) {
  return rate === null ? unknown : formatRate(rate)
}

const checkpointWords = { 'in-progress': 'in progress', completed: 'completed', failed: 'failed' }

export function checkpointsCard(status) {
  const shown = status.checkpoints.slice(-12).reverse()
  const columns = [
    ['Id', 'number', (row) => row.id],
    ['Epoch', 'number', (row) => row.epoch ?? unknown],
    ['Status', '', (row) => pill(`checkpoint-${row.status}`, checkpointWords[row.status])],
    ['Kind', '', (row) => row.kind],
    ['Triggered', 'time', (row) => formatClock(row.triggeredAtMs), (row) => `${formatTime(row.triggeredAtMs)} UTC`],
    ['Duration', 'number', (row) => formatDuration(row.durationMs)],
    ['Alignment', 'number', (row) => formatDuration(row.alignmentMsMax)],
    ['Size', 'number', (row) => formatBytes(row.stateBytes)],
    ['New', 'number', (row) => formatBytes(row.newBytes)],
    ['Failure', 'failure', (row) => row.failure ?? '', (row) => row.failure ?? undefined],
  ]
  const every = status.checkpointIntervalMs === null ? '' : `every ${formatDuration(status.checkpointIntervalMs)}, `
  const counts = `${formatCount(status.checkpointsCompleted)} completed, ${formatCount(status.checkpointsFailed)} failed`
  const empty =
    status.checkpointIntervalMs === null
      ? 'Checkpoints are off: after a crash this job starts from the beginning.'
      : 'None yet.'
  const body =
    shown.length === 0
      ? h('p', { class: 'empty' }, empty)
      : table('Checkpoints', columns, shown, (row) => ({ key: row.id }))
  return card('checkpoints', 'Checkpoints', h('span', { class: 'note' }, every + counts), body, 'wide')
}

export function watermarksCard(status) {
  const held = status.heldBackBy
  const isHeld = (row) =>
    held !== null && row.vertex === held.vertex && row.subtask === held.subtask && row.split === held.split
  const names = new Map(status.vertices.map((vertex) => [vertex.id, vertex.name]))
  // The one that holds time back comes first, then the oldest; idle splits last.
  const at = (row) => (isHeld(row) ? -Infinity : row.idle ? Infinity : (row.watermarkMs ?? -1e300))
  const sorted = [...status.splitWatermarks].sort((a, b) => (at(a) === at(b) ? 0 : at(a) - at(b)))
  const columns = [
    ['Split', 'name', (row) => row.split, (row) => row.split],
    ['Mark', '', (row) => splitMark(row, isHeld(row), held)],
    ['Watermark', 'time', (row) => formatTime(row.watermarkMs)],
    ['Source', 'name short', (row) => names.get(row.vertex) ?? row.vertex, (row) => names.get(row.vertex)],
    ['#', 'number', (row) => row.subtask],
  ]
  const note =
    held !== null && held.behindMs > 0
      ? h('span', { class: 'note' }, `the slowest is ${formatDuration(held.behindMs)} behind the fastest`)
      : null
  const body =
    sorted.length === 0
      ? h('p', { class: 'empty' }, 'No source has reported a split.')
      : table('Watermark per split', columns, sorted.slice(0, rowsMax), (row) => ({
          key: `${row.vertex}/${row.subtask}/${row.split}`,
          class: isHeld(row) ? 'held' : row.idle ? 'idle' : null,
        }))
  return card('watermarks', 'Watermark per split', note, body)
}

function splitMark(row, isHeld, held) {
  if (row.idle) return pill('idle', 'idle')
  if (!isHeld) return ''
  return held.behindMs === 0 ? pill('sets', 'sets the time') : pill('holds', 'holds time back')
}

export function sinksCard(status) {
  const columns = [
    ['Sink', 'name', (row) => row.id, (row) => row.id],
    ['Kind', '', (row) => row.kind],
    ['Guarantee', '', (row) => pill(row.guarantee.startsWith('exactly') ? 'exactly' : 'other', row.guarantee)],
    ['Epoch', 'number', (row) => row.markerEpoch ?? unknown, () => 'last epoch that this sink has applied'],
  ]
  const body =
    status.sinks.length === 0
      ? h('p', { class: 'empty' }, 'This job has no sink that reports.')
      : table('Sinks', columns, status.sinks, (row) => ({ key: row.id }))
  return card('sinks', 'Sinks', null, body)
}
