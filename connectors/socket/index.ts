/** Lines of a TCP connection as a source, for trying things out. */
export { type SocketSourceOptions, socketSource } from './socket-source.ts'
