/**
 * Draws the job graph as SVG: boxes with rates, watermark and load, and the edges between them.
 *
 * Used by main.js. A box is a button that limits the subtask table to its vertex. Load is shown by
 * colour, by the length of a bar and in words, so that colour is never the only sign.
 */
import { h } from './dom.js'
import { formatBytes, formatPercent, formatRate, formatTime, truncate, unknown } from './format.js'
import { layoutGraph } from './layout.js'

const size = { boxWidth: 226, boxHeight: 124, gapX: 74, gapY: 26, margin: 6 }
const pad = 14
const barWidth = size.boxWidth - 2 * pad

/** Sums and means over the subtasks of one vertex. */
export function vertexFigures(status, rates, vertex) {
  const subtasks = status.subtasks.filter((subtask) => subtask.vertex === vertex.id)
  const count = Math.max(1, subtasks.length)
  const running = subtasks.filter((subtask) => !subtask.ended)
  const times = running.filter((subtask) => !subtask.timeIdle).map((subtask) => subtask.watermarkMs)
  return {
    inRate: rates.rate(`in/${vertex.id}`),
    outRate: rates.rate(`out/${vertex.id}`),
    busy: subtasks.reduce((sum, subtask) => sum + subtask.busy, 0) / count,
    busyMax: Math.max(0, ...subtasks.map((subtask) => subtask.busy)),
    backPressured: subtasks.reduce((sum, subtask) => sum + subtask.backPressured, 0) / count,
    stateBytes: subtasks.reduce((sum, subtask) => sum + subtask.stateBytes, 0),
    watermarkMs: times.length === 0 || times.includes(null) ? null : Math.min(...times),
    isEnded: subtasks.length > 0 && running.length === 0,
    isKnown: subtasks.length > 0,
  }
}

function loadOf(figures) {
  if (!figures.isKnown) return 'unknown'
  if (figures.isEnded) return 'ended'
  if (figures.backPressured >= 0.5) return 'blocked'
  if (figures.busyMax >= 0.9) return 'hot'
  return figures.busy < 0.02 ? 'idle' : 'normal'
}

const loadWords = {
  unknown: 'no report yet',
  ended: 'end of input',
  blocked: 'back-pressured',
  hot: 'at its limit',
  idle: 'idle',
  normal: 'running',
}

/** Cuts text to a width in pixels; letters differ too much in width to count them. */
function createFitter() {
  const canvas = document.createElement('canvas').getContext('2d')
  const family = getComputedStyle(document.documentElement).fontFamily
  const known = new Map()
  return (words, width, font) => {
    const key = `${font}/${width}/${words}`
    if (!known.has(key)) {
      if (known.size > 1000) known.clear()
      canvas.font = `${font} ${family}`
      let length = [...words].length
      while (length > 1 && canvas.measureText(truncate(words, length)).width > width) length--
      known.set(key, truncate(words, length))
    }
    return known.get(key)
  }
}

function text(x, y, className, content, props) {
  return h('text', { x, y, class: className, ...props }, content)
}

/** Busy and back-pressured share one bar; what is left of it is idle time. */
function loadBar(figures) {
  const busy = Math.min(1, figures.busy) * barWidth
  const blocked = Math.min(1 - Math.min(1, figures.busy), figures.backPressured) * barWidth
  return h(
    'g',
    { transform: `translate(${pad} ${size.boxHeight - 15})` },
    h('rect', { class: 'bar-track', width: barWidth, height: 5, rx: 2.5 }),
    h('rect', { class: 'bar-busy', width: busy.toFixed(1), height: 5, rx: 2.5 }),
    h('rect', { class: 'bar-blocked', x: busy.toFixed(1), width: blocked.toFixed(1), height: 5, rx: 2.5 }),
  )
}

function box({ vertex, x, y }, figures, isSelected, onSelect, fit) {
  const load = loadOf(figures)
  const chain = vertex.operators.length > 1 ? vertex.operators.join(' → ') : vertex.role
  const watermark = figures.isEnded ? 'end of input' : formatTime(figures.watermarkMs)
  const words =
    `${vertex.name}, parallelism ${vertex.parallelism}, ${loadWords[load]}, ` +
    `${formatRate(figures.inRate)} records per second in, ${formatRate(figures.outRate)} out, ` +
    `busy ${formatPercent(figures.busy)}, back-pressured ${formatPercent(figures.backPressured)}, watermark ${watermark}`
  const right = size.boxWidth - pad
  return h(
    'g',
    {
      key: vertex.id,
      class: `vertex load-${load}${isSelected ? ' selected' : ''}`,
      transform: `translate(${x} ${y})`,
      role: 'button',
      tabindex: 0,
      'aria-pressed': isSelected ? 'true' : 'false',
      'aria-label': words,
      onclick: () => onSelect(vertex.id),
      onkeydown: (event) => {
        if (event.key !== 'Enter' && event.key !== ' ') return
        event.preventDefault()
        onSelect(vertex.id)
      },
    },
    h(
      'title',
      null,
      `${vertex.name}\n${vertex.operators.join(' → ')}\nuid ${vertex.uid}${vertex.description ? `\n${vertex.description}` : ''}`,
    ),
    h('rect', { class: 'box', width: size.boxWidth, height: size.boxHeight, rx: 10 }),
    h('path', { class: 'strip', d: `M10 0H${size.boxWidth - 10}a10 10 0 0 1 9.2 4H.8A10 10 0 0 1 10 0Z` }),
    text(pad, 27, 'vertex-name', fit(vertex.name, barWidth - 36, '650 14px')),
    text(right, 27, 'vertex-parallelism', `×${vertex.parallelism}`, { 'text-anchor': 'end' }),
    text(pad, 44, 'vertex-chain', fit(chain, barWidth, '11.5px')),
    text(pad, 67, 'vertex-label', 'in'),
    text(pad + 16, 67, 'vertex-number', rateText(figures.inRate)),
    text(right - 86, 67, 'vertex-label', 'out'),
    text(right, 67, 'vertex-number', rateText(figures.outRate), { 'text-anchor': 'end' }),
    text(pad, 85, 'vertex-watermark', figures.watermarkMs === null ? watermarkWords(figures) : watermark),
    text(right, 85, 'vertex-watermark', figures.stateBytes > 0 ? formatBytes(figures.stateBytes) : '', {
      'text-anchor': 'end',
    }),
    text(pad, 103, 'vertex-busy', `busy ${formatPercent(figures.busy)}`),
    text(right, 103, 'vertex-blocked', `blocked ${formatPercent(figures.backPressured)}`, { 'text-anchor': 'end' }),
    loadBar(figures),
  )
}

function watermarkWords(figures) {
  return figures.isEnded ? 'end of input' : 'no watermark yet'
}

function rateText(rate) {
  return rate === null ? unknown : `${formatRate(rate)}/s`
}

/** A curve from box to box; straight through the points where a long edge passes a layer. */
function curve(points) {
  let path = `M${points[0].x} ${points[0].y}`
  for (let index = 1; index < points.length; index++) {
    const from = points[index - 1]
    const to = points[index]
    const isGap = index % 2 === 1
    const bend = Math.max(24, Math.abs(to.x - from.x) / 2)
    path += isGap ? `C${from.x + bend} ${from.y} ${to.x - bend} ${to.y} ${to.x} ${to.y}` : `L${to.x} ${to.y}`
  }
  return path
}

function line({ edge, points }, isMoving) {
  const first = points[0]
  const next = points[1]
  return h(
    'g',
    { class: `edge edge-${edge.partitioning}`, key: `${edge.from}-${edge.to}-${edge.partitioning}` },
    h('title', null, `${edge.partitioning} edge`),
    h('path', { class: 'edge-line', d: curve(points), 'marker-end': 'url(#arrow)' }),
    isMoving ? h('path', { class: 'edge-flow', d: curve(points) }) : null,
    text((first.x + next.x) / 2, (first.y + next.y) / 2 - 7, 'edge-label', truncate(edge.partitioning, 10), {
      'text-anchor': 'middle',
    }),
  )
}

function legend() {
  const item = (name, words) => h('li', null, h('span', { class: `swatch load-${name}` }), words)
  return h(
    'ul',
    { class: 'legend' },
    item('idle', 'idle'),
    item('normal', 'running'),
    item('hot', 'at its limit'),
    item('blocked', 'back-pressured'),
  )
}

/** The card of the graph; laid out anew only when the graph changes. */
export function createGraphView() {
  let laidOutFor = ''
  let layout = null
  const fit = createFitter()
  return (status, rates, selected, onSelect) => {
    const shape = JSON.stringify([status.vertices.map((vertex) => vertex.id), status.edges])
    if (shape !== laidOutFor || layout === null) {
      layout = layoutGraph(status.vertices, status.edges, size)
      laidOutFor = shape
    }
    const vertices = new Map(status.vertices.map((vertex) => [vertex.id, vertex]))
    const figures = new Map(status.vertices.map((vertex) => [vertex.id, vertexFigures(status, rates, vertex)]))
    const isMoving = (edge) => status.state === 'running' && (figures.get(edge.from)?.outRate ?? 0) > 0
    const body =
      layout.boxes.length === 0
        ? h('p', { class: 'empty' }, 'The job has not reported its graph yet.')
        : h(
            'div',
            { class: 'scroll graph', tabindex: 0, role: 'region', 'aria-label': 'Job graph' },
            h(
              'svg',
              {
                viewBox: `0 0 ${layout.width} ${layout.height}`,
                maxWidthPx: layout.width,
                minWidthPx: Math.round(layout.width * 0.78),
                role: 'group',
              },
              h(
                'defs',
                null,
                h(
                  'marker',
                  {
                    id: 'arrow',
                    viewBox: '0 0 8 8',
                    refX: 7,
                    refY: 4,
                    markerWidth: 7,
                    markerHeight: 7,
                    orient: 'auto',
                  },
                  h('path', { class: 'arrow', d: 'M0 0.8 7.5 4 0 7.2Z' }),
                ),
              ),
              layout.lines.map((one) => line(one, isMoving(one.edge))),
              layout.boxes.map((one) => {
                const vertex = vertices.get(one.vertex.id)
                return box({ ...one, vertex }, figures.get(vertex.id), selected === vertex.id, onSelect, fit)
              }),
            ),
          )
    return h(
      'section',
      { class: 'card wide', 'aria-labelledby': 'graph-title' },
      h('div', { class: 'card-head' }, h('h2', { id: 'graph-title' }, 'Job graph'), legend()),
      body,
    )
  }
}
