// UNIX stream sockets of the operating system, and the descriptors that their messages carry.

import { lstatSync, unlinkSync } from 'node:fs'
import type { Subscription } from '../backend/backend.js'
import type { PassedFile, ReceivedPart, SocketListener, StreamSocket, UnixSockets } from '../backend/sockets.js'
import { checkBytes, checkInteger, checkString, trueLength } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import { errno } from '../uapi/errno.js'
import { KernelByteStream } from './kernel-stream.js'
import { SubscriptionSlot } from './kernel-subscription.js'
import { warnIfCollected } from './leak-warning.js'
import { isRefused, type NativeAddon, type NativePassedFile, type NativeSocket } from './native.js'
import { closedError, madeOr, type Refuse } from './refusal.js'

/** The most descriptors of one message (SCM_MAX_FD). */
const FILES_LAST = 253
const noFiles: readonly PassedFile[] = []

/** A descriptor that another process passed. */
export class KernelPassedFile implements PassedFile {
  readonly #native: NativePassedFile
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativePassedFile) {
    this.#native = native
    const { fd } = native
    this.#forgetLeak = warnIfCollected(
      this,
      `fd ${fd}, which came through a socket, was garbage-collected without close()`,
    )
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    if (this.#isClosed) throw closedError('the passed file')
    return this.#native.fd
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#forgetLeak()
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** A connected socket. */
export class KernelStreamSocket implements StreamSocket {
  readonly #native: NativeSocket
  readonly #refuse: Refuse
  readonly #subscriptions = new SubscriptionSlot()
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativeSocket, refuse: Refuse) {
    this.#native = native
    this.#refuse = refuse
    const { fd } = native
    this.#forgetLeak = warnIfCollected(this, `socket ${fd} was garbage-collected without close()`)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  get fd(): number {
    if (this.#isClosed) throw closedError('the socket')
    return this.#native.fd
  }

  receive(target: Uint8Array, offset: number, length: number, files = 0): ReceivedPart | undefined {
    checkBytes(target, 'target')
    const room = trueLength(target)
    checkInteger(offset, 'offset', 0, room)
    checkInteger(length, 'length', 1, room - offset)
    checkInteger(files, 'files', 0, FILES_LAST)
    const received = this.#native.receive(target, offset, length, files)
    if (typeof received !== 'number')
      return { length: received[0], files: received[1].map((file) => new KernelPassedFile(file)) }
    if (received === -errno.EAGAIN) return undefined
    if (received < 0) throw this.#refused(received, 'recvmsg')
    return { length: received, files: noFiles }
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): number {
    checkBytes(bytes, 'bytes')
    // A copy: what was checked is what is sent.
    const passed = Array.from(fds)
    checkInteger(passed.length, 'fds.length', 0, FILES_LAST)
    for (const fd of passed) checkInteger(fd, 'fds', 0, 0x7fff_ffff)
    const sent = this.#native.send(bytes, passed)
    if (sent === -errno.EAGAIN) return 0
    if (sent < 0) throw this.#refused(sent, 'sendmsg')
    return sent
  }

  onReadable(listener: () => void): Subscription {
    if (this.#isClosed) throw closedError('the socket')
    const call = () => {
      if (!this.#isClosed) listener()
    }
    return this.#subscriptions.subscribe(listener, () => this.#native.watch(call), this.#refuse)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#forgetLeak()
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #refused(negative: number, syscall: string): Error {
    if (this.#isClosed) return closedError('the socket')
    const text =
      negative === -errno.EMSGSIZE ? 'descriptors were lost on the way, and all that came were closed' : undefined
    return this.#refuse(negative, { syscall, path: `socket ${this.#native.fd}`, ...(text !== undefined && { text }) })
  }
}

/** A socket that listens. */
export class KernelSocketListener implements SocketListener {
  readonly path: string
  readonly #native: NativeSocket
  readonly #refuse: Refuse
  readonly #subscriptions = new SubscriptionSlot()
  readonly #inode: bigint | undefined
  readonly #forgetLeak: () => void
  #isClosed = false

  constructor(native: NativeSocket, path: string, refuse: Refuse) {
    this.#native = native
    this.#refuse = refuse
    this.path = path
    this.#inode = inodeOf(path)
    this.#forgetLeak = warnIfCollected(this, `the socket at ${path} was garbage-collected without close()`)
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  accept(): KernelStreamSocket | undefined {
    if (this.#isClosed) throw closedError('the listening socket', this.path)
    const accepted = this.#native.accept()
    if (accepted === undefined) return undefined
    return new KernelStreamSocket(madeOr(accepted, this.#refuse, { path: this.path }), this.#refuse)
  }

  onReadable(listener: () => void): Subscription {
    if (this.#isClosed) throw closedError('the listening socket', this.path)
    const call = () => {
      if (!this.#isClosed) listener()
    }
    return this.#subscriptions.subscribe(listener, () => this.#native.watch(call), this.#refuse, this.path)
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#forgetLeak()
    // Somebody may have put another socket in its place.
    if (this.#inode !== undefined && inodeOf(this.path) === this.#inode) remove(this.path)
    this.#native.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** The sockets of one backend. */
export class KernelSockets implements UnixSockets {
  readonly #addon: NativeAddon
  readonly #refuse: Refuse

  constructor(addon: NativeAddon, refuse: Refuse) {
    this.#addon = addon
    this.#refuse = refuse
  }

  listen(path: string, backlog = 128): KernelSocketListener {
    checkString(path, 'path')
    checkInteger(backlog, 'backlog', 1, 0x7fff_ffff)
    let made = this.#addon.listen(path, backlog)
    if (isRefused(made) && made[0] === -errno.EADDRINUSE && this.#isAbandoned(path)) {
      remove(path)
      made = this.#addon.listen(path, backlog)
    }
    return new KernelSocketListener(madeOr(made, this.#refuse, { path }), path, this.#refuse)
  }

  connect(path: string): KernelStreamSocket {
    checkString(path, 'path')
    return new KernelStreamSocket(madeOr(this.#addon.connect(path), this.#refuse, { path }), this.#refuse)
  }

  pair(): readonly [KernelStreamSocket, KernelStreamSocket] {
    const made = this.#addon.socketPair()
    if (typeof made[0] === 'number') throw this.#refuse(made[0], { syscall: 'socketpair' })
    const [one, other] = made as readonly [NativeSocket, NativeSocket]
    return [new KernelStreamSocket(one, this.#refuse), new KernelStreamSocket(other, this.#refuse)]
  }

  socketOf(fd: number): KernelStreamSocket {
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    return new KernelStreamSocket(madeOr(this.#addon.socketOf(fd), this.#refuse, { path: `fd ${fd}` }), this.#refuse)
  }

  streamOf(fd: number): KernelByteStream {
    checkInteger(fd, 'fd', 0, 0x7fff_ffff)
    return new KernelByteStream(madeOr(this.#addon.streamOf(fd), this.#refuse, { path: `fd ${fd}` }), this.#refuse)
  }

  /** What a program leaves that was ended before it could close: a socket that refuses connections. */
  #isAbandoned(path: string): boolean {
    try {
      if (!lstatSync(path).isSocket()) return false
      this.connect(path).close()
      return false
    } catch (error) {
      return isVdpaError(error) && error.code === 'ECONNREFUSED'
    }
  }
}

function inodeOf(path: string): bigint | undefined {
  return lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino
}

/** The socket is closed all the same where its folder may not be written any more. */
function remove(path: string): void {
  try {
    unlinkSync(path)
  } catch {
    return
  }
}
