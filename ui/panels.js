/**
 * Header, notices, big numbers, chart and lists of the page. Used by main.js; pure descriptions.
 */
import { h } from './dom.js'
import { groupExceptions } from './exceptions.js'
import {
  formatBytes,
  formatClock,
  formatCount,
  formatDuration,
  formatExact,
  formatRate,
  formatTime,
  unknown,
} from './format.js'
import { historyMs } from './rates.js'

export const endedStates = ['finished', 'failed', 'cancelled']

export function header(status, jobs, onPick) {
  const uptimeMs = status.nowMs - status.startedAtMs
  const facts = [
    ['Uptime', formatDuration(uptimeMs), `started ${formatTime(status.startedAtMs)} UTC`],
    ['Restarts', formatCount(status.restarts), ''],
    ['State backend', status.stateBackend, status.checkpointDirectory ?? 'no checkpoint directory'],
    ['Workers', formatCount(status.workers), 'worker threads'],
    ['Parallelism', formatCount(status.parallelism), 'default subtasks per operator'],
  ]
  return h(
    'header',
    { class: 'top' },
    h(
      'div',
      { class: 'brand' },
      h('img', { src: '/icon.svg', alt: '', width: 30, height: 30 }),
      h('span', null, 'Millrace'),
    ),
    h(
      'div',
      { class: 'title' },
      h('h1', { title: status.name }, status.name),
      h('span', { class: `badge state-${status.state}` }, status.state),
    ),
    jobs.length > 1 ? jobPicker(status, jobs, onPick) : null,
    h(
      'dl',
      { class: 'facts' },
      facts.map(([name, value, title]) => h('div', { title }, h('dt', null, name), h('dd', null, value))),
    ),
  )
}

function jobPicker(status, jobs, onPick) {
  return h(
    'label',
    { class: 'picker' },
    'Job ',
    h(
      'select',
      { onchange: (event) => onPick(event.target.value) },
      jobs.map((job) => h('option', { key: job.id, value: job.id, selected: job.id === status.id }, job.name)),
    ),
  )
}

/** What the visitor has to know about the connection; empty while all is well. */
export function connectionNotice(connection, status, nowMs) {
  const live = { class: 'notices', role: 'status' }
  const isOver = status !== null && endedStates.includes(status.state)
  if (isOver) return h('div', live, endNotice(connection, status))
  if (connection.kind === 'lost') {
    const since = status === null ? '' : ` These figures are from ${formatClock(status.nowMs)} UTC.`
    return h(
      'div',
      live,
      h('p', { class: 'notice bad' }, h('strong', null, 'Connection lost.'), `${since} `, countdown(connection, nowMs)),
    )
  }
  if (status !== null && status.state === 'restarting') {
    const cause = status.exceptions.at(-1)
    return h(
      'div',
      live,
      h(
        'p',
        { class: 'notice warn' },
        h('strong', null, 'Restarting'),
        ' from the last checkpoint.',
        cause === undefined ? null : h('span', { class: 'notice-cause', title: cause.message }, cause.message),
      ),
    )
  }
  return h('div', live)
}

/** Counts down twice a second: not for a screen reader to read out each time. */
function countdown(connection, nowMs) {
  const seconds = Math.max(0, Math.ceil((connection.retryAtMs - nowMs) / 1000))
  return h('span', { 'aria-hidden': 'true' }, seconds > 0 ? `Trying again in ${seconds} s.` : 'Trying again …')
}

const endings = {
  failed: ['bad', 'The job failed.'],
  finished: ['good', 'The job is finished.'],
  cancelled: ['warn', 'The job was cancelled.'],
}

/** How the job ended; with most programs the process ends then too, and the figures are the last. */
function endNotice(connection, status) {
  const [tone, text] = endings[status.state]
  const cause = status.state === 'failed' ? status.exceptions.at(-1) : undefined
  const last =
    connection.kind === 'lost'
      ? ` Its process has ended or does not answer: these figures are from ${formatClock(status.nowMs)} UTC.`
      : ''
  return h(
    'p',
    { class: `notice ${tone}` },
    h('strong', null, text),
    last,
    cause === undefined ? null : h('span', { class: 'notice-cause', title: cause.message }, cause.message),
  )
}

/** A page without a job: connecting, nothing runs, or a token is needed. */
export function emptyPage(connection, nowMs, onToken) {
  const content = {
    connecting: () => [h('h1', null, 'Connecting …'), h('p', null, 'Asking the process for its jobs.')],
    live: () => [h('h1', null, 'Connecting …'), h('p', null, 'Waiting for the first figures.')],
    'no-job': () => [
      h('h1', null, 'No job runs here yet'),
      h('p', null, 'This process is up, but has no job. The page fills by itself when one starts.'),
    ],
    lost: () => [
      h('h1', null, 'No answer from the process'),
      h(
        'p',
        null,
        `It may have ended. Trying again in ${Math.max(0, Math.ceil((connection.retryAtMs - nowMs) / 1000))} s.`,
      ),
    ],
    'needs-token': () => [
      h('h1', null, 'Token needed'),
      h('p', null, 'This dashboard is open to the network, so it asks for the token that the job was started with.'),
      connection.isRefused ? h('p', { class: 'refused' }, 'The server did not accept that token.') : null,
      h(
        'form',
        {
          onsubmit: (event) => {
            event.preventDefault()
            onToken(event.target.elements.namedItem('token').value.trim())
          },
        },
        h('label', { for: 'token' }, 'Token'),
        h('input', { id: 'token', name: 'token', type: 'password', autocomplete: 'off', required: true }),
        h('button', { type: 'submit' }, 'Open'),
      ),
    ],
  }
  return h(
    'main',
    { class: 'empty-page' },
    h('img', { src: '/icon.svg', alt: '', width: 56, height: 56 }),
    content[connection.kind](),
  )
}

function tile(label, value, detail, props = {}) {
  return h(
    'div',
    { class: `tile ${props.tone ?? ''}` },
    h('dt', null, label),
    h(
      'dd',
      { class: 'big', title: props.title },
      value,
      props.unit ? h('span', { class: 'unit' }, ` ${props.unit}`) : null,
    ),
    h('dd', { class: 'detail', title: detail }, detail),
  )
}

export function tiles(status, rates) {
  const { totals } = status
  const isEnded = endedStates.includes(status.state)
  const last = status.checkpoints.findLast((checkpoint) => checkpoint.status === 'completed')
  const lagMs = status.watermarkMs === null ? null : status.nowMs - status.watermarkMs
  const held = status.heldBackBy
  const allEnded = status.subtasks.length > 0 && status.subtasks.every((subtask) => subtask.ended)
  const noWatermark = allEnded || status.state === 'finished' ? 'end of input' : isEnded ? 'none' : 'none yet'
  const watermark = formatTime(status.watermarkMs)
  const [day, clock] = watermark.split(' ')
  return h(
    'dl',
    { class: 'tiles' },
    tile('Events in', formatRate(rates.rate('total/in')), `${formatCount(totals.recordsIn)} in total`, {
      unit: '/s',
      title: `${formatExact(totals.recordsIn)} in total`,
    }),
    tile('Events out', formatRate(rates.rate('total/out')), `${formatCount(totals.recordsOut)} in total`, {
      unit: '/s',
      title: `${formatExact(totals.recordsOut)} in total`,
    }),
    tile('Watermark', clock ?? noWatermark, clock ? `${day} UTC` : 'event time reached', { title: watermark }),
    tile(
      'Watermark lag',
      formatDuration(lagMs),
      !isEnded && held !== null && (held.behindMs ?? 1) > 0 ? `held back by ${held.split}` : 'behind the wall clock',
    ),
    tile(
      'Last checkpoint',
      last ? formatDuration(last.durationMs) : unknown,
      last
        ? `${formatBytes(last.stateBytes)} state, ${formatBytes(last.newBytes)} new`
        : status.checkpointIntervalMs === null
          ? 'checkpoints are off'
          : 'none completed yet',
    ),
    tile(
      'Not in the output',
      formatCount(totals.late + totals.deadLettered),
      `${formatCount(totals.late)} late, ${formatCount(totals.deadLettered)} dead-lettered`,
      {
        tone: totals.deadLettered > 0 ? 'tone-warn' : '',
        title: `${formatExact(totals.filtered)} filtered by the job`,
      },
    ),
  )
}

const chart = { width: 600, height: 150 }

/** Runs of points without a hole of more than `holeMs`: while the connection was lost nothing is drawn. */
const holeMs = 3000
function runsOf(points) {
  const runs = []
  let last = null
  for (const point of points) {
    if (last === null || point.atMs - last.atMs > holeMs) runs.push([])
    runs[runs.length - 1].push(point)
    last = point
  }
  return runs
}

function xOf(point, nowMs) {
  return (chart.width * (1 - (nowMs - point.atMs) / historyMs)).toFixed(1)
}

function path(points, nowMs, top, index) {
  return points
    .filter((point) => point.values[index] !== null)
    .map((point, at) => {
      const y = chart.height - 2 - (point.values[index] / top) * (chart.height - 8)
      return `${at === 0 ? 'M' : 'L'}${xOf(point, nowMs)} ${y.toFixed(1)}`
    })
    .join('')
}

function area(run, nowMs, top) {
  const bottom = chart.height
  return `${path(run, nowMs, top, 0)}L${xOf(run.at(-1), nowMs)} ${bottom}L${xOf(run[0], nowMs)} ${bottom}Z`
}

/** The next of 1, 2, 5 times a power of ten. */
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, value)))
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? value
}

export function throughput(status, history, rates) {
  const shown = history.points.filter((point) => point.values[0] !== null)
  const highest = Math.max(1, ...shown.flatMap((point) => point.values.map((value) => value ?? 0)))
  const top = niceTop(highest)
  const runs = runsOf(shown)
  const line = (index) => runs.map((run) => path(run, status.nowMs, top, index)).join('')
  const key = (name, words, rate) =>
    h('li', null, h('span', { class: `swatch ${name}` }), `${words} `, h('b', null, `${formatRate(rate)}/s`))
  return h(
    'section',
    { class: 'card', 'aria-labelledby': 'rate-title' },
    h(
      'div',
      { class: 'card-head' },
      h('h2', { id: 'rate-title' }, 'Throughput, last 2 minutes'),
      h(
        'ul',
        { class: 'legend' },
        key('line-in', 'in', rates.rate('total/in')),
        key('line-out', 'out', rates.rate('total/out')),
      ),
    ),
    shown.length < 2
      ? h('p', { class: 'empty' }, 'Collecting the first figures …')
      : h(
          'figure',
          { class: 'chart' },
          h('span', { class: 'axis axis-top' }, `${formatRate(top)}/s`),
          h(
            'svg',
            {
              viewBox: `0 0 ${chart.width} ${chart.height}`,
              preserveAspectRatio: 'none',
              role: 'img',
              'aria-label': `Events in now ${formatRate(rates.rate('total/in'))} per second, highest ${formatRate(highest)}`,
            },
            [0, 0.5, 1].map((share) => {
              const y = 6 + share * (chart.height - 8)
              return h('path', { class: 'grid-line', d: `M0 ${y}H${chart.width}` })
            }),
            h('path', { class: 'area-in', d: runs.map((run) => area(run, status.nowMs, top)).join('') }),
            h('path', { class: 'line-in', d: line(0) }),
            h('path', { class: 'line-out', d: line(1) }),
          ),
          h(
            'figcaption',
            { class: 'axis axis-bottom' },
            h('span', null, '2 min ago'),
            h('span', null, '1 min ago'),
            h('span', null, 'now'),
          ),
        ),
  )
}

const groupsMax = 10

export function exceptionsCard(status, exceptions) {
  const groups = groupExceptions(exceptions.length > 0 ? exceptions : status.exceptions)
  const shown = groups.slice(0, groupsMax)
  return h(
    'section',
    { class: 'card', 'aria-labelledby': 'exceptions-title' },
    h(
      'div',
      { class: 'card-head' },
      h('h2', { id: 'exceptions-title' }, 'Exceptions'),
      h('span', { class: 'note' }, `${formatCount(status.restarts)} restarts`),
    ),
    shown.length === 0
      ? h('p', { class: 'empty' }, 'None. Nothing has failed so far.')
      : h(
          'ul',
          { class: 'exceptions' },
          shown.map(({ exception, count, firstAtMs }) =>
            h(
              'li',
              { key: `${firstAtMs}/${exception.where}/${exception.message}` },
              h(
                'p',
                { class: 'exception-head' },
                h('time', { datetime: new Date(exception.atMs).toISOString() }, formatTime(exception.atMs)),
                count === 1
                  ? null
                  : h('span', { class: 'exception-count' }, `${count} times since ${formatClock(firstAtMs)}`),
                h('span', null, exception.where),
                exception.code === null ? null : h('code', null, exception.code),
              ),
              h('p', { class: 'exception-message' }, exception.message),
              exception.stack === null
                ? null
                : h('details', null, h('summary', null, 'Stack'), h('pre', { tabindex: 0 }, exception.stack)),
            ),
          ),
        ),
  )
}
