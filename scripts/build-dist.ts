/**
 * Makes `dist/`, the folder that is published: JavaScript and types by one run of tsc, the live page, the
 * addon's sources with its installer, and a package.json of its own.
 *
 * Run by `npm run build` and by test/packed-install.ts. Invariants: only modules that an entry of
 * tsconfig.dist.json reaches are in it, so no test is; every file that its package.json names exists.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const DIST = join(ROOT, 'dist')

/** Files that are published as they are; paths stay the same. */
const COPIED = ['LICENSE', 'README.md', 'ui/*.{html,css,js,svg}', 'native/rocksdb/*.{cc,h}']

/** What the package needs at run time, and to compile the addon. Versions are those of the repository. */
const DEPENDENCIES = ['fastify', 'node-api-headers']

/** Loaded by a connector when a job uses it. */
const PEERS_OPTIONAL: Readonly<Record<string, string | null>> = {
  '@electric-sql/pglite': null,
  pg: '^8.0.0',
  hyparquet: null,
  'hyparquet-writer': null,
}

interface RootPackage {
  readonly name: string
  readonly version: string
  readonly description: string
  readonly license: string
  readonly engines: Readonly<Record<string, string>>
  readonly bin: Readonly<Record<string, string>>
  readonly exports: Readonly<Record<string, string>>
  readonly dependencies: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
}

/** The published name of a repository file. */
function emitted(path: string, extension: '.js' | '.d.ts' = '.js'): string {
  return path.replace(/\.ts$/, extension)
}

/** The package.json of `dist/`, out of the repository's own. */
function distPackage(root: RootPackage): Record<string, unknown> {
  const versionOf = (name: string): string => {
    const version = root.dependencies[name] ?? root.devDependencies[name]
    if (version === undefined) throw new Error(`package.json has no version of ${name}.`)
    return version
  }
  const mapValues = <V, R>(record: Readonly<Record<string, V>>, map: (value: V, key: string) => R): Record<string, R> =>
    Object.fromEntries(Object.entries(record).map(([key, value]) => [key, map(value, key)]))
  const { name, version, description, license, engines } = root
  return {
    name,
    version,
    description,
    license,
    type: 'module',
    engines,
    bin: mapValues(root.bin, (path) => emitted(path)),
    exports: {
      ...mapValues(root.exports, (path) => ({ types: emitted(path, '.d.ts'), default: emitted(path) })),
      './package.json': './package.json',
    },
    // Its failure is a warning: without the addon state is kept by the memory backend.
    scripts: { postinstall: 'node native/install.js' },
    dependencies: Object.fromEntries(DEPENDENCIES.map((each) => [each, versionOf(each)])),
    peerDependencies: mapValues(PEERS_OPTIONAL, (range, each) => range ?? versionOf(each)),
    peerDependenciesMeta: mapValues(PEERS_OPTIONAL, () => ({ optional: true })),
  }
}

/** Throws when a file that package.json names is missing. `*` stands for at least one folder. */
function checkEntries(root: RootPackage): void {
  const entries = [...Object.values(root.bin), ...Object.values(root.exports)].flatMap((path) => [
    emitted(path),
    emitted(path, '.d.ts'),
  ])
  const missing = [...entries, './native/install.js'].filter((path) => globSync(path, { cwd: DIST }).length === 0)
  if (missing.length > 0) throw new Error(`package.json names files that do not exist: ${missing.join(', ')}`)
}

function compile(): void {
  const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
  const project = join(ROOT, 'scripts', 'tsconfig.dist.json')
  const { status } = spawnSync(process.execPath, [tsc, '-p', project], { cwd: ROOT, stdio: 'inherit' })
  if (status !== 0) throw new Error('tsc found errors.')
}

function copyFiles(): void {
  for (const pattern of COPIED) {
    const files = globSync(pattern, { cwd: ROOT })
    if (files.length === 0) throw new Error(`There is no ${pattern}.`)
    for (const file of files) {
      mkdirSync(dirname(join(DIST, file)), { recursive: true })
      cpSync(join(ROOT, file), join(DIST, file))
    }
  }
  // Ambient declarations are not emitted, and the emitted ones may lean on them.
  for (const file of globSync('engine/**/*.d.ts', { cwd: ROOT })) cpSync(join(ROOT, file), join(DIST, file))
}

const root = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as RootPackage
rmSync(DIST, { recursive: true, force: true })
compile()
copyFiles()
writeFileSync(join(DIST, 'package.json'), `${JSON.stringify(distPackage(root), null, 2)}\n`)
checkEntries(root)
if (existsSync(join(DIST, 'native', 'build'))) throw new Error('The package must not hold a built addon.')
const count = globSync('**/*.js', { cwd: DIST }).length
process.stdout.write(`dist/ holds ${root.name} ${root.version}, ${count} modules\n`)
