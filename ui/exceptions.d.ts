/** Types of exceptions.js, for its tests. */
export interface ShownException {
  readonly atMs: number
  readonly where: string
  readonly message: string
}
export function groupExceptions<E extends ShownException>(
  exceptions: readonly E[],
): readonly { readonly task: string; readonly exception: E; readonly count: number; readonly firstAtMs: number }[]
