/**
 * Names modules of this package that are not imported but started or printed: worker threads' entries,
 * the installer. In the repository they are TypeScript, in the published package JavaScript.
 *
 * Called wherever a file of the package is named by URL. Invariant: a module has the extension of its caller.
 */

/**
 * URL of the module at `path`, relative to the caller and without extension: './worker-entry'.
 * `callerUrl` is the caller's `import.meta.url`.
 */
export function siblingModule(callerUrl: string, path: string): URL {
  const { pathname } = new URL(callerUrl)
  return new URL(`${path}${pathname.slice(pathname.lastIndexOf('.'))}`, callerUrl)
}
