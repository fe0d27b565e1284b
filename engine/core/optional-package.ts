/**
 * Packages that a connector needs only when it is used: optional peers, loaded at that moment.
 */
import { MillraceError } from './errors.ts'

/** The error for an optional package that is not installed. */
export function packageMissing(name: string, purpose: string, cause: unknown): MillraceError {
  return new MillraceError('PACKAGE_MISSING', `${purpose} needs the npm package ${name}.`, {
    domain: 'user',
    hint: `Install it: npm install ${name}.`,
    cause,
  })
}

/** True when importing a package failed because it is not there (and not because it is broken). */
export function isModuleMissing(error: unknown, name: string): boolean {
  if (!(error instanceof Error)) return false
  const code = (error as Error & { code?: unknown }).code
  return (code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND') && error.message.includes(`'${name}'`)
}

/**
 * For `import(name).catch(...)`: throws `PACKAGE_MISSING`, saying what for, when the package is not installed. Bundlers
 * know that form: they put the package into the bundle where it is installed, and go on without it where not.
 */
export function orPackageMissing(name: string, purpose: string): (error: unknown) => never {
  return (error) => {
    throw isModuleMissing(error, name) ? packageMissing(name, purpose, error) : error
  }
}
