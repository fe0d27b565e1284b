/** Methods of Node's Buffer that its type package leaves out; they skip encoding look-ups. */
interface Buffer {
  utf8Slice(start?: number, end?: number): string
  latin1Slice(start?: number, end?: number): string
  latin1Write(text: string, offset?: number, length?: number): number
  utf8Write(text: string, offset?: number, length?: number): number
}
