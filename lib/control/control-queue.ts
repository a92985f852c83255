// The driver's end of a control virtqueue: a command goes out as bytes, one byte of acknowledgement comes back, before a deadline. What commands mean
// is not known here.

import { checkBytes, checkInteger, checkSignal, rangeError, show } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { Subscription } from '../backend/backend.js'
import type { RingMemory } from '../memory/ring-memory.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'
import { BriefLook } from './brief-look.js'

/** The queue that a control queue speaks through: a ring, memory that the device reaches, and notifications both ways. */
export interface ControlPort extends Closeable {
  /** The virtqueue's number, for sentences. */
  readonly index: number
  /** The driver's side of the ring. */
  readonly ring: DriverRing
  /** SLOTS × SLOT_BYTES that the device reaches. */
  readonly buffers: RingMemory
  /** IOVA of the first byte of `buffers`. */
  readonly buffersIova: bigint
  /** Shows the chains committed so far to the device, and kicks it when it wants to be. */
  publish(): void
  /** Calls `listener` when the device interrupts. */
  onCall(listener: () => void): Subscription
  /** Calls `listener` when the queue begins to close, whoever closes it. */
  onClose(listener: () => void): void
}

/** A deadline and a way out for one command. */
export interface CommandOptions {
  /** Milliseconds to wait for the acknowledgement; the queue's default otherwise. */
  readonly timeout?: number
  /** Stops the waiting, not the command: the device may still carry it out. */
  readonly signal?: AbortSignal
}

/** Bytes of one command with its acknowledgement, and how many commands may be under way. */
export const SLOT_BYTES = 4096
export const SLOTS = 8
/** What the acknowledgement byte holds before the device writes it: no answer of any command. */
const UNANSWERED = 0xff

/** One command, from command() to its end. */
interface Command {
  /** A copy: the caller may use its array again while the command waits for a slot. */
  readonly bytes: Uint8Array
  /** The slot it was sent in; -1 while it waits for one. */
  slot: number
  resolve(ack: number): void
  reject(failure: Error): void
}

type ControlErrorCode = 'ERR_VDPA_CANCELED' | 'ERR_VDPA_TIMEOUT' | 'ERR_VDPA_REFUSED' | 'ERR_VDPA_CLOSED'

/** Commands of any kind of device as bytes; NetControlQueue gives them names. */
export class ControlQueue implements Closeable {
  readonly #port: ControlPort
  readonly #path: string
  readonly #timeout: number
  readonly #calls: Subscription
  readonly #free = Array.from({ length: SLOTS }, (_, slot) => SLOTS - 1 - slot)
  /** By slot; undefined where none was sent, or where nobody waits for the answer any more. */
  readonly #sent: (Command | undefined)[] = new Array<Command | undefined>(SLOTS).fill(undefined)
  readonly #queued = new Set<Command>()
  readonly #look = new BriefLook()
  readonly #closing = new CloseStack()

  /** `path` names the device in errors; `timeout` is in milliseconds, for commands that do not say their own. */
  constructor(port: ControlPort, path: string, timeout: number) {
    checkInteger(timeout, 'timeout', 1, 0x7fff_ffff)
    this.#port = port
    this.#path = path
    this.#timeout = timeout
    this.#calls = port.onCall(() => this.#collect())
    this.#closing.push(() => port.close())
    this.#closing.push(() => this.#calls.close())
    port.onClose(() => this.#rejectAll(this.#error('ERR_VDPA_CANCELED', 'the control queue was closed')))
  }

  /** True from close() on, or when the device was closed or reset. */
  get isClosed(): boolean {
    return this.#closing.isClosed || this.#port.isClosed
  }

  /**
   * Sends `bytes` and resolves with the acknowledgement byte. Commands are sent in the order they were given, at most SLOTS at a time; the deadline counts
   * from the call. The answer to one that is alone is looked for on the calling thread for some tens of microseconds. Errors: ERR_VDPA_TIMEOUT, ERR_VDPA_CANCELED (a command that was not sent yet never is), ERR_VDPA_REFUSED (used without an
   * acknowledgement), ERR_VDPA_RING_BROKEN, ERR_VDPA_CLOSED; RangeError for no bytes, or more than SLOT_BYTES - 1. (spec section 5.1.6.5)
   */
  async command(bytes: Uint8Array, options: CommandOptions = {}): Promise<number> {
    const { timeout = this.#timeout, signal } = options
    if (this.isClosed) throw this.#error('ERR_VDPA_CLOSED', 'the control queue is closed')
    checkBytes(bytes, 'bytes')
    if (bytes.length === 0 || bytes.length > SLOT_BYTES - 1)
      throw rangeError('a command', `1 to ${SLOT_BYTES - 1} bytes long`, bytes.length)
    checkInteger(timeout, 'timeout', 1, 0x7fff_ffff)
    checkSignal(signal)
    if (signal?.aborted === true) throw this.#canceled(signal)
    return new Promise<number>((resolve, reject) => {
      let isEnded = false
      let stopWaiting = () => {}
      const end = (settle: () => void) => {
        isEnded = true
        stopWaiting()
        this.#queued.delete(command)
        if (command.slot >= 0) this.#sent[command.slot] = undefined
        settle()
      }
      const command: Command = {
        bytes: bytes.slice(),
        slot: -1,
        resolve: (ack) => end(() => resolve(ack)),
        reject: (failure) => end(() => reject(failure)),
      }
      const isAlone = this.#free.length === SLOTS
      this.#queued.add(command)
      this.#sendQueued()
      if (isAlone && !isEnded) this.#lookFor(() => isEnded)
      if (isEnded) return
      const timer = setTimeout(() => this.#onDeadline(command, timeout), timeout)
      const onAbort = () => command.reject(this.#canceled(signal))
      signal?.addEventListener('abort', onAbort)
      stopWaiting = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
      }
    })
  }

  /** Closes the queue. Commands that wait are rejected with ERR_VDPA_CANCELED. The device must be stopped. */
  close(): Promise<void> {
    return this.#closing.close()
  }

  /** close() */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Sends what waits, as far as there are slots. */
  #sendQueued(): void {
    for (const command of this.#queued) {
      const slot = this.#free.pop()
      if (slot === undefined) return
      this.#queued.delete(command)
      try {
        this.#send(slot, command.bytes)
        command.slot = slot
        this.#sent[slot] = command
      } catch (failure) {
        this.#free.push(slot)
        command.reject(failure as Error)
      }
    }
  }

  #send(slot: number, bytes: Uint8Array): void {
    const { ring, buffers, buffersIova } = this.#port
    const at = slot * SLOT_BYTES
    const ackAt = at + SLOT_BYTES - 1
    buffers.bytes(at, bytes.length).set(bytes)
    buffers.setU8(ackAt, UNANSWERED)
    ring.begin()
    ring.pushAddress(buffersIova + BigInt(at), bytes.length, false)
    ring.pushAddress(buffersIova + BigInt(ackAt), 1, true)
    ring.commit(slot)
    this.#port.publish()
  }

  /** An interrupt may have been lost, so the ring is asked once more before the command is given up. */
  #onDeadline(command: Command, timeout: number): void {
    this.#collect()
    if (this.#queued.has(command) || this.#sent[command.slot] === command)
      command.reject(this.#error('ERR_VDPA_TIMEOUT', `no acknowledgement within ${timeout} ms`))
  }

  /** Takes the answer to the only command under way, if it comes at once. */
  #lookFor(isEnded: () => boolean): void {
    const { ring } = this.#port
    const isAnswered = () => {
      const slot = ring.take()
      if (slot >= 0) this.#finish(slot, ring.usedLength)
      return isEnded()
    }
    try {
      if (!this.#look.until(isAnswered)) return
    } catch (failure) {
      this.#rejectAll(failure as Error)
      return
    }
    this.#collect()
  }

  /** Takes every answer that is there. A slot whose command was given up comes back here, when the device is done with it at last. */
  #collect(): void {
    if (this.isClosed) return
    const { ring } = this.#port
    try {
      do {
        for (let slot = ring.take(); slot >= 0; slot = ring.take()) this.#finish(slot, ring.usedLength)
      } while (!ring.enableCalls())
    } catch (failure) {
      this.#rejectAll(failure as Error)
      return
    }
    this.#sendQueued()
  }

  #finish(slot: number, usedLength: number): void {
    const ack = this.#port.buffers.u8(slot * SLOT_BYTES + SLOT_BYTES - 1)
    const command = this.#sent[slot]
    this.#free.push(slot)
    if (usedLength >= 1 && ack !== UNANSWERED) command?.resolve(ack)
    else
      command?.reject(
        this.#error(
          'ERR_VDPA_REFUSED',
          `the device used the command and wrote no acknowledgement (${show(usedLength)} bytes)`,
        ),
      )
  }

  #rejectAll(failure: Error): void {
    for (const command of [...this.#sent, ...this.#queued]) command?.reject(failure)
  }

  #canceled(signal: AbortSignal | undefined): Error {
    return this.#error('ERR_VDPA_CANCELED', 'the wait for the acknowledgement was given up', signal?.reason)
  }

  #error(code: ControlErrorCode, text: string, cause?: unknown): Error {
    const details = { path: this.#path, request: `control queue ${this.#port.index}` }
    return vdpaError(code, text, cause === undefined ? details : { ...details, cause })
  }
}
