/**
 * What generated functions have in common.
 *
 * Functions with identical source share inline caches, which would make them megamorphic; so each begins with a comment
 * that names whom it is for.
 */

/** The comment of a generated function for `id`, which may hold any text. */
export function sourceComment(what: string, id: string): string {
  return `/* ${what} ${JSON.stringify(id).replaceAll('*/', '* /')} */`
}
