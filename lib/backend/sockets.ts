// A part of the seam that not every backend has: UNIX stream sockets whose messages carry descriptors. Node's own sockets lose these.

import type { Releasable } from '../base/closeable.js'
import type { Subscription } from './backend.js'

/** A descriptor that came through a socket. It is the receiver's: whoever has it closes it. */
export interface PassedFile extends Releasable {
  /** Its number here, for `adopt()`, `eventfd()`, `socketOf()` or `streamOf()`, which make duplicates. Throws ERR_VDPA_CLOSED after close. */
  readonly fd: number
}

/** What one recvmsg() gave. */
export interface ReceivedPart {
  /** Bytes written to the target, at least 1; 0 at the end of the stream: the other side has closed it. */
  readonly length: number
  /** What came with the first of these bytes, oldest first; all of it the receiver's to close. */
  readonly files: readonly PassedFile[]
}

/** One end of a connected UNIX stream socket. No verb sleeps. */
export interface StreamSocket extends Releasable {
  /** The descriptor. Throws ERR_VDPA_CLOSED after close. */
  readonly fd: number
  /**
   * Reads up to `length` bytes into `target` at `offset`, and up to `files` (default 0, at most 253) descriptors that come with the first of them;
   * undefined when there is nothing now. EMSGSIZE when more descriptors came than that, or than the process may have open: all are closed, and nobody can
   * say which were lost, so that the connection is of no use any more. ECONNRESET.
   */
  receive(target: Uint8Array, offset: number, length: number, files?: number): ReceivedPart | undefined
  /**
   * Sends bytes, and copies of descriptors with the first of them; returns how many bytes went, which may be fewer than there are, and 0 when the other side
   * takes nothing now. EPIPE, ECONNRESET, EBADF, ETOOMANYREFS.
   */
  send(bytes: Uint8Array, fds?: readonly number[]): number
  /** Calls `listener` whenever there is something to receive, the end included. One listener at a time (ERR_VDPA_STATE). */
  onReadable(listener: () => void): Subscription
}

/** One end of a stream of bytes that somebody passed: of a pipe, of a stream socket, or a file, from where it is. No verb sleeps, but for a file's disk. */
export interface ByteStream extends Releasable {
  /** The descriptor. Throws ERR_VDPA_CLOSED after close. */
  readonly fd: number
  /**
   * Reads what comes next, up to `target.length` bytes; undefined when there is nothing now, 0 at the end. EBADF for an end that is written to; ECONNRESET, EIO.
   */
  read(target: Uint8Array): number | undefined
  /**
   * Writes; returns how many of the bytes went, and 0 when the other side takes nothing now. EBADF for an end that is read from; EPIPE, ENOSPC, EFBIG.
   */
  write(bytes: Uint8Array): number
  /** Calls `listener` whenever `read()`, or `write()`, has something to do, the end and failures included. One listener at a time (ERR_VDPA_STATE). */
  onReady(event: 'readable' | 'writable', listener: () => void): Subscription
}

/** A UNIX socket that listens. Its `close()` takes the path away as well. */
export interface SocketListener extends Releasable {
  /** Where it listens. */
  readonly path: string
  /** The oldest connection that waits; undefined when none does. EMFILE, ENFILE: it goes on waiting. */
  accept(): StreamSocket | undefined
  /** Calls `listener` whenever a connection waits. One listener at a time (ERR_VDPA_STATE). */
  onReadable(listener: () => void): Subscription
}

/** UNIX stream sockets, as a backend has them. */
export interface UnixSockets {
  /**
   * Listens at `path`, of at most 107 bytes, with room for `backlog` (default 128) connections that nobody has accepted. A socket that nobody listens at any
   * more is replaced. EADDRINUSE where somebody does, or where the path is something else; ENAMETOOLONG, EACCES, ENOENT.
   */
  listen(path: string, backlog?: number): SocketListener
  /** Connects to who listens at `path`. ENOENT, ECONNREFUSED; EAGAIN when the listener has no room. */
  connect(path: string): StreamSocket
  /** Both ends of a new connection. EMFILE. */
  pair(): readonly [StreamSocket, StreamSocket]
  /** A stream socket that somebody passed, through a duplicate of the fd, which stays the caller's. ENOTSOCK, EPROTOTYPE (no stream), EBADF. */
  socketOf(fd: number): StreamSocket
  /**
   * One end of a pipe, a stream socket or a file that somebody passed, through a duplicate of the fd, which stays the caller's. EINVAL for another kind of descriptor,
   * EPROTOTYPE for another kind of socket, EBADF. Since 0.1.0.
   */
  streamOf(fd: number): ByteStream
}
