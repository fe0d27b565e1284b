/**
 * The architecture as tests: which room may import which, and the house rules that a machine can check.
 *
 * A failure names file, import and rule. Tests, fixtures and test kits may import anything; the rules are
 * for what ships.
 */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('..', import.meta.url))
const notOurs = [
  'node_modules/**',
  'dist/**',
  '.millrace/**',
  '.git/**',
  'native/build/**',
  'native/vendor/**',
  'ui/vendor/**',
]
const find = (pattern: string): string[] =>
  globSync(pattern, { cwd: root, exclude: notOurs })
    .map((file) => file.split(sep).join('/'))
    .sort()
const read = (file: string): string => readFileSync(join(root, file), 'utf8')

const sources = find('**/*.ts')
const isTestCode = (file: string): boolean =>
  /\.(test|fixture|testkit)\.ts$/.test(file) ||
  /(^|\/)(fixtures|sim)\//.test(file) ||
  /(testing-context|-conformance|server-fixture|server-client)\.ts$/.test(file) ||
  file.startsWith('test/')
const shipped = sources.filter((file) => !isTestCode(file))

/** Longest prefix wins. */
const ROOMS = [
  'engine/core',
  'engine/contract',
  'engine/runtime',
  'engine/checkpoint',
  'engine/api',
  'engine/server',
  'engine/testing',
  'state',
  'operators',
  'connectors',
  'sql',
  'jobs',
  'serving',
  'k8s',
  'bench',
  'cli',
  'ui',
  'docs',
  'native',
  'scripts',
  'test',
] as const
type Room = (typeof ROOMS)[number]

const roomOf = (file: string): Room | null => ROOMS.find((room) => file.startsWith(`${room}/`)) ?? null

const BASE: readonly Room[] = ['engine/core', 'engine/contract']
const ENGINE: readonly Room[] = [...BASE, 'state', 'engine/runtime', 'engine/checkpoint']
const API: readonly Room[] = [...ENGINE, 'operators', 'connectors', 'engine/api']

/** Rooms that a room may import besides itself; `any` is no limit. */
const MAY_IMPORT: Readonly<Record<Room, readonly Room[] | 'any'>> = {
  'engine/core': [],
  'engine/contract': ['engine/core'],
  state: BASE,
  operators: BASE,
  connectors: BASE,
  'engine/runtime': ENGINE,
  'engine/checkpoint': ENGINE,
  'engine/api': API,
  sql: API,
  'engine/server': BASE,
  'engine/testing': [...API, 'sql', 'engine/server'],
  jobs: [],
  serving: ['engine/core', 'connectors'],
  k8s: ['engine/core'],
  ui: [],
  docs: [],
  native: [],
  scripts: 'any',
  bench: 'any',
  cli: 'any',
  test: 'any',
}

/** Single imports that a rule would forbid, each with its reason. */
const EXCEPTIONS: readonly (readonly [from: string, to: string, reason: string])[] = [
  ['engine/server/', 'engine/runtime/status.ts', 'the server reads the status types of the runtime'],
  [
    'engine/api/execution.ts',
    'cli/run-program.ts',
    '`node JOB.ts` does what `millrace run` does; loaded lazily, only there',
  ],
]

interface Import {
  readonly from: string
  readonly specifier: string
  /** Path in the repository; null for packages. */
  readonly target: string | null
}

const STATIC = /(?:^|\n)\s*(?:import|export)\s(?:[^'"`;=]*?\sfrom\s*)?['"]([^'"]+)['"]/g
const DYNAMIC = /\bimport\(\s*['"]([^'"]+)['"]\s*\)/g

function importsOf(file: string): Import[] {
  const text = read(file).replaceAll(/\/\*[\s\S]*?\*\//g, '')
  const specifiers = [...text.matchAll(STATIC), ...text.matchAll(DYNAMIC)].map((match) => match[1]!)
  return specifiers.map((specifier) => ({
    from: file,
    specifier,
    target: specifier.startsWith('.')
      ? relative(root, resolve(root, dirname(file), specifier))
          .split(sep)
          .join('/')
      : null,
  }))
}

const imports = shipped.flatMap(importsOf)

function none(problems: readonly string[]): void {
  assert.equal(problems.length, 0, `\n${problems.join('\n')}`)
}

describe('import directions', () => {
  test('the imports are seen at all', () => {
    assert.ok(imports.length > 300, `only ${imports.length} imports found`)
    const lazy = imports.filter(
      ({ from, target }) => from === 'engine/api/execution.ts' && target === 'cli/run-program.ts',
    )
    assert.ok(lazy.length > 0, 'the dynamic import of the command line is not seen')
    for (const [from, to] of EXCEPTIONS) {
      assert.ok(
        imports.some((i) => i.from.startsWith(from) && i.target === to),
        `the exception ${from} -> ${to} is used no more: remove it`,
      )
    }
  })

  test('rooms import only what they may', () => {
    const problems: string[] = []
    for (const { from, specifier, target } of imports) {
      if (target === null) continue
      const room = roomOf(from)
      const other = roomOf(target)
      if (room === null || other === null || room === other) continue
      const allowed = MAY_IMPORT[room]
      if (allowed === 'any' || allowed.includes(other)) continue
      if (EXCEPTIONS.some(([source, to]) => from.startsWith(source) && target === to)) continue
      problems.push(
        `${from}: '${specifier}' - ${room} may import ${allowed.join(', ') || 'nothing of ours'}, not ${other}`,
      )
    }
    none(problems)
  })

  test('a connector imports no other connector', () => {
    const folderOf = (file: string): string => file.split('/').slice(0, 2).join('/')
    // Files beside the folders are no connectors; connectors share them.
    const isOfConnector = (file: string | null): boolean => /^connectors\/.+\//.test(file ?? '')
    none(
      imports
        .filter(({ from, target }) => from.startsWith('connectors/') && isOfConnector(target))
        .filter(({ from, target }) => folderOf(from) !== folderOf(target!))
        .map(({ from, specifier }) => `${from}: '${specifier}' - connectors never import each other`),
    )
  })

  test('jobs and examples use public exports only', () => {
    none(
      imports
        .filter(({ from }) => /^(jobs|docs)\//.test(from))
        .filter(({ specifier }) => !/^(\.\/|node:|millrace(\/|$))/.test(specifier))
        .map(({ from, specifier }) => `${from}: '${specifier}' - a job imports 'millrace' and 'millrace/...'`),
    )
  })

  test('the engine has no npm dependency', () => {
    none(
      imports
        .filter(({ from }) => /^(engine|state|operators|sql)\//.test(from) && !from.startsWith('engine/server/'))
        .filter(({ specifier }) => !/^(\.|node:)/.test(specifier))
        .map(({ from, specifier }) => `${from}: '${specifier}' - only Node's own modules here`),
    )
  })

  test('every room has a rule', () => {
    const rootFiles = new Set(sources.filter((file) => !file.includes('/')))
    none(
      sources
        .filter((file) => !rootFiles.has(file) && roomOf(file) === null)
        .map((file) => `${file}: in no known room`),
    )
  })
})

/** Lines of files that match, as `file:line text`. */
function linesLike(files: readonly string[], pattern: RegExp): string[] {
  return files.flatMap((file) =>
    read(file)
      .split('\n')
      .flatMap((line, i) => (pattern.test(line) ? [`${file}:${i + 1} ${line.trim()}`] : [])),
  )
}

/** Module-level variables that can change: `let`, `var`, and containers that begin empty. */
function moduleState(file: string): string[] {
  const tree = ts.createSourceFile(file, read(file), ts.ScriptTarget.Latest)
  const found: string[] = []
  for (const statement of tree.statements) {
    if (!ts.isVariableStatement(statement)) continue
    if (statement.modifiers?.some((modifier) => modifier.kind === ts.SyntaxKind.DeclareKeyword) === true) continue
    const isConst = (statement.declarationList.flags & ts.NodeFlags.Const) !== 0
    for (const declaration of statement.declarationList.declarations) {
      if (isConst && !beginsEmpty(declaration.initializer)) continue
      const line = tree.getLineAndCharacterOfPosition(declaration.getStart(tree)).line + 1
      found.push(`${file}:${line} ${declaration.getText(tree).split('\n')[0]}`)
    }
  }
  return found
}

function beginsEmpty(value: ts.Expression | undefined): boolean {
  if (value === undefined) return false
  if (ts.isArrayLiteralExpression(value)) return value.elements.length === 0
  if (ts.isObjectLiteralExpression(value)) return value.properties.length === 0
  const isContainer =
    ts.isNewExpression(value) && /^(Weak)?(Map|Set)$/.test((value.expression as ts.Identifier).text ?? '')
  return isContainer && (value.arguments?.length ?? 0) === 0
}

describe('house rules', () => {
  const inEngine = shipped.filter((file) => /^(engine|state|operators|sql)\//.test(file))

  test('no export *', () => none(linesLike(sources, /^export \*/)))

  test('no default exports, except of jobs', () => {
    const files = sources.filter((file) => !/^(jobs|bench|docs)\/|\.fixture\.ts$/.test(file))
    none(linesLike(files, /^export default (?!job\()/))
  })

  test('no module-level mutable state in the engine', () => none(inEngine.flatMap(moduleState)))

  test('no ambient clock, random or timer in the engine', () => {
    // Where the real ones are made, or where a thread's life outside any job is managed.
    const real = /^engine\/(runtime\/(node-io|launcher|worker-attach|worker-entry)\.ts|api\/|server\/|testing\/)/
    none(
      linesLike(
        inEngine.filter((file) => !real.test(file)),
        /^(?!\s*(\*|\/\/|\/\*)).*\b(Date\.now\(|Math\.random\(|performance\.now\(|setTimeout\(|setInterval\(|setImmediate\()/,
      ),
    )
  })

  test('source becomes functions in one place, which bounds their size', () => {
    const others = shipped.filter((file) => file !== 'engine/core/generated-source.ts')
    none(linesLike(others, /\bnew Function\(|\beval\(|\brunIn\w*Context\(/))
  })

  test('no module that a job may load looks at its own URL: in a bundle that is the bundle’s', () => {
    const loaded = shipped.filter((file) => /^(engine|state|operators|sql|connectors)\//.test(file))
    const others = loaded.filter((file) => file !== 'engine/core/own-module.ts')
    none(linesLike(others, /^[^'`*]*\bimport\.meta\b/))
  })

  test('every file opens with what it is for', () => {
    none(
      sources
        .filter((file) => !/^(#!.*\n)?\/\*\*/.test(read(file)))
        .map((file) => `${file}: begins without a header comment`),
    )
  })

  test('file names are kebab-case', () => {
    const kebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.(test|fixture|testkit|d))?\.ts$/
    none(sources.filter((file) => !kebab.test(basename(file))).map((file) => `${file}: not kebab-case`))
  })

  test('files stay below about 500 lines, or say at their head why one file is right', () => {
    const reason = /^\/\*\*[\s\S]*?\b(longer|long file|one file)\b[\s\S]*?\*\//
    none(
      shipped
        .map((file) => [file, read(file)] as const)
        .filter(([, text]) => text.split('\n').length > 600 && !reason.test(text))
        .map(([file, text]) => `${file}: ${text.split('\n').length} lines`),
    )
  })

  test('relative imports carry their extension', () => {
    none(
      imports
        .filter(({ specifier }) => specifier.startsWith('.') && !/\.(ts|js|json|node)$/.test(specifier))
        .map(({ from, specifier }) => `${from}: '${specifier}'`),
    )
  })

  test('no paths of a machine, no registry hosts', () => {
    // Put together here so that this file does not contain what it looks for.
    const slash = '/'
    const folders = ['home', 'root', 'work', 'Users'].map((name) => `${slash}${name}${slash}[\\w.-]+`)
    const hosts = ['registry', 'npm'].join('[.]')
    const forbidden = new RegExp(`(?<![\\w.\\])}*-])(${folders.join('|')})|${hosts}`)
    const texts = find('**/*.{ts,js,json,md,html,css,h,cc,yml,yaml,sh}').filter(
      (file) => !file.startsWith('test/architecture'),
    )
    none(linesLike(texts, forbidden))
  })
})
