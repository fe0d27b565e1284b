/**
 * Who may talk to the server: loopback and Host rules, the token, and the headers of every answer.
 *
 * Called by server.ts and routes.ts. Everything here decides and does no I/O, but for the random
 * bytes of a new token. Invariants: tokens are compared in constant time and never logged; a Host
 * that a DNS-rebinding page could carry is refused before any route runs.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { isIP } from 'node:net'
import { MillraceError } from '../core/errors.ts'

const tokenLengthMin = 16

/** Sent with every answer. The page needs its own scripts, styles and API, and nothing else. */
export const securityHeaders: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
}

export function isLoopbackHost(host: string): boolean {
  const name = host.toLowerCase()
  return name === 'localhost' || name === '::1' || name === '[::1]' || (isIP(name) === 4 && name.startsWith('127.'))
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::' || host === '[::]'
}

/**
 * The token to use: the one given, or a new one.
 *
 * @throws MillraceError TOKEN_REQUIRED for a public host without one, TOKEN_TOO_SHORT for one that
 *   can be guessed.
 */
export function chooseToken(host: string, token: string | undefined): string {
  if (token === undefined || token === '') {
    if (isLoopbackHost(host)) return randomBytes(32).toString('base64url')
    throw new MillraceError('TOKEN_REQUIRED', `Refused to listen on "${host}" without a token.`, {
      hint: 'Set a token for the dashboard, or listen on 127.0.0.1 and reach it through an SSH tunnel or a proxy.',
    })
  }
  if (token.length < tokenLengthMin) {
    throw new MillraceError(
      'TOKEN_TOO_SHORT',
      `The token of the dashboard has fewer than ${tokenLengthMin} characters.`,
      {
        hint: 'Use a random one, for example the output of "openssl rand -base64 32".',
      },
    )
  }
  return token
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

/** True when an Authorization header carries the token. Digests make the comparison independent of lengths. */
export function isAuthorized(header: string | undefined, token: string): boolean {
  const presented = /^Bearer +(\S+)$/i.exec(header ?? '')?.[1] ?? ''
  return timingSafeEqual(digest(presented), digest(token)) && presented !== ''
}

/** The host name of a Host header without its port, lower case; null when there is none. */
function hostNameOf(header: string | undefined): string | null {
  const match = /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?$/i.exec(header ?? '')
  return match?.[1]?.toLowerCase() ?? null
}

/**
 * Whether a request with this Host header may be answered. A rebinding attack needs a name that
 * resolves to us, so loopback names, the configured host, and (on a wildcard address, where own names
 * are not known) literal addresses are safe.
 */
export function isHostAllowed(header: string | undefined, configuredHost: string): boolean {
  const name = hostNameOf(header)
  if (name === null) return false
  if (isLoopbackHost(name)) return true
  const bare = name.startsWith('[') ? name.slice(1, -1) : name
  const configured = configuredHost.toLowerCase().replace(/^\[(.*)\]$/, '$1')
  if (bare === configured) return true
  return isWildcard(configuredHost) && isIP(bare) !== 0
}
