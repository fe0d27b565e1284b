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
    ['Late', 'number', (row) => formatCount(row.lateDropped)],
    ['Dead', 'number', (row) => formatCount(row.deadLettered), () => 'dead-lettered'],
    [
      'Busy',
      'load',
      (row) => meter(row.busy, row.busy >= 0.9 ? 'hot' : 'busy'),
      (row) => `on the worker's thread ${formatPercent(row.running)} of the time`,
    ],
    ['Blocked', 'load', (row) => meter(row.backPressured, 'blocked'), () => 'no room downstream'],
    ['Idle', 'number', (row) => formatPercent(row.idle), () => 'nothing to do'],
    ['Skew', '', (row) => skewMark(row, status.skew)],
    [
      'Key groups',
      'number',
      (row) => (row.keyGroups === null ? unknown : `${row.keyGroups.from}–${row.keyGroups.to - 1}`),
      () => 'those that this subtask owns',
    ],
    ['State', 'number', (row) => formatBytes(row.stateBytes)],
    [
      'Watermark',
      'time',
      (row) => (row.ended ? 'end of input' : formatClock(row.watermarkMs)),
      (row) => `${formatTime(row.watermarkMs)} UTC`,
    ],
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

/** Marks the subtask with more than its share of records or of state. */
function skewMark(row, skews) {
  const skew = skews.find((one) => one.vertex === row.vertex)
  if (skew === undefined || !skew.isSkewed) return ''
  const parts = [
    [skew.records, 'records'],
    [skew.state, 'state'],
  ]
  return parts
    .filter(([hottest]) => hottest !== null && hottest.subtask === row.subtask && hottest.ratio >= 1.5)
    .map(([hottest, what]) => pill('skewed', `${hottest.ratio.toFixed(1)}× ${what}`))
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
    [
      'Alignment',
      'number',
      (row) => formatDuration(row.alignmentMsMax),
      (row) =>
        row.alignmentAt === null ? 'first to last barrier' : `longest in ${subtaskName(status, row.alignmentAt)}`,
    ],
    ['Barriers', 'number', (row) => formatDuration(row.barrierMsMax), () => 'trigger to the last cut; holds alignment'],
    ['Sync', 'number', (row) => formatDuration(row.syncMsMax), () => 'longest cut: the subtask stands still'],
    ['Async', 'number', (row) => formatDuration(row.asyncMsMax), () => 'writing files, beside processing'],
    ['Commit', 'number', (row) => formatDuration(row.commitMs), () => 'writing the manifest'],
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

function subtaskName(status, { vertex, subtask }) {
  return `${status.vertices.find((one) => one.id === vertex)?.name ?? vertex} #${subtask}`
}

/** Splits are always a little apart; less than this is not worth a notice. */
const noticeMs = 1000

/** Which split holds time back, by how much and why; above the table. */
function heldNotice(held) {
  if (held === null || held.reason === 'level' || (held.behindMs !== null && held.behindMs < noticeMs)) return null
  const by =
    held.behindMs === null ? 'holds all time back.' : `is ${formatDuration(held.behindMs)} behind and holds time back.`
  return h('p', { class: 'held-notice' }, h('strong', null, held.split), ` of ${held.vertexName} ${by} ${held.why}`)
}

/** One line an alignment group: what it allows, and who waits. */
function alignmentNotes(status) {
  if (status.alignment.length === 0) return null
  return h(
    'ul',
    { class: 'alignment' },
    status.alignment.map((group) => {
      const paused = group.subtasks.filter((one) => one.state === 'paused')
      const drift = Math.max(0, ...group.subtasks.map((one) => one.driftMs ?? 0))
      const waiting = paused.map((one) => subtaskName(status, one)).join(', ')
      return h(
        'li',
        { key: group.group },
        h('strong', null, `Alignment ${group.group}`),
        ` drift ${formatDuration(drift)} of ${formatDuration(group.maxDriftMs)} allowed; `,
        paused.length === 0 ? 'nobody waits' : `paused: ${waiting}`,
      )
    }),
  )
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
    ['Last record', 'number', (row) => (row.records === 0 ? 'none yet' : `${formatDuration(row.silentMs)} ago`)],
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
  return card('watermarks', 'Watermark per split', note, [heldNotice(held), alignmentNotes(status), body])
}

function splitMark(row, isHeld, held) {
  if (row.idle) return pill('idle', 'idle')
  if (row.paused) return pill('paused', 'paused by alignment')
  if (!isHeld) return ''
  return held.behindMs === 0 ? pill('sets', 'sets the time') : pill('holds', 'holds time back')
}

/** Operators of all tasks with their time, and a line for each of their states. */
export function operatorsCard(status) {
  const rows = status.vertices.flatMap((vertex) =>
    vertex.operatorTotals.flatMap((operator) => [
      { key: `${vertex.id}/${operator.uid}`, operator, table: null },
      ...operator.tables.map((table) => ({ key: `${vertex.id}/${operator.uid}/${table.name}`, operator, table })),
    ]),
  )
  const own = (show) => (row) => (row.table === null ? show(row.operator) : '')
  const state = (show) => (row) => (row.table === null ? '' : show(row.table))
  const columns = [
    [
      'Operator',
      'name',
      (row) => (row.table === null ? row.operator.name : `↳ ${row.table.name}`),
      (row) => row.operator.uid,
    ],
    ['In', 'number', own((one) => formatCount(one.recordsIn))],
    ['Out', 'number', own((one) => formatCount(one.recordsOut))],
    ['Busy', 'load', own((one) => meter(one.busy, one.busy >= 0.9 ? 'hot' : 'busy'))],
    ['Blocked', 'load', own((one) => meter(one.backPressured, 'blocked'))],
    ['Idle', 'number', own((one) => formatPercent(one.idle))],
    ['Entries', 'number', state((one) => formatCount(one.entries)), () => 'in memory and in the store'],
    ['Memory', 'number', (row) => formatBytes(row.table === null ? row.operator.stateBytes : row.table.memoryBytes)],
    ['Stored', 'number', state((one) => formatBytes(one.storedBytes)), () => 'estimate for all entries'],
    ['Last checkpoint', 'number', state((one) => formatBytes(one.checkpointBytes)), () => 'changes that it took'],
  ]
  const body =
    rows.length === 0
      ? h('p', { class: 'empty' }, 'No operator has reported yet.')
      : table('Operators and state', columns, rows.slice(0, rowsMax * 2), (row) => ({
          key: row.key,
          class: row.table === null ? null : 'state-row',
        }))
  return card('operators', 'Operators and state', h('span', { class: 'note' }, 'all subtasks together'), body, 'wide')
}

export function sinksCard(status) {
  const columns = [
    ['Sink', 'name', (row) => row.name, (row) => row.id],
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
