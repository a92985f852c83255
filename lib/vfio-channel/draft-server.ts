// The end that serves the drafts of 2018 and 2019: messages carried out, answers kept for who reads them. One client; in this process it is the client's region itself.

import type { Eventfd } from '../backend/backend.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { u64Value, vhostVringState } from '../uapi/vhost-types.js'
import { vhostDeviceStates, vhostVfioFlags } from '../uapi/vhost-vfio.js'
import { ClientMemory } from './client-memory.js'
import {
  decodeDraftRequest,
  decodeMessage,
  draftRequest,
  encodeMessage,
  payloadLast,
  type Draft,
  type DraftRequest,
  type Message,
  type TableEntry,
} from './codec.js'
import { DraftDevice, type WantedMapping } from './draft-device.js'
import type { FarEnd } from './far-end.js'
import type { Quirk } from './quirks.js'
import { asRefusal, regionError } from './refusal.js'
import { CONTROL_OFFSET, type ChannelRegion, type DmaMemory } from './region.js'

/** What a server of a draft is made with. */
export interface DraftOptions {
  readonly draft: Draft
  /** Oddities of the server of the time to show. Default: none. */
  readonly imitates?: readonly Quirk[]
}

/** One client of a draft in front of a far end, which is this one's to close. */
export class DraftServer implements ChannelRegion {
  readonly #draft: Draft
  readonly #imitates: ReadonlySet<Quirk>
  readonly #far: FarEnd
  readonly #memory: ClientMemory
  readonly #device: DraftDevice
  #table: readonly TableEntry[] = []
  #answer: Uint8Array | undefined
  #isClosed = false

  /** Errors: what the far end refuses; it is closed then. */
  constructor(far: FarEnd, { draft, imitates = [] }: DraftOptions) {
    this.#draft = draft
    this.#imitates = new Set(imitates)
    this.#far = far
    this.#memory = new ClientMemory(far.pageSize, (region) => far.show(region))
    try {
      this.#device = new DraftDevice(far, () => this.#wanted())
    } catch (failure) {
      far.close()
      throw failure
    }
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** The answer to what was asked last, once; 0 bytes where nothing was. EINVAL for another length, and it can be read again. */
  pread(target: Uint8Array, offset: bigint): number {
    this.#checkOpen()
    if (offset !== CONTROL_OFFSET) throw regionError('EINVAL', 'pread', `nothing is read at 0x${offset.toString(16)}`)
    const answer = this.#answer
    if (answer === undefined) return 0
    const isWrong = target.byteLength !== answer.byteLength
    if (!isWrong || this.#imitates.has('forgets-after-short-read')) this.#answer = undefined
    if (isWrong) throw regionError('EINVAL', 'pread', `the answer has ${answer.byteLength} bytes`)
    target.set(answer)
    return answer.byteLength
  }

  pwrite(bytes: Uint8Array, offset: bigint): number {
    this.#checkOpen()
    if (offset !== CONTROL_OFFSET)
      return this.#device.doorbells.write(bytes, offset, this.#imitates.has('queue-from-data'))
    try {
      this.#take(decodeMessage(bytes, payloadLast[this.#draft]))
    } catch (failure) {
      throw asRefusal(failure, 'pwrite')
    }
    return bytes.byteLength
  }

  mapDma(at: bigint, { region }: DmaMemory): void {
    this.#checkOpen()
    this.#memory.add(at, region)
    // In 2018 memory is told of by a table, in which this piece is not yet.
    if (this.#draft === '2019') this.#changeMemory(() => this.#memory.remove(at))
  }

  unmapDma(at: bigint): void {
    this.#checkOpen()
    this.#memory.remove(at)
    if (this.#draft === '2019') this.#changeMemory(() => undefined)
  }

  setInterrupt(vector: number, eventfd: Eventfd | undefined): void {
    if (eventfd === undefined && this.#imitates.has('keeps-interrupts')) return
    try {
      this.#checkOpen()
      this.#device.setCall(vector, eventfd)
    } catch (failure) {
      eventfd?.close()
      throw asRefusal(failure, 'ioctl')
    }
  }

  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const failures = new Failures()
    failures.now(() => this.#device.close())
    failures.now(() => this.#far.close())
    failures.now(() => this.#memory.close())
    failures.throwMet('closing met failures')
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #take(message: Message): void {
    const name = draftRequest(message.request, this.#draft)
    if (name === undefined && this.#imitates.has('takes-unknown-requests')) return
    if (name === undefined) {
      const number = `0x${message.request.toString(16)}`
      throw regionError('ENOTTY', 'pwrite', `the draft of ${this.#draft} has no request ${number}`)
    }
    const request = decodeDraftRequest(message, this.#draft)
    this.#checkFlags(message, name)
    try {
      const payload = this.#carryOut(request)
      if (payload !== undefined) this.#answer = encodeMessage(message.request, 0, payload)
    } catch (failure) {
      if (!this.#imitates.has('hides-failures')) throw failure
    }
  }

  /** Who asks for no answer would never read it, and it would stand in the way of the next. */
  #checkFlags({ flags }: Message, name: string): void {
    const wants = (flags & vhostVfioFlags.VHOST_VFIO_NEED_REPLY) !== 0
    const isAnswered = name === 'VHOST_GET_FEATURES' || name === 'VHOST_GET_VRING_BASE'
    if (wants === isAnswered || this.#imitates.has('answers-unasked')) return
    throw regionError('EINVAL', 'pwrite', `${name} ${isAnswered ? 'without' : 'with'} VHOST_VFIO_NEED_REPLY`)
  }

  #carryOut(request: DraftRequest): Uint8Array | undefined {
    const device = this.#device
    switch (request.name) {
      case 'VHOST_SET_OWNER':
      case 'VHOST_RESET_OWNER':
        return undefined
      case 'VHOST_GET_FEATURES':
        return u64Value.encode({ value: device.features })
      case 'VHOST_SET_FEATURES':
        device.setFeatures(request.value)
        return undefined
      case 'VHOST_SET_MEM_TABLE':
        this.#setTable(request.entries)
        return undefined
      case 'VHOST_SET_LOG_BASE':
        throw regionError('EOPNOTSUPP', 'pwrite', 'the device keeps no log')
      case 'VHOST_SET_VRING_NUM':
        device.setSize(request.index, request.num)
        return undefined
      case 'VHOST_SET_VRING_ADDR':
        if (request.flags !== 0) throw regionError('EOPNOTSUPP', 'pwrite', 'the device keeps no log')
        device.setAddresses(request.index, request)
        return undefined
      case 'VHOST_SET_VRING_BASE':
        device.setBase(request.index, request.num)
        return undefined
      case 'VHOST_GET_VRING_BASE':
        return vhostVringState.encode({ index: request.index, num: device.base(request.index) })
      case 'VHOST_DEVICE_SET_STATE':
        if (request.value > BigInt(vhostDeviceStates.RUNNING))
          throw regionError('EINVAL', 'pwrite', `there is no state ${request.value}`)
        device.setRunning(request.value === BigInt(vhostDeviceStates.RUNNING))
        return undefined
    }
  }

  #setTable(entries: readonly TableEntry[]): void {
    const old = this.#table
    this.#table = entries
    this.#changeMemory(() => (this.#table = old))
  }

  /** All or nothing, in the device as well as here. */
  #changeMemory(undo: () => void): void {
    try {
      this.#device.memoryChanged()
    } catch (failure) {
      undo()
      const failures = new Failures()
      failures.now(() => this.#device.memoryChanged())
      throw failure
    }
  }

  /** What the device is to reach: in 2019 what was shown, at its IOVA; in 2018 what the table says, of what was shown at its address. */
  #wanted(): WantedMapping[] {
    if (this.#draft === '2019')
      return [...this.#memory.pieces()].map(({ at, size, address }) => ({ iova: at, size, address }))
    return this.#table.map(({ guestAddress, size, userAddress }) => {
      const address = this.#memory.find(userAddress, size)
      if (address === undefined)
        throw regionError('EFAULT', 'pwrite', `no memory was shown at 0x${userAddress.toString(16)}`)
      return { iova: guestAddress, size, address }
    })
  }

  #checkOpen(): void {
    if (this.#isClosed) throw vdpaError('ERR_VDPA_CLOSED', 'the channel is closed')
  }
}
