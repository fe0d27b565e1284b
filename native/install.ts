/**
 * Builds the RocksDB addon: native/build/millrace_rocksdb.node.
 *
 * Run by npm's `postinstall` of the root package, and by hand. Uses the librocksdb of the machine when
 * its headers are there; else, on Debian and its relatives, fetches the packages with the machine's own
 * apt sources into native/vendor/ (needs no root and no `apt-get update` beforehand) and links against
 * those by a path relative to the addon.
 *
 * Invariants: a finished addon appears under its name in one rename, after it has been loaded once by a
 * child process. A failure leaves npm's exit status alone (Millrace also runs on its memory store)
 * unless MILLRACE_REQUIRE_ROCKSDB=1. Uses Node alone, because nothing else is installed yet.
 */
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const HERE = dirname(fileURLToPath(import.meta.url))
const SOURCES = join(HERE, 'rocksdb')
const BUILD = join(HERE, 'build')
const VENDOR = join(HERE, 'vendor')
const VENDOR_ROOT = join(VENDOR, 'root')
const ADDON = join(BUILD, 'millrace_rocksdb.node')

/** Where librocksdb is and how to name it to the compiler and the linker. */
interface Library {
  readonly origin: string
  readonly includes: readonly string[]
  /** Folder of the shared library, or null when the linker finds it by itself. */
  readonly libraries: string | null
  /** True when the loader must be told where the libraries are. */
  readonly vendored: boolean
}

class BuildFailure extends Error {}

function say(text: string): void {
  console.log(`millrace: ${text}`)
}

/** Runs a command to its end; its output is shown only when it fails. */
function runQuietly(command: string, args: readonly string[], cwd: string = HERE): string {
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', maxBuffer: 64 << 20 })
  if (result.error !== undefined) throw new BuildFailure(`${command} cannot be run (${result.error.message})`)
  if (result.status !== 0) {
    const said = `${result.stderr}${result.stdout}`.trim().split('\n').slice(-12).join('\n')
    throw new BuildFailure(`${command} ${args[0] ?? ''} failed:\n${said}`)
  }
  return result.stdout
}

/** A child process loads it, so that a broken addon cannot take the installation down. */
function versionOf(addon: string): string | null {
  const script = `process.stdout.write(require(${JSON.stringify(addon)}).version)`
  const result = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' })
  return result.status === 0 ? result.stdout : null
}

function upToDate(): boolean {
  if (!existsSync(ADDON)) return false
  const builtMs = statSync(ADDON).mtimeMs
  const inputs = [fileURLToPath(import.meta.url), ...readdirSync(SOURCES).map((name) => join(SOURCES, name))]
  return inputs.every((path) => statSync(path).mtimeMs < builtMs) && versionOf(ADDON) !== null
}

function compiler(): string {
  for (const candidate of [process.env['CXX'], 'g++', 'c++', 'clang++']) {
    if (candidate !== undefined && spawnSync(candidate, ['--version']).status === 0) return candidate
  }
  throw new BuildFailure('there is no C++ compiler; install g++')
}

function findLibrary(cxx: string): Library {
  if (process.platform === 'darwin') return findHomebrew()
  return findSystem(cxx) ?? findVendored() ?? fetchDebian()
}

function findHomebrew(): Library {
  const prefix = runQuietly('brew', ['--prefix', 'rocksdb']).trim()
  if (!existsSync(join(prefix, 'include', 'rocksdb', 'db.h'))) {
    throw new BuildFailure('librocksdb is missing; run `brew install rocksdb`')
  }
  return { origin: prefix, includes: [join(prefix, 'include')], libraries: join(prefix, 'lib'), vendored: true }
}

/** Asks the compiler itself: headers and library must both be where it looks. */
function findSystem(cxx: string): Library | null {
  const program =
    '#include <rocksdb/version.h>\n#include <rocksdb/db.h>\nint main() { return !rocksdb::GetRocksVersionAsString(true).size(); }\n'
  const args = ['-std=c++20', '-x', 'c++', '-', '-lrocksdb', '-o', join(BUILD, 'probe')]
  const result = spawnSync(cxx, args, { input: program })
  rmSync(join(BUILD, 'probe'), { force: true })
  return result.status === 0 ? { origin: 'the system', includes: [], libraries: null, vendored: false } : null
}

function findVendored(): Library | null {
  const includes = join(VENDOR_ROOT, 'usr', 'include')
  const libraries = sharedLibraryFolder()
  if (libraries === null || !existsSync(join(includes, 'rocksdb', 'db.h'))) return null
  return { origin: relative(HERE, VENDOR), includes: [includes], libraries, vendored: true }
}

/** usr/lib/<multiarch triplet> of the unpacked packages. */
function sharedLibraryFolder(): string | null {
  const lib = join(VENDOR_ROOT, 'usr', 'lib')
  if (!existsSync(lib)) return null
  const folders = [lib, ...readdirSync(lib).map((name) => join(lib, name))]
  return folders.find((folder) => existsSync(join(folder, 'librocksdb.so'))) ?? null
}

/** Options that give apt its own state and cache, so that it needs no root and no earlier update. */
function privateAptOptions(): string[] {
  const settings: Record<string, string> = {
    'Dir::State': join(VENDOR, 'apt', 'state'),
    'Dir::State::Lists': join(VENDOR, 'apt', 'state', 'lists'),
    'Dir::State::Status': '/var/lib/dpkg/status',
    'Dir::Cache': join(VENDOR, 'apt', 'cache'),
    'Debug::NoLocking': '1',
    'APT::Sandbox::User': 'root',
    // Package lists only: no descriptions, icons or file lists.
    'Acquire::Languages': 'none',
    'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled': 'false',
    'Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled': 'false',
    'Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled': 'false',
    'Acquire::IndexTargets::deb::CNF::DefaultEnabled': 'false',
    'Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled': 'false',
    'Acquire::IndexTargets::deb-src::Sources::DefaultEnabled': 'false',
    'APT::Get::List-Cleanup': 'false',
  }
  return Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`])
}

function fetchDebian(): Library {
  if (spawnSync('apt-get', ['--version']).status !== 0 || spawnSync('dpkg-deb', ['--version']).status !== 0) {
    throw new BuildFailure('librocksdb and its headers are missing, and this is not a Debian-like system to fetch them')
  }
  say('librocksdb is not installed; fetching it into native/vendor/ from the package sources of this machine')
  rmSync(VENDOR, { recursive: true, force: true })
  for (const folder of ['apt/state/lists/partial', 'apt/cache/archives/partial', 'packages', 'partial']) {
    mkdirSync(join(VENDOR, folder), { recursive: true })
  }
  const options = privateAptOptions()
  // A third-party source may be unreachable: what counts is whether the packages are known afterwards.
  const update = spawnSync('apt-get', [...options, '-qq', 'update'], { encoding: 'utf8' })
  let packages: string[]
  try {
    packages = packagesToFetch(
      runQuietly('apt-get', [...options, '-s', 'install', '--no-install-recommends', 'librocksdb-dev']),
    )
    runQuietly('apt-get', [...options, '-qq', 'download', ...packages], join(VENDOR, 'packages'))
  } catch (error) {
    throw new BuildFailure(`${messageOf(error)}\n${(update.stderr ?? '').trim()}`.trim())
  }
  for (const file of readdirSync(join(VENDOR, 'packages'))) {
    runQuietly('dpkg-deb', ['-x', join(VENDOR, 'packages', file), join(VENDOR, 'partial')])
  }
  // Whole or not at all: a later run takes what it finds under this name.
  renameSync(join(VENDOR, 'partial'), VENDOR_ROOT)
  rmSync(join(VENDOR, 'apt'), { recursive: true })
  rmSync(join(VENDOR, 'packages'), { recursive: true })
  const library = findVendored()
  if (library === null) throw new BuildFailure('the fetched librocksdb packages hold no headers or library')
  // The static library is large and not used.
  rmSync(join(library.libraries ?? VENDOR, 'librocksdb.a'), { force: true })
  return library
}

/**
 * From apt's simulation: librocksdb-dev for its headers and every shared-library package the machine
 * lacks. Headers of other libraries are not needed, and upgrades (`Inst name [old version] ...`) of what
 * the machine has are left alone.
 */
function packagesToFetch(simulation: string): string[] {
  const missing = [...simulation.matchAll(/^Inst (\S+) \((\S+)/gm)].map((match) => match[1]!)
  const wanted = missing.filter((name) => name === 'librocksdb-dev' || (/^lib/.test(name) && !/-dev(:|$)/.test(name)))
  if (!wanted.includes('librocksdb-dev'))
    throw new BuildFailure('the package sources of this machine have no librocksdb-dev')
  return wanted
}

function standardFor(library: Library): string {
  const header = [...library.includes, '/usr/include']
    .map((folder) => join(folder, 'rocksdb', 'version.h'))
    .find(existsSync)
  const major = header === undefined ? 0 : Number(/ROCKSDB_MAJOR (\d+)/.exec(readFileSync(header, 'utf8'))?.[1] ?? 0)
  return major >= 10 ? '-std=c++20' : '-std=c++17'
}

/** Installed beside this package or below it, as npm decides. */
function findNodeHeaders(): string {
  try {
    return join(dirname(createRequire(import.meta.url).resolve('node-api-headers')), 'include')
  } catch {
    throw new BuildFailure('the npm package node-api-headers is missing')
  }
}

async function compile(cxx: string, library: Library): Promise<void> {
  const nodeHeaders = findNodeHeaders()
  const objects = join(BUILD, 'objects')
  rmSync(objects, { recursive: true, force: true })
  mkdirSync(objects, { recursive: true })
  const flags = [
    standardFor(library),
    '-O2',
    '-fPIC',
    '-fvisibility=hidden',
    ...library.includes.flatMap((folder) => ['-isystem', folder]),
    `-I${nodeHeaders}`,
  ]
  const sources = readdirSync(SOURCES).filter((name) => name.endsWith('.cc'))
  const compileOne = async (name: string): Promise<void> => {
    try {
      await promisify(execFile)(cxx, [...flags, '-c', join(SOURCES, name), '-o', join(objects, `${name}.o`)])
    } catch (error) {
      const lines = error instanceof Error && 'stderr' in error ? String(error.stderr).split('\n') : []
      throw new BuildFailure(`compiling ${name} failed:\n${lines.slice(0, 12).join('\n')}`)
    }
  }
  const queue = [...sources]
  const lanes = Array.from({ length: Math.max(1, Math.min(4, cpus().length)) }, async () => {
    for (let name = queue.shift(); name !== undefined; name = queue.shift()) await compileOne(name)
  })
  await Promise.all(lanes)
  // The loader only maps names ending in .node.
  const fresh = join(BUILD, `fresh-${process.pid}.node`)
  runQuietly(cxx, [
    ...linkFlags(library),
    '-o',
    fresh,
    ...sources.map((name) => join(objects, `${name}.o`)),
    '-lrocksdb',
  ])
  rmSync(objects, { recursive: true })
  if (versionOf(fresh) === null) {
    rmSync(fresh, { force: true })
    throw new BuildFailure('the addon was built but cannot be loaded')
  }
  renameSync(fresh, ADDON)
}

function linkFlags(library: Library): string[] {
  const folder = library.libraries
  if (process.platform === 'darwin') {
    return ['-shared', '-undefined', 'dynamic_lookup', ...(folder === null ? [] : [`-L${folder}`])]
  }
  // nodelete: a worker thread's exit would unmap the code that RocksDB's background threads run.
  const flags = ['-shared', '-Wl,-z,nodelete']
  if (folder === null) return flags
  // DT_RPATH (not RUNPATH) also serves the libraries that librocksdb itself needs.
  const path = `$ORIGIN/${relative(BUILD, folder)}`
  return [...flags, `-L${folder}`, '-Wl,--disable-new-dtags', `-Wl,-rpath,${path}`, `-Wl,-rpath-link,${folder}`]
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

async function main(): Promise<void> {
  if (upToDate()) return
  mkdirSync(BUILD, { recursive: true })
  const cxx = compiler()
  const library = findLibrary(cxx)
  const startMs = Date.now()
  try {
    await compile(cxx, library)
  } catch (error) {
    // Perhaps fetched for another release of the system: the next run starts afresh.
    rmSync(VENDOR, { recursive: true, force: true })
    throw error
  }
  const seconds = ((Date.now() - startMs) / 1000).toFixed(1)
  say(`built ${basename(ADDON)} on rocksdb ${versionOf(ADDON)} (${library.origin}) in ${seconds} s`)
}

try {
  await main()
} catch (error) {
  const required = process.env['MILLRACE_REQUIRE_ROCKSDB'] === '1'
  console.warn(
    `millrace: WARNING: the RocksDB addon was not built: ${messageOf(error)}\n` +
      `millrace: state will be kept by the memory backend; run \`node ${fileURLToPath(import.meta.url)}\` to try again.`,
  )
  process.exitCode = required ? 1 : 0
}
