/** What is said of a record that is longer than a source may take. Used by the decoders of text and by readers of files. */

/** The reason of its dead letter. */
export function recordTooLong(bytes: number, bytesMax: number): string {
  return `The record has ${bytes} bytes, more than the ${bytesMax} allowed (raise recordBytesMax of the source to take it).`
}
