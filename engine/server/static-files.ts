/**
 * The page's files, read once at start, so that no request path ever reaches the file system.
 *
 * Called by server.ts. The list is fixed: a file of `ui/` is served because it is named here.
 */
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { MillraceError } from '../core/errors.ts'
import { ownPath, packageFile } from '../core/own-module.ts'

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

/** What a bundled program shows that has no page: everything else the server has is there. */
function pageOfBundle(): StaticFile {
  const body = `<!doctype html><html lang="en"><title>Millrace</title>
<p>The page is not in this bundle. Copy the folder <code>node_modules/millrace/ui</code> to
<code>${dirname(ownPath())}/millrace/ui</code>, or install millrace there.
<p><a href="/api/jobs">/api/jobs</a> <a href="/metrics">/metrics</a>
</html>
`
  return { path: '/', type: html, body: Buffer.from(body) }
}

/** Throws `PAGE_MISSING`. */
export function readStaticFiles(): readonly StaticFile[] {
  const directory = packageFile('ui/')
  if (directory === null) return [pageOfBundle()]
  return files.map(([path, name, type]) => {
    try {
      return { path, type, body: readFileSync(new URL(name, directory)) }
    } catch (cause) {
      throw new MillraceError('PAGE_MISSING', `The file ui/${name} of the page is missing.`, {
        domain: 'internal',
        hint: 'Install the package again.',
        cause,
      })
    }
  })
}
