/**
 * The page's files, read once at start, so that no request path ever reaches the file system.
 *
 * Called by server.ts. The list is fixed: a file of `ui/` is served because it is named here.
 */
import { readFileSync } from 'node:fs'
import { MillraceError } from '../core/errors.ts'

export interface StaticFile {
  readonly path: string
  readonly type: string
  readonly body: Buffer
}

const html = 'text/html; charset=utf-8'
const css = 'text/css; charset=utf-8'
const script = 'text/javascript; charset=utf-8'

/** Request path, file name in `ui/`, content type. */
const files: readonly (readonly [path: string, name: string, type: string])[] = [
  ['/', 'index.html', html],
  ['/style.css', 'style.css', css],
  ['/icon.svg', 'icon.svg', 'image/svg+xml'],
  ['/main.js', 'main.js', script],
  ['/dom.js', 'dom.js', script],
  ['/exceptions.js', 'exceptions.js', script],
  ['/feed.js', 'feed.js', script],
  ['/format.js', 'format.js', script],
  ['/graph.js', 'graph.js', script],
  ['/layout.js', 'layout.js', script],
  ['/panels.js', 'panels.js', script],
  ['/rates.js', 'rates.js', script],
  ['/tables.js', 'tables.js', script],
]

const uiDirectory = new URL('../../ui/', import.meta.url)

export function readStaticFiles(): readonly StaticFile[] {
  return files.map(([path, name, type]) => {
    try {
      return { path, type, body: readFileSync(new URL(name, uiDirectory)) }
    } catch (cause) {
      throw new MillraceError('PAGE_MISSING', `The file ui/${name} of the page is missing.`, {
        domain: 'internal',
        hint: 'Install the package again.',
        cause,
      })
    }
  })
}
