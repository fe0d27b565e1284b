/** Types of the parts of feed.js that its tests use. */
export function createEventParser(onEvent: (name: string, data: string) => void): (chunk: string) => void
export function jobPath(id: string): string
