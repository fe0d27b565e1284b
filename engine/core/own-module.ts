/**
 * Where this package's own files are: modules that are started or printed and not imported (worker threads' entries,
 * the installer), the native addon, the page. In the repository modules are TypeScript, in the published package
 * JavaScript; in a bundle there are none, and everything that is no code has to be found elsewhere.
 *
 * Called wherever a file of the package is named. No other module that a job may load looks at its own URL, which in a
 * bundle is the bundle's. Invariant: a module has the extension of its caller.
 */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { MillraceError } from './errors.ts'

/** The file that this code is in. A bundler that writes CommonJS leaves no `import.meta`. */
const HERE: string = import.meta.url ?? pathToFileURL(__filename).href
const MODULE = /\/engine\/core\/own-module(\.[jt]s)$/

/** This code was put into one file together with a job. */
export const IS_BUNDLED: boolean = !MODULE.test(new URL(HERE).pathname)

/**
 * URL of the module at `path`, relative to the caller and without extension: './worker-entry'.
 * `callerUrl` is the caller's `import.meta.url`.
 */
export function siblingModule(callerUrl: string, path: string): URL {
  const { pathname } = new URL(callerUrl)
  return new URL(`${path}${pathname.slice(pathname.lastIndexOf('.'))}`, callerUrl)
}

/**
 * Folders of this package by name, as paths that end with a slash: what a stack shows of its files. In a bundle it shows
 * none, or with source maps those that were bundled.
 */
export function packageFolders(names: readonly string[]): string[] {
  return IS_BUNDLED ? ['/node_modules/millrace/'] : names.map((name) => fileURLToPath(new URL(`../../${name}/`, HERE)))
}

/** URL of a file of this package, `path` from its root; null where a bundle has none. See `bundledPlaces`. */
export function packageFile(path: string): URL | null {
  if (!IS_BUNDLED) return new URL(`../../${path}`, HERE)
  return (
    bundledPlaces()
      .map((place) => new URL(path, place.root))
      .find((file) => existsSync(file)) ?? null
  )
}

/** URL of a module of this package that is started as a file, `path` from its root without extension. */
export function packageModule(path: string): URL {
  if (!IS_BUNDLED) return new URL(`../../${path}${MODULE.exec(new URL(HERE).pathname)![1]}`, HERE)
  for (const { root, extension } of bundledPlaces()) {
    const file = new URL(`${path}${extension}`, root)
    if (existsSync(file)) return file
  }
  throw new MillraceError(
    'BUNDLE_INCOMPLETE',
    `${path}.js of millrace is no part of the bundle ${fileURLToPath(HERE)}.`,
    {
      hint: `Install the npm package millrace where the bundle runs, or leave it out of the bundle (${EXTERNAL}).`,
    },
  )
}

/** How a bundler is told to leave this package alone. */
export const EXTERNAL = 'esbuild: --external:millrace'

/**
 * For what is bundled from CommonJS packages, as the server's is: esbuild has them `require` modules of Node, which there
 * is none for in a bundle that is an ES module, unless it finds a global one.
 */
export function provideRequire(): void {
  if (IS_BUNDLED && !('require' in globalThis)) Object.assign(globalThis, { require: ownRequire() })
}

/** A `require` from where this code is. */
export function ownRequire(): NodeJS.Require {
  return createRequire(HERE)
}

/** The file that this code is in, as a path: the bundle, where there is one. */
export function ownPath(): string {
  return fileURLToPath(HERE)
}

/** The folder `millrace` beside the bundle, where its author may copy files to; then the package, where it is installed for the bundle to see. */
function bundledPlaces(): { readonly root: URL; readonly extension: string }[] {
  const beside = { root: new URL('./millrace/', HERE), extension: '.js' }
  try {
    const entry = pathToFileURL(ownRequire().resolve('millrace')).href
    const extension = entry.slice(entry.lastIndexOf('.'))
    return [beside, { root: new URL('../../', entry), extension }]
  } catch {
    return [beside]
  }
}
