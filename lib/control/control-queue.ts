// The driver's end of a control virtqueue: a command goes out as bytes, one byte of acknowledgement comes back, before a deadline. What commands mean
// is not known here.

import { checkInteger, rangeError, show } from '../base/checks.js'
import { CloseStack, type Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import type { Subscription } from '../backend/backend.js'
import type { RingMemory } from '../memory/ring-memory.js'
import type { DriverRing } from '../virtqueue/virtqueue.js'

/** The queue that a control queue speaks through: a ring, memory that the device reaches, and notifications both ways. */
export interface ControlPort extends Closeable {
  readonly index: number
  readonly ring: DriverRing
  readonly buffers: RingMemory
  readonly buffersIova: bigint
  publish(): void
  onCall(listener: () => void): Subscription
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

interface Waiting {
  resolve(ack: number): void
  reject(failure: Error): void
}

export class ControlQueue implements Closeable {
  readonly #port: ControlPort
  readonly #path: string
  readonly #timeout: number
  readonly #calls: Subscription
  readonly #free = Array.from({ length: SLOTS }, (_, slot) => SLOTS - 1 - slot)
  readonly #waiting = new Map<number, Waiting>()
  readonly #queue: (() => void)[] = []
  readonly #closing = new CloseStack()

  constructor(port: ControlPort, path: string, timeout: number) {
    checkInteger(timeout, 'timeout', 1, 0x7fff_ffff)
    this.#port = port
    this.#path = path
    this.#timeout = timeout
    this.#calls = port.onCall(() => this.#collect())
    this.#closing.push(() => port.close())
    this.#closing.push(() => this.#calls.close())
    this.#closing.push(() => this.#rejectAll())
  }

  get isClosed(): boolean {
    return this.#closing.isClosed
  }

  /**
   * Sends `bytes` and resolves with the acknowledgement byte. Errors: ERR_VDPA_TIMEOUT, ERR_VDPA_CANCELED, ERR_VDPA_RING_BROKEN, ERR_VDPA_CLOSED;
   * RangeError for more than SLOT_BYTES - 1 bytes. Commands wait for a free slot in the order they were given.
   */
  async command(bytes: Uint8Array, options: CommandOptions = {}): Promise<number> {
    this.#checkOpen()
    if (bytes.byteLength > SLOT_BYTES - 1)
      throw rangeError('a command', `at most ${SLOT_BYTES - 1} bytes long`, bytes.byteLength)
    options.signal?.throwIfAborted()
    while (this.#free.length === 0) await new Promise<void>((wake) => this.#queue.push(wake))
    this.#checkOpen()
    const slot = this.#free.pop()
    if (slot === undefined) return this.command(bytes, options)
    return this.#wait(slot, bytes, options)
  }

  /** Closes the queue. Commands that wait are rejected with ERR_VDPA_CANCELED. The device must be stopped. */
  close(): Promise<void> {
    return this.#closing.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #wait(slot: number, bytes: Uint8Array, options: CommandOptions): Promise<number> {
    const timeout = options.timeout ?? this.#timeout
    return new Promise<number>((resolve, reject) => {
      const end = <T>(settle: (value: T) => void) => {
        return (value: T) => {
          clearTimeout(timer)
          options.signal?.removeEventListener('abort', onAbort)
          this.#waiting.delete(slot)
          settle(value)
        }
      }
      const fail = end(reject)
      const onAbort = () => fail(this.#error('ERR_VDPA_CANCELED', 'the wait for the acknowledgement was given up'))
      const timer = setTimeout(() => {
        this.#collect()
        if (this.#waiting.has(slot)) fail(this.#error('ERR_VDPA_TIMEOUT', `no acknowledgement within ${timeout} ms`))
      }, timeout)
      options.signal?.addEventListener('abort', onAbort)
      this.#waiting.set(slot, { resolve: end(resolve), reject: fail })
      try {
        this.#send(slot, bytes)
      } catch (failure) {
        this.#free.push(slot)
        fail(failure)
      }
    })
  }

  #send(slot: number, bytes: Uint8Array): void {
    const { ring, buffers, buffersIova } = this.#port
    const at = slot * SLOT_BYTES
    const ackAt = at + SLOT_BYTES - 1
    buffers.bytes(at, bytes.byteLength).set(bytes)
    buffers.setU8(ackAt, UNANSWERED)
    ring.begin()
    ring.pushAddress(buffersIova + BigInt(at), bytes.byteLength, false)
    ring.pushAddress(buffersIova + BigInt(ackAt), 1, true)
    ring.commit(slot)
    this.#port.publish()
  }

  /** Takes every answer that is there. A slot whose command was given up comes back here, when the device is done with it at last. */
  #collect(): void {
    if (this.isClosed) return
    const { ring, buffers } = this.#port
    try {
      do {
        for (let slot = ring.take(); slot >= 0; slot = ring.take()) {
          const ack = buffers.u8(slot * SLOT_BYTES + SLOT_BYTES - 1)
          const waiting = this.#waiting.get(slot)
          const isAnswered = ring.usedLength >= 1 && ack !== UNANSWERED
          this.#free.push(slot)
          if (isAnswered) waiting?.resolve(ack)
          else
            waiting?.reject(
              this.#error(
                'ERR_VDPA_REFUSED',
                `the device used the command and wrote no acknowledgement (${show(ring.usedLength)} bytes)`,
              ),
            )
          this.#queue.shift()?.()
        }
      } while (!ring.enableCalls())
    } catch (failure) {
      for (const waiting of [...this.#waiting.values()]) waiting.reject(failure as Error)
      for (const wake of this.#queue.splice(0)) wake()
    }
  }

  #rejectAll(): void {
    for (const waiting of [...this.#waiting.values()])
      waiting.reject(this.#error('ERR_VDPA_CANCELED', 'the control queue was closed'))
    for (const wake of this.#queue.splice(0)) wake()
  }

  #checkOpen(): void {
    if (this.isClosed) throw this.#error('ERR_VDPA_CLOSED', 'the control queue is closed')
  }

  #error(code: 'ERR_VDPA_CANCELED' | 'ERR_VDPA_TIMEOUT' | 'ERR_VDPA_REFUSED' | 'ERR_VDPA_CLOSED', text: string): Error {
    return vdpaError(code, text, { path: this.#path, request: `control queue ${this.#port.index}` })
  }
}
