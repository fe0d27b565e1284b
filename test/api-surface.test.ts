/**
 * The public exports, name by name, against the reviewed list in test/api-surface.txt.
 *
 * After a wanted change: `UPDATE_API_SURFACE=1 npm test -- api-surface`, and review the list's diff.
 */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'

const entries = ['engine/api/index.ts', 'engine/api/state.ts', 'engine/testing/index.ts'] as const
const list = new URL('./api-surface.txt', import.meta.url)
const HEAD = '# Public exports, reviewed. UPDATE_API_SURFACE=1 npm test -- api-surface rewrites this file.'

/** Names that a module's `export { ... } from` clauses and declarations export; types marked as such. */
function exportsOf(file: string): string[] {
  const text = readFileSync(new URL(`../${file}`, import.meta.url), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*/g, '')
  const names: string[] = []
  for (const [, onlyTypes, body] of text.matchAll(/^export (type )?\{([^}]*)\}/gm)) {
    for (const part of body!.split(',')) {
      const name = part.trim()
      if (name === '') continue
      const isType = onlyTypes !== undefined || name.startsWith('type ')
      names.push(`${name.replace(/^type /, '').replace(/^.* as /, '')}${isType ? ' (type)' : ''}`)
    }
  }
  for (const [, kind, name] of text.matchAll(/^export (?:declare )?(class|function|const|interface|type) (\w+)/gm)) {
    names.push(`${name}${kind === 'interface' || kind === 'type' ? ' (type)' : ''}`)
  }
  return names.sort()
}

function surface(): string {
  const sections = entries
    .filter((file) => existsSync(new URL(`../${file}`, import.meta.url)))
    .map((file) => [`[${file}]`, ...exportsOf(file)].join('\n'))
  return `${[HEAD, ...sections].join('\n\n')}\n`
}

test('the public exports are the reviewed ones', () => {
  const now = surface()
  if (process.env['UPDATE_API_SURFACE'] === '1') writeFileSync(list, now)
  const message = 'The public exports changed. If that is wanted: UPDATE_API_SURFACE=1 npm test -- api-surface'
  assert.equal(now, existsSync(list) ? readFileSync(list, 'utf8') : '', message)
})

test('every listed value is really exported', async () => {
  for (const file of entries) {
    const url = new URL(`../${file}`, import.meta.url)
    if (!existsSync(url)) continue
    const module = (await import(url.href)) as Record<string, unknown>
    const values = exportsOf(file).filter((name) => !name.endsWith('(type)'))
    assert.deepEqual(Object.keys(module).sort(), values.sort(), file)
  }
})
