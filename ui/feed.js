/**
 * The connection to the server: which jobs there are, and the stream of one job's status.
 *
 * Used by main.js. Reads Server-Sent Events through `fetch`, because an EventSource cannot send the
 * token. Invariants: one stream at a time; a stream that is silent for `silenceMsMax` counts as lost;
 * after a loss it tries again with growing pauses, for ever; the token stays in this tab.
 */
const silenceMsMax = 5000
const pausesMs = [500, 1000, 2000, 4000, 8000]
const tokenItem = 'millrace-token'

/** Feeds text chunks; calls `onEvent(name, data)` for each complete event (WHATWG HTML, "Server-sent events"). */
export function createEventParser(onEvent) {
  let buffer = ''
  let name = ''
  let data = []
  const line = (text) => {
    if (text === '') {
      if (data.length > 0) onEvent(name === '' ? 'message' : name, data.join('\n'))
      name = ''
      data = []
      return
    }
    const colon = text.indexOf(':')
    const field = colon === -1 ? text : text.slice(0, colon)
    const value = colon === -1 ? '' : text.slice(colon + 1).replace(/^ /, '')
    if (field === 'event') name = value
    else if (field === 'data') data.push(value)
  }
  return (chunk) => {
    const lines = (buffer + chunk).split(/\r\n|\n/)
    buffer = lines.pop()
    for (const text of lines) line(text)
  }
}

export function storedToken() {
  return sessionStorage.getItem(tokenItem)
}

export function storeToken(token) {
  sessionStorage.setItem(tokenItem, token)
}

function headers() {
  const token = storedToken()
  return token ? { authorization: `Bearer ${token}` } : {}
}

class NeedsToken extends Error {}

async function request(path, signal) {
  const response = await fetch(path, { headers: headers(), cache: 'no-store', signal })
  if (response.status === 401) throw new NeedsToken()
  if (!response.ok) throw new Error(`HTTP ${response.status}`)
  return response
}

export async function fetchJson(path) {
  return (await request(path, AbortSignal.timeout(silenceMsMax))).json()
}

export function jobPath(id) {
  return `/api/jobs/${encodeURIComponent(id)}`
}

async function readStream(id, abort, onStatus) {
  let timer = setTimeout(() => abort.abort(), silenceMsMax)
  try {
    const response = await request(`${jobPath(id)}/events`, abort.signal)
    const decoder = new TextDecoder()
    let isGone = false
    const parse = createEventParser((name, data) => {
      if (name === 'status') onStatus(JSON.parse(data))
      else if (name === 'gone') isGone = true
    })
    const reader = response.body.getReader()
    for (;;) {
      const { done, value } = await reader.read()
      if (done || isGone) return
      clearTimeout(timer)
      timer = setTimeout(() => abort.abort(), silenceMsMax)
      parse(decoder.decode(value, { stream: true }))
      if (isGone) return
    }
  } finally {
    clearTimeout(timer)
    abort.abort()
  }
}

/**
 * Follows the job that `pick(jobs)` names, for ever. `on.connection` gets `{ kind }`: `live`, `lost`
 * (with `retryAtMs`), `no-job` or `needs-token` (with `isRefused`); `on.jobs` the list; `on.status` each status.
 * The returned function tries again at once, for a new token or another job.
 */
export function follow(pick, on) {
  let failures = 0
  let wake = null
  let stopStream = null
  const pause = (ms) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  const once = async () => {
    const { jobs } = await fetchJson('/api/jobs')
    on.jobs(jobs)
    const id = pick(jobs)
    if (id === null) {
      on.connection({ kind: 'no-job' })
      await pause(pausesMs[1])
      return
    }
    let isSwitching = false
    const abort = new AbortController()
    stopStream = () => {
      isSwitching = true
      abort.abort()
    }
    try {
      await readStream(id, abort, (status) => {
        failures = 0
        on.status(status)
        on.connection({ kind: 'live' })
      })
    } catch (error) {
      if (!isSwitching) throw error
    }
    if (!isSwitching) await pause(pausesMs[1])
  }
  const loop = async () => {
    for (;;) {
      try {
        await once()
      } catch (error) {
        const ms = pausesMs[Math.min(failures++, pausesMs.length - 1)]
        const isLocked = error instanceof NeedsToken
        on.connection(
          isLocked
            ? { kind: 'needs-token', isRefused: Boolean(storedToken()) }
            : { kind: 'lost', retryAtMs: Date.now() + ms },
        )
        await pause(isLocked ? 2 ** 30 : ms)
      }
    }
  }
  loop()
  return () => {
    stopStream?.()
    wake?.()
  }
}
