/**
 * The live page of a running job: follows the server's stream and draws it.
 *
 * Loaded by index.html. One state object, one `draw`; what came from the server is shown as it is and
 * greyed when the connection is lost.
 */
import { h, patch } from './dom.js'
import { fetchJson, follow, jobPath, storeToken } from './feed.js'
import { createGraphView } from './graph.js'
import { connectionNotice, emptyPage, endedStates, exceptionsCard, header, throughput, tiles } from './panels.js'
import { History, RateTracker } from './rates.js'
import { checkpointsCard, operatorsCard, sinksCard, subtasksCard, watermarksCard } from './tables.js'

const root = document.getElementById('app')
const drawGraph = createGraphView()
const state = {
  connection: { kind: 'connecting' },
  jobs: [],
  status: null,
  rates: new RateTracker(),
  history: new History(),
  exceptions: [],
  exceptionsKey: '',
  selected: null,
  showAll: false,
}

function chosenId() {
  return decodeURIComponent(location.hash.slice(1))
}

function countersOf(status) {
  const counters = new Map([
    ['total/in', status.totals.recordsIn],
    ['total/out', status.totals.recordsOut],
  ])
  const add = (key, count) => counters.set(key, (counters.get(key) ?? 0) + count)
  for (const subtask of status.subtasks) {
    for (const [kind, count] of [
      ['in', subtask.recordsIn],
      ['out', subtask.recordsOut],
    ]) {
      add(`${kind}/${subtask.vertex}`, count)
      add(`${kind}/${subtask.vertex}/${subtask.subtask}`, count)
    }
  }
  return counters
}

/** Stacks are not part of the stream; they are fetched when there is a new exception. */
async function refreshExceptions(status) {
  const last = status.exceptions.at(-1)
  const key = last === undefined ? '' : `${status.id}/${status.exceptions.length}/${last.atMs}/${last.message}`
  if (key === state.exceptionsKey) return
  state.exceptionsKey = key
  state.exceptions = []
  if (key === '') return
  try {
    const { exceptions } = await fetchJson(`${jobPath(status.id)}/exceptions`)
    if (state.exceptionsKey === key) state.exceptions = exceptions
  } catch {
    // The messages are shown without their stacks; the next status tries again.
    state.exceptionsKey = ''
  }
  scheduleDraw()
}

function onStatus(status) {
  if (state.status !== null && state.status.id !== status.id) {
    state.rates = new RateTracker()
    state.history = new History()
    state.selected = null
    state.showAll = false
  }
  state.status = status
  // What has ended has no rate, and its last one says nothing.
  if (endedStates.includes(status.state)) state.rates = new RateTracker()
  else state.rates.observe(status.nowMs, countersOf(status))
  state.history.add(status.nowMs, [state.rates.rate('total/in'), state.rates.rate('total/out')])
  refreshExceptions(status)
  scheduleDraw()
}

function page() {
  const { status, rates, connection } = state
  const isStale = connection.kind !== 'live'
  const select = (vertex) => {
    state.selected = state.selected === vertex ? null : vertex
    state.showAll = false
    scheduleDraw()
  }
  const showAll = () => {
    state.showAll = true
    scheduleDraw()
  }
  const subtaskView = {
    selected: state.selected,
    showAll: state.showAll,
    onClear: () => select(state.selected),
    onShowAll: showAll,
  }
  return [
    header(status, state.jobs, (id) => {
      location.hash = encodeURIComponent(id)
    }),
    connectionNotice(connection, status, Date.now()),
    h(
      'main',
      { class: isStale ? 'stale' : '' },
      tiles(status, rates),
      drawGraph(status, rates, state.selected, select),
      throughput(status, state.history, rates),
      watermarksCard(status),
      subtasksCard(status, rates, subtaskView),
      operatorsCard(status),
      checkpointsCard(status),
      sinksCard(status),
      exceptionsCard(status, state.exceptions),
    ),
    footer(),
  ]
}

function footer() {
  return h(
    'footer',
    null,
    'All times are UTC. ',
    h('a', { href: '/metrics' }, 'Prometheus metrics'),
    ' · ',
    h('a', { href: jobPath(state.status.id) }, 'this job as JSON'),
  )
}

function draw() {
  const isLocked = state.connection.kind === 'needs-token'
  document.title = state.status === null ? 'Millrace' : `${state.status.name} – ${state.status.state} – Millrace`
  const content =
    state.status === null || isLocked
      ? emptyPage(state.connection, Date.now(), (token) => {
          storeToken(token)
          state.connection = { kind: 'connecting' }
          again()
          scheduleDraw()
        })
      : page()
  patch(root, [content])
}

let isDrawScheduled = false
function scheduleDraw() {
  if (isDrawScheduled) return
  isDrawScheduled = true
  requestAnimationFrame(() => {
    isDrawScheduled = false
    draw()
  })
}

root.replaceChildren()
scheduleDraw()
const again = follow((jobs) => (jobs.find((job) => job.id === chosenId()) ?? jobs[0])?.id ?? null, {
  connection(connection) {
    state.connection = connection
    scheduleDraw()
  },
  jobs(jobs) {
    state.jobs = jobs
  },
  status: onStatus,
})
addEventListener('hashchange', () => again())
// The countdown of a lost connection moves on without events.
setInterval(() => {
  if (state.connection.kind === 'lost') scheduleDraw()
}, 500)
