// A channel in shared memory (a memfd that both ends have): one call at a time lies in its first bytes, and a word says whose turn it is. Nothing can be passed there: the
// memory for DMA is the rest of the same file, and interrupts are not to be had: who drives a device so looks at its used rings.

import { checkFunction, checkObject, rangeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { errno } from '../uapi/errno.js'
import { FRAME_PAYLOAD_LAST, frameKinds } from './frames.js'
import { errnoOf, protocolError, refused } from './refusal.js'
import type { ChannelRegion, DmaMemory } from './region.js'

/** Bytes at the beginning of the memory that are the mailbox: whole pages. */
export const MAILBOX_BYTES = 0x4000

/** Refuses memory that has no room for a mailbox. TypeError, RangeError. */
export function checkMailbox(memory: MemoryRegion): void {
  checkObject(memory, 'options.memory')
  checkFunction(Reflect.get(memory, 'view'), 'options.memory.view')
  if (memory.length <= MAILBOX_BYTES)
    throw rangeError('options.memory.length', `more than ${MAILBOX_BYTES}`, memory.length)
}

const turns = { IDLE: 0, ASKED: 1, ANSWERED: 2 } as const
/** Words of 32 bits at the beginning, and bytes from there on. */
const TURN = 0
const KIND = 1
const SIZE = 2
const LENGTH = 3
const VALUE_AT = 16
const PAYLOAD_AT = 64

/** The bytes of a mailbox, for either end. The other one may write to them at any time: every number is read once. */
class Box {
  readonly #words: Int32Array
  readonly #view: DataView
  readonly #bytes: Uint8Array

  constructor(memory: MemoryRegion) {
    const bytes = memory.view(0, MAILBOX_BYTES)
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, MAILBOX_BYTES)
    this.#words = new Int32Array(bytes.buffer, bytes.byteOffset, 4)
  }

  get turn(): number {
    return Atomics.load(this.#words, TURN)
  }

  get kind(): number {
    return Atomics.load(this.#words, KIND)
  }

  /** Bytes that a read wants. */
  get length(): number {
    return Atomics.load(this.#words, LENGTH)
  }

  get value(): bigint {
    return this.#view.getBigUint64(VALUE_AT, true)
  }

  /** A copy; undefined where it says that it has more than there is room for. */
  payload(): Uint8Array | undefined {
    const size = Atomics.load(this.#words, SIZE)
    return size < 0 || size > FRAME_PAYLOAD_LAST ? undefined : this.#bytes.slice(PAYLOAD_AT, PAYLOAD_AT + size)
  }

  /** Puts all down, and the turn last. */
  put(turn: number, call: { kind: number; value: bigint; length?: number; payload?: Uint8Array }): void {
    const { kind, value, length = 0, payload = new Uint8Array(0) } = call
    this.#bytes.set(payload, PAYLOAD_AT)
    this.#view.setBigUint64(VALUE_AT, BigInt.asUintN(64, value), true)
    Atomics.store(this.#words, KIND, kind)
    Atomics.store(this.#words, SIZE, payload.byteLength)
    Atomics.store(this.#words, LENGTH, length)
    Atomics.store(this.#words, TURN, turn)
  }
}

/** How a client waits. */
export interface MailboxOptions {
  /** Tells the other end that a call is there: an eventfd that it waits for, as a rule. */
  readonly ring: () => void
  /** Waits a little; default: not at all. */
  readonly rest?: (milliseconds: number) => void
  /** Milliseconds until an answer that does not come ends the channel. */
  readonly timeout: number
}

/** The client's end. Whose memory it is, closes it. */
export class MailboxRegion implements ChannelRegion {
  readonly #box: Box
  readonly #memory: MemoryRegion
  readonly #options: MailboxOptions
  #isClosed = false
  #isBroken = false

  constructor(memory: MemoryRegion, options: MailboxOptions) {
    this.#box = new Box(memory)
    this.#memory = memory
    this.#options = options
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  pread(target: Uint8Array, offset: bigint): number {
    const { result, payload } = this.#call({ kind: frameKinds.PREAD, value: offset, length: target.byteLength })
    if (payload.byteLength !== result || result > target.byteLength)
      throw protocolError(`an answer of ${payload.byteLength} bytes with the result ${result}`)
    target.set(payload)
    return result
  }

  pwrite(bytes: Uint8Array, offset: bigint): number {
    if (bytes.byteLength > FRAME_PAYLOAD_LAST) throw this.#refused(errno.E2BIG)
    return this.#call({ kind: frameKinds.PWRITE, value: offset, payload: bytes }).result
  }

  /** ERR_VDPA_NOT_SUPPORTED for other memory than the channel's own, which is shown as a whole. */
  mapDma(at: bigint, { region }: DmaMemory): void {
    if (region !== this.#memory)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'only the memory that the channel lies in can be shown there')
    this.#call({ kind: frameKinds.MAP_DMA, value: at })
  }

  unmapDma(at: bigint): void {
    this.#call({ kind: frameKinds.UNMAP_DMA, value: at })
  }

  /** ERR_VDPA_NOT_SUPPORTED for an eventfd, which is closed: look at the used rings. */
  setInterrupt(_vector: number, eventfd: { close(): void } | undefined): void {
    if (eventfd === undefined) return
    eventfd.close()
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'no eventfd can be passed by shared memory: look at the used rings')
  }

  close(): void {
    this.#isClosed = true
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #call(call: { kind: number; value: bigint; length?: number; payload?: Uint8Array }): {
    readonly result: number
    readonly payload: Uint8Array
  } {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the channel is closed')
    if (this.#isBroken) throw this.#refused(errno.ENODEV)
    const { ring, rest, timeout } = this.#options
    this.#box.put(turns.ASKED, call)
    ring()
    const deadline = performance.now() + timeout
    while (this.#box.turn !== turns.ANSWERED) {
      if (performance.now() > deadline) {
        // An answer that comes later would be taken for that of another call.
        this.#isBroken = true
        throw vdpaError('ERR_VDPA_TIMEOUT', `the other end did not answer within ${timeout} ms`)
      }
      rest?.(1)
    }
    const result = BigInt.asIntN(64, this.#box.value)
    const payload = this.#box.payload()
    if (payload === undefined || result < -4095n || result > 0x7fff_ffffn)
      throw protocolError(`an answer with the result ${result}`)
    if (result < 0n) throw this.#refused(-Number(result))
    return { result: Number(result), payload }
  }

  #refused(number: number): Error {
    return refused(number, { syscall: 'the far end', path: 'the channel' })
  }
}

/** The serving end. Neither the memory nor the region is its own. */
export class MailboxServer {
  readonly #box: Box
  readonly #memory: MemoryRegion
  readonly #region: ChannelRegion

  constructor(memory: MemoryRegion, region: ChannelRegion) {
    this.#box = new Box(memory)
    this.#memory = memory
    this.#region = region
  }

  /** Carries out the call that is there; false when none is. */
  serve(): boolean {
    if (this.#box.turn !== turns.ASKED) return false
    const kind = frameKinds.REPLY
    try {
      const payload = this.#carryOut()
      this.#box.put(turns.ANSWERED, { kind, ...payload })
    } catch (failure) {
      this.#box.put(turns.ANSWERED, { kind, value: BigInt(-errnoOf(failure)) })
    }
    return true
  }

  #carryOut(): { value: bigint; payload?: Uint8Array } {
    const { kind, value, length } = this.#box
    const payload = this.#box.payload()
    if (payload === undefined) throw protocolError('a call longer than the mailbox')
    switch (kind) {
      case frameKinds.PREAD: {
        if (length < 0 || length > FRAME_PAYLOAD_LAST) throw protocolError(`${length} bytes are to be read at once`)
        const target = new Uint8Array(length)
        const count = this.#region.pread(target, value)
        return { value: BigInt(count), payload: target.subarray(0, count) }
      }
      case frameKinds.PWRITE:
        return { value: BigInt(this.#region.pwrite(payload, value)) }
      case frameKinds.MAP_DMA:
        this.#region.mapDma(value, { region: this.#memory, fileOffset: 0n })
        return { value: 0n }
      case frameKinds.UNMAP_DMA:
        this.#region.unmapDma(value)
        return { value: 0n }
      default:
        throw protocolError(`a call of kind ${kind}`)
    }
  }
}
