// The driver's end of a control virtqueue: a command goes out as bytes, an acknowledgement and perhaps an answer come back, before a deadline. What
// commands mean is not known here.

import { onAbort } from '../base/abort-listeners.js'
import { checkInteger, checkObject, checkSignal, plainBytes, rangeError, show, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import { Fifo } from '../base/fifo.js'
import { throwUncaught } from '../base/program-calls.js'
import type { Subscription } from '../backend/backend.js'
import type { RingMemory } from '../memory/ring-memory.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'
import { Breakdown, type BreakdownHost } from './breakdown.js'
import { BriefLook } from './brief-look.js'
import { CommandMemory, SLOT_BYTES } from './command-memory.js'

/** The queue that a control queue speaks through: a ring, memory that the device reaches, and notifications both ways. */
export interface ControlPort extends Closeable {
  /** The virtqueue's number, for sentences. */
  readonly index: number
  /** The driver's side of the ring. */
  readonly ring: DriverRing
  /** Memory that the device reaches: the more of it, the longer a command may be. SLOT_BYTES at least. */
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

/** How a command is sent whose answer may be more than the acknowledgement. */
export interface ExchangeOptions extends CommandOptions {
  /** Bytes that the device may write behind the acknowledgement; 0 by default. */
  readonly answerBytes?: number
}

/** What came back for one command. */
export interface ControlAnswer {
  /** The acknowledgement byte. */
  readonly ack: number
  /** What the device wrote behind it: as many bytes as it says, `answerBytes` at most. */
  readonly answer: Uint8Array
}

export { SLOT_BYTES }
/** How many short commands may be under way in SLOTS × SLOT_BYTES of memory. */
export const SLOTS = 8
/** What the acknowledgement byte holds before the device writes it: no answer of any command. */
const UNANSWERED = 0xff
/** Milliseconds: the longest that a timer of Node takes. */
const LAST_TIMEOUT = 0x7fff_ffff

/** One command, from its call to its end. */
interface Command {
  /** A copy: the caller may use its array again while the command waits for room. */
  readonly bytes: Uint8Array
  readonly answerBytes: number
  /** The first chunk of its memory; -1 while it waits. */
  slot: number
  resolve(answer: ControlAnswer): void
  reject(failure: Error): void
}

/** What became of a command that nobody waits for any more. */
export interface CommandFate {
  /** Whether it was given to the device when the wait ended. */
  isSent: boolean
  /** Is told when the device gives it back after all: the acknowledgement, undefined where there is none. */
  onLate(ack: number | undefined): void
}

type ControlErrorCode = 'ERR_VDPA_CANCELED' | 'ERR_VDPA_TIMEOUT' | 'ERR_VDPA_REFUSED' | 'ERR_VDPA_CLOSED'

/** Commands of any kind of device as bytes; NetControlQueue gives them names. */
export class ControlQueue implements Closeable {
  readonly #port: ControlPort
  readonly #path: string
  readonly #timeout: number
  readonly #calls: Subscription
  readonly #memory: CommandMemory
  /** By first chunk; undefined where none was sent, or where nobody waits for the answer any more. */
  readonly #sent: (Command | undefined)[]
  /** By first chunk: who is told of an answer that comes late. */
  readonly #late: (CommandFate | undefined)[]
  /** By first chunk, also of those that nobody waits for: bytes of the command, behind which the acknowledgement lies. */
  readonly #ackAt: Uint32Array
  readonly #queued = new Fifo<Command>()
  readonly #look = new BriefLook()
  readonly #breakdown: Breakdown
  #isDisposed = false

  /**
   * `path` names the device in errors; `timeout` is in milliseconds, for commands that do not say their own. `host`, a VdpaDevice, tells of a breakdown (spec
   * section 2.1.2); without it commands wait for their deadline then. ERR_VDPA_NOT_SUPPORTED for a ring that holds none, and what the device refuses its
   * configuration interrupt with.
   */
  constructor(port: ControlPort, path: string, timeout: number, host: BreakdownHost = { path }) {
    if (typeof (port as Partial<ControlPort> | undefined)?.ring?.size !== 'number')
      throw typeError('port', 'a ControlPort', port)
    checkObject(host, 'host')
    checkInteger(timeout, 'timeout', 1, LAST_TIMEOUT)
    if (port.ring.size < 2)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'the largest ring has 1 descriptor, and a command takes 2', {
        path,
        request: `control queue ${port.index}`,
      })
    this.#port = port
    this.#path = path
    this.#timeout = timeout
    this.#memory = new CommandMemory(port.buffers.byteLength)
    this.#sent = new Array<Command | undefined>(this.#memory.chunks).fill(undefined)
    this.#late = new Array<CommandFate | undefined>(this.#memory.chunks).fill(undefined)
    this.#ackAt = new Uint32Array(this.#memory.chunks)
    this.#calls = port.onCall(() => this.#collect())
    this.#breakdown = new Breakdown(host, (failure) => this.#break(failure))
    port.onClose(() => {
      this.#breakdown.stop()
      this.#calls.close()
      this.#rejectAll(this.#error('ERR_VDPA_CANCELED', 'the control queue was closed'))
    })
  }

  /** True from close() on, or when the device was closed or reset. */
  get isClosed(): boolean {
    return this.#isDisposed || this.#port.isClosed
  }

  /** @internal Whether it speaks through that port. */
  drives(port: object): boolean {
    return this.#port === port
  }

  /** Bytes of the longest command, the acknowledgement and the answer not counted. */
  get maxCommandBytes(): number {
    return this.#memory.chunks * SLOT_BYTES - 1
  }

  /** exchange() for a command whose answer is the acknowledgement byte alone: resolves with that. */
  async command(bytes: Uint8Array, options: CommandOptions = {}): Promise<number> {
    return (await this.exchange(bytes, { ...options, answerBytes: 0 })).ack
  }

  /**
   * Sends `bytes` and resolves with the acknowledgement and what the device wrote behind it. Commands are sent in the order they were given; those for which
   * ring or memory have no room wait for it; the deadline counts from the call. One that is longer than SLOT_BYTES goes out in several descriptors, as far as
   * the ring has them. The answer to one that is alone is looked for on the calling thread for some tens of microseconds. Errors: ERR_VDPA_TIMEOUT,
   * ERR_VDPA_CANCELED (a command that was not sent yet never is), ERR_VDPA_REFUSED (used without an acknowledgement), ERR_VDPA_RING_BROKEN,
   * ERR_VDPA_DEVICE_BROKEN (it needs a reset, and may have carried out what was sent), ERR_VDPA_CLOSED, what the kick was refused with (the device may still carry
   * the command out); RangeError for no bytes, or more than there is memory for. (spec section 5.1.6.5)
   */
  async exchange(bytes: Uint8Array, options: ExchangeOptions = {}): Promise<ControlAnswer> {
    return this.exchangeTold(bytes, options)
  }

  /** @internal exchange(), and what becomes of the command where that fails. */
  async exchangeTold(bytes: Uint8Array, options: ExchangeOptions, fate?: CommandFate): Promise<ControlAnswer> {
    checkObject(options, 'options')
    const { timeout = this.#timeout, signal, answerBytes = 0 } = options
    if (this.isClosed) throw this.#error('ERR_VDPA_CLOSED', 'the control queue is closed')
    if (this.#breakdown.failure !== undefined) throw this.#breakdown.failure
    const own = plainBytes(bytes, 'bytes')
    const most = this.maxCommandBytes
    if (own.length === 0 || own.length > most) throw rangeError('a command', `1 to ${most} bytes long`, own.length)
    checkInteger(answerBytes, 'answerBytes', 0, most - own.length)
    checkInteger(timeout, 'timeout', 1, LAST_TIMEOUT)
    checkSignal(signal)
    if (signal?.aborted === true) throw this.#canceled(signal)
    return new Promise<ControlAnswer>((resolve, reject) => {
      let isEnded = false
      let stopWaiting = () => {}
      const end = (settle: () => void) => {
        isEnded = true
        stopWaiting()
        this.#queued.delete(command)
        if (command.slot >= 0) this.#sent[command.slot] = undefined
        settle()
      }
      const giveUp = () => {
        if (fate === undefined || command.slot < 0) return
        fate.isSent = true
        this.#late[command.slot] = fate
      }
      const command: Command = {
        bytes: own.slice(),
        answerBytes,
        slot: -1,
        resolve: (answer) => end(() => resolve(answer)),
        reject: (failure) => {
          giveUp()
          end(() => reject(failure))
        },
      }
      const isAlone = this.#memory.isFree && this.#queued.size === 0
      this.#queued.push(command)
      this.#sendQueued()
      if (isAlone && !isEnded) this.#lookFor(() => isEnded)
      if (!isEnded) this.#breakdown.look()
      if (isEnded) return
      const timer = setTimeout(() => this.#onDeadline(command, timeout), timeout)
      const abandon = () => {
        command.reject(this.#canceled(signal))
        this.#sendQueued()
      }
      const takeOff = signal && onAbort(signal, abandon)
      stopWaiting = () => {
        clearTimeout(timer)
        takeOff?.()
      }
    })
  }

  /** Closes the queue. Commands that wait are rejected with ERR_VDPA_CANCELED. The device must be stopped. */
  close(): Promise<void> {
    return this.#port.close()
  }

  /** Ends the use of the queue: commands that wait are rejected with ERR_VDPA_CANCELED. Where the device runs, the queue's memory stays the device's until that ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isDisposed = true
    this.#breakdown.stop()
    this.#rejectAll(this.#error('ERR_VDPA_CANCELED', 'the control queue was closed'))
    await this.#port[Symbol.asyncDispose]()
  }

  /** Sends what waits, as far as there is room, in order, and tells the device once. */
  #sendQueued(): void {
    if (this.isClosed || this.#breakdown.failure !== undefined) return
    const placed: Command[] = []
    for (let command = this.#queued.first; command !== undefined; command = this.#queued.first) {
      try {
        if (!this.#place(command)) break
        placed.push(command)
      } catch (failure) {
        command.reject(failure as Error)
      }
      this.#queued.delete(command)
    }
    if (placed.length === 0) return
    try {
      this.#port.publish()
    } catch (failure) {
      // They are in the ring and stay the device's: their memory comes back when the device gives it back, if it ever does.
      const waiting = placed.filter((command) => this.#sent[command.slot] === command)
      for (const command of waiting) command.reject(failure as Error)
      // A port of the program may end the queue before it throws.
      if (waiting.length === 0) throwUncaught(failure)
    }
  }

  /** Puts a command into memory and ring; false while there is no room for it. */
  #place(command: Command): boolean {
    const { ring, buffers, buffersIova } = this.#port
    const { bytes, answerBytes } = command
    // An acknowledgement and its answer are one descriptor; the rest of the ring is for the command at most (section 2.7.5.3.1).
    const segmentBytes = SLOT_BYTES * Math.ceil(bytes.length / SLOT_BYTES / Math.max(ring.size - 1, 1))
    if (ring.freeCount < 1 + Math.ceil(bytes.length / segmentBytes)) return false
    const slot = this.#memory.take(bytes.length + 1 + answerBytes)
    if (slot < 0) return false
    try {
      const at = slot * SLOT_BYTES
      buffers.bytes(at, bytes.length).set(bytes)
      buffers.bytes(at + bytes.length, 1 + answerBytes).fill(0)
      buffers.setU8(at + bytes.length, UNANSWERED)
      ring.begin()
      for (let done = 0; done < bytes.length; done += segmentBytes)
        ring.pushAddress(buffersIova + BigInt(at + done), Math.min(segmentBytes, bytes.length - done), false)
      ring.pushAddress(buffersIova + BigInt(at + bytes.length), 1 + answerBytes, true)
      ring.commit(slot)
    } catch (failure) {
      this.#memory.release(slot)
      throw failure
    }
    command.slot = slot
    this.#sent[slot] = command
    this.#late[slot] = undefined
    this.#ackAt[slot] = bytes.length
    return true
  }

  /** An interrupt may have been lost, so the ring is asked once more before the command is given up, and the device whether it works at all. */
  #onDeadline(command: Command, timeout: number): void {
    this.#collect()
    this.#breakdown.ask()
    if (!this.#queued.has(command) && this.#sent[command.slot] !== command) return
    command.reject(this.#error('ERR_VDPA_TIMEOUT', `no acknowledgement within ${timeout} ms`))
    this.#sendQueued()
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

  /** Takes every answer that is there. Memory whose command was given up comes back here, when the device is done with it at last. */
  #collect(): void {
    if (this.#port.isClosed) return
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
    const command = this.#sent[slot]
    const ackAt = slot * SLOT_BYTES + (this.#ackAt[slot] ?? 0)
    const ack = this.#port.buffers.u8(ackAt)
    this.#memory.release(slot)
    const late = this.#late[slot]
    this.#late[slot] = undefined
    if (command === undefined) {
      late?.onLate(usedLength >= 1 && ack !== UNANSWERED ? ack : undefined)
      return
    }
    // Nothing beyond the length that the device gave may be believed (section 2.7.8.2), the acknowledgement included.
    if (usedLength >= 1 && ack !== UNANSWERED) {
      const length = Math.min(usedLength - 1, command.answerBytes)
      command.resolve({ ack, answer: this.#port.buffers.bytes(ackAt + 1, length).slice() })
    } else {
      command.reject(
        this.#error(
          'ERR_VDPA_REFUSED',
          `the device used the command and wrote no acknowledgement (${show(usedLength)} bytes)`,
        ),
      )
    }
  }

  /** What was answered before counts; nothing else will be. */
  #break(failure: Error): void {
    if (this.isClosed) return
    this.#collect()
    this.#rejectAll(failure)
  }

  #rejectAll(failure: Error): void {
    for (const command of [...this.#sent]) command?.reject(failure)
    // Each takes itself out.
    for (let command = this.#queued.first; command !== undefined; command = this.#queued.first) command.reject(failure)
  }

  #canceled(signal: AbortSignal | undefined): Error {
    return this.#error('ERR_VDPA_CANCELED', 'the wait for the acknowledgement was given up', signal?.reason)
  }

  #error(code: ControlErrorCode, text: string, cause?: unknown): Error {
    const details = { path: this.#path, request: `control queue ${this.#port.index}` }
    return vdpaError(code, text, cause === undefined ? details : { ...details, cause })
  }
}
