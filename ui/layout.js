/**
 * Places the boxes of the job graph in layers from left to right. Pure; graph.js draws the result.
 *
 * Layers by longest path from the sources, long edges routed through invisible points, order within a
 * layer by the barycentre heuristic (Sugiyama, Tagawa and Toda, 1981). Invariants: every vertex gets a
 * place, also in a graph with a cycle or with edges to vertices that are not there.
 */
const sweeps = 6

function layersOf(vertices, edges) {
  const outgoing = new Map(vertices.map((vertex) => [vertex.id, []]))
  for (const edge of edges) outgoing.get(edge.from).push(edge.to)
  const open = new Set()
  const order = []
  const seen = new Set()
  const visit = (id) => {
    if (seen.has(id)) return
    seen.add(id)
    open.add(id)
    for (const to of outgoing.get(id)) visit(to)
    open.delete(id)
    order.unshift(id)
  }
  for (const vertex of vertices) visit(vertex.id)
  const rank = new Map(order.map((id, index) => [id, index]))
  const layer = new Map(vertices.map((vertex) => [vertex.id, 0]))
  for (const id of order) {
    for (const to of outgoing.get(id)) {
      // An edge against the order closes a cycle and does not push its target to the right.
      if (rank.get(to) > rank.get(id)) layer.set(to, Math.max(layer.get(to), layer.get(id) + 1))
    }
  }
  return layer
}

/** Items are vertices and the points of long edges: `{ layer, vertex, before, after }`. */
function buildItems(vertices, edges, layer) {
  const items = new Map(
    vertices.map((vertex) => [vertex.id, { layer: layer.get(vertex.id), vertex, before: [], after: [] }]),
  )
  const all = [...items.values()]
  const chains = []
  const link = (a, b) => {
    a.after.push(b)
    b.before.push(a)
  }
  for (const edge of edges) {
    const from = items.get(edge.from)
    const to = items.get(edge.to)
    const chain = [from]
    for (let at = from.layer + 1; at < to.layer; at++) {
      const point = { layer: at, vertex: null, before: [], after: [] }
      all.push(point)
      link(chain.at(-1), point)
      chain.push(point)
    }
    if (to.layer > from.layer) link(chain.at(-1), to)
    chain.push(to)
    chains.push({ edge, chain })
  }
  return { all, chains }
}

function orderLayers(columns) {
  const number = () => {
    for (const column of columns) {
      column.forEach((item, index) => {
        item.index = index
        item.share = (index + 0.5) / column.length
      })
    }
  }
  number()
  const sortBy = (column, side) => {
    const centre = (item) =>
      item[side].length === 0 ? item.share : item[side].reduce((sum, other) => sum + other.share, 0) / item[side].length
    const centres = new Map(column.map((item) => [item, centre(item)]))
    column.sort((a, b) => centres.get(a) - centres.get(b) || a.index - b.index)
    number()
  }
  for (let sweep = 0; sweep < sweeps; sweep++) {
    if (sweep % 2 === 0) for (const column of columns.slice(1)) sortBy(column, 'before')
    else for (const column of columns.slice(0, -1).reverse()) sortBy(column, 'after')
  }
}

/**
 * `size`: boxWidth, boxHeight, gapX, gapY, margin, in pixels. Returns `width` and `height`, `boxes`
 * (vertex, x, y of the top left corner) and `lines` (edge, points from right side to left side).
 */
export function layoutGraph(vertices, edges, size) {
  const ids = new Set(vertices.map((vertex) => vertex.id))
  const known = edges.filter((edge) => ids.has(edge.from) && ids.has(edge.to) && edge.from !== edge.to)
  const { all, chains } = buildItems(vertices, known, layersOf(vertices, known))
  const columns = []
  for (const item of all) {
    columns[item.layer] ??= []
    columns[item.layer].push(item)
  }
  orderLayers(columns)

  const pointHeight = size.boxHeight / 3
  const heightOf = (item) => (item.vertex === null ? pointHeight : size.boxHeight)
  const columnHeight = (column) =>
    column.reduce((sum, item) => sum + heightOf(item), 0) + size.gapY * (column.length - 1)
  const innerHeight = Math.max(0, ...columns.map(columnHeight))
  columns.forEach((column, layer) => {
    let y = size.margin + (innerHeight - columnHeight(column)) / 2
    for (const item of column) {
      item.x = size.margin + layer * (size.boxWidth + size.gapX)
      item.y = y
      item.centre = y + heightOf(item) / 2
      y += heightOf(item) + size.gapY
    }
  })
  const lines = chains.map(({ edge, chain }) => {
    const points = []
    chain.forEach((item, index) => {
      if (index > 0) points.push({ x: item.x, y: item.centre })
      if (index < chain.length - 1) points.push({ x: item.x + size.boxWidth, y: item.centre })
    })
    return { edge, points }
  })
  const boxes = all
    .filter((item) => item.vertex !== null)
    .map((item) => ({ vertex: item.vertex, x: item.x, y: item.y }))
  const count = columns.length
  return {
    width: count === 0 ? 0 : 2 * size.margin + count * size.boxWidth + (count - 1) * size.gapX,
    height: count === 0 ? 0 : 2 * size.margin + innerHeight,
    boxes,
    lines,
  }
}
