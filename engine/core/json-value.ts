/** What survives a trip through JSON unchanged: positions of splits, committables, manifests. */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue }
