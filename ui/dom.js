/**
 * Describes elements as plain objects and patches the page to match them, reusing what is there, so
 * that focus, selection, scroll position and open details survive two updates a second.
 *
 * Used by every view. Invariant: text is only ever set as text, never parsed as HTML.
 */
const svgNamespace = 'http://www.w3.org/2000/svg'
const keyOf = new WeakMap()
const attributesOf = new WeakMap()

/** `children` may hold strings, numbers, elements, null, false and nested arrays of these. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, children }
}

function flatten(children, into = []) {
  for (const child of children) {
    if (Array.isArray(child)) flatten(child, into)
    else if (child !== null && child !== undefined && child !== false) into.push(child)
  }
  return into
}

function setProps(node, props) {
  const before = attributesOf.get(node) ?? {}
  for (const name of Object.keys(before)) {
    if (!(name in props)) setProp(node, name, null)
  }
  for (const [name, value] of Object.entries(props)) {
    if (before[name] !== value) setProp(node, name, value)
  }
  attributesOf.set(node, props)
}

function setProp(node, name, value) {
  if (name === 'key') return
  if (name.startsWith('on')) node[name] = value
  else if (name === 'width%') node.style.width = value === null ? '' : `${value}%`
  else if (name === 'maxWidthPx') node.style.maxWidth = value === null ? '' : `${value}px`
  else if (name === 'minWidthPx') node.style.minWidth = value === null ? '' : `${value}px`
  else if (value === null || value === undefined || value === false) node.removeAttribute(name)
  else node.setAttribute(name, value === true ? '' : String(value))
}

function create(vnode, parent) {
  const isSvg = vnode.tag === 'svg' || (parent.namespaceURI === svgNamespace && parent.localName !== 'foreignObject')
  const node = isSvg ? document.createElementNS(svgNamespace, vnode.tag) : document.createElement(vnode.tag)
  if (vnode.props.key !== undefined) keyOf.set(node, vnode.props.key)
  return node
}

function reusable(vnode, cursor, keyed) {
  const { key } = vnode.props
  const node = key === undefined ? cursor : keyed.get(key)
  if (!node || node.nodeType !== Node.ELEMENT_NODE || node.localName !== vnode.tag) return null
  return key === undefined && keyOf.has(node) ? null : node
}

/** Makes the children of `parent` equal to `children`. */
export function patch(parent, children) {
  const keyed = new Map()
  for (const child of parent.childNodes) {
    if (keyOf.has(child)) keyed.set(keyOf.get(child), child)
  }
  let cursor = parent.firstChild
  for (const vnode of flatten(children)) {
    if (typeof vnode !== 'object') {
      const text = String(vnode)
      if (cursor?.nodeType === Node.TEXT_NODE) {
        if (cursor.data !== text) cursor.data = text
        cursor = cursor.nextSibling
      } else {
        parent.insertBefore(document.createTextNode(text), cursor)
      }
      continue
    }
    const node = reusable(vnode, cursor, keyed) ?? create(vnode, parent)
    if (node === cursor) cursor = cursor.nextSibling
    else parent.insertBefore(node, cursor)
    setProps(node, vnode.props)
    patch(node, vnode.children)
  }
  while (cursor) {
    const next = cursor.nextSibling
    cursor.remove()
    cursor = next
  }
}
