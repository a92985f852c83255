// A device as the drafts set it up: everything is kept until it is started, and becomes vhost-vdpa's own requests then, whose law is the far end's.

import { bit } from '../base/bits.js'
import { Failures } from '../base/failures.js'
import { isVdpaError } from '../base/errors.js'
import type { Eventfd } from '../backend/backend.js'
import { VhostVdpaTransport, type VringAddresses } from '../transport/vhost-vdpa.js'
import { iotlbMessageTypes, vhostAccess, vhostMessageTypes, vhostMsgV2 } from '../uapi/vhost-types.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { initialState } from '../virtqueue/layout.js'
import { Doorbells } from './doorbells.js'
import { Relay, type FarEnd } from './far-end.js'
import { regionError } from './refusal.js'

const PLATFORM = bit(transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM)
const PACKED = bit(transportFeatureBits.VIRTIO_F_RING_PACKED)
const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK } = virtioStatus
const NEGOTIATED = ACKNOWLEDGE | DRIVER | FEATURES_OK
const { VHOST_IOTLB_UPDATE, VHOST_IOTLB_INVALIDATE } = iotlbMessageTypes

/** A piece of memory as the device is to reach it. */
export interface WantedMapping {
  readonly iova: bigint
  readonly size: bigint
  /** In the far end's numbering. */
  readonly address: bigint
}

/** What a queue was told. */
interface QueueSettings {
  size: number | undefined
  addresses: VringAddresses | undefined
  /** Where it goes on; undefined: at its beginning. */
  base: number | undefined
  /** What it interrupts. */
  call: Eventfd | undefined
  relay: Relay | undefined
}

/** One device behind one client of a draft. */
export class DraftDevice {
  readonly queueCount: number
  readonly doorbells: Doorbells
  readonly #far: FarEnd
  readonly #transport: VhostVdpaTransport
  readonly #queues: readonly QueueSettings[]
  readonly #wanted: () => readonly WantedMapping[]
  readonly #mapped: { readonly iova: bigint; readonly size: bigint }[] = []
  #driverFeatures = 0n
  #isRunning = false

  /** `wanted` says at each start what is to be mapped. */
  constructor(far: FarEnd, wanted: () => readonly WantedMapping[]) {
    this.#far = far
    this.#wanted = wanted
    this.#transport = new VhostVdpaTransport(far.handle)
    this.doorbells = new Doorbells(far)
    this.#transport.setOwner()
    this.queueCount = this.#transport.vqsCount()
    const unset = { size: undefined, addresses: undefined, base: undefined, call: undefined, relay: undefined }
    this.#queues = Array.from({ length: this.queueCount }, () => ({ ...unset }))
  }

  get isRunning(): boolean {
    return this.#isRunning
  }

  get features(): bigint {
    return this.#transport.features()
  }

  /** EBUSY while it runs; EINVAL for what is not offered. */
  setFeatures(features: bigint): void {
    this.#checkStopped()
    const extra = features & ~this.features
    if (extra !== 0n) throw regionError('EINVAL', 'pwrite', `features 0x${extra.toString(16)} are not offered`)
    this.#driverFeatures = features
  }

  /** EBUSY while it runs; EINVAL for a queue that is not there. As for those below. */
  setSize(index: number, size: number): void {
    this.#stopped(index).size = size
  }

  setAddresses(index: number, addresses: VringAddresses): void {
    this.#stopped(index).addresses = addresses
  }

  setBase(index: number, base: number): void {
    this.#stopped(index).base = base
  }

  /** Where a queue stands: exactly so once the device is stopped. */
  base(index: number): number {
    const queue = this.#queue(index)
    if (this.#isRunning && isSetUp(queue)) return this.#transport.vringBase(index)
    return queue.base ?? this.#initialBase()
  }

  /** The eventfd is the device's to close. */
  setCall(index: number, call: Eventfd | undefined): void {
    const queue = this.#queue(index)
    this.#endRelay(index, queue)
    queue.call?.close()
    queue.call = call
    if (this.#isRunning && isSetUp(queue)) this.#beginRelay(index, queue)
  }

  /** Starts, or stops; nothing when it is so already. What fails is undone: the device is stopped then. */
  setRunning(isRunning: boolean): void {
    if (isRunning === this.#isRunning) {
      // A stop that failed may have left something mapped.
      if (!isRunning && this.#mapped.length > 0) this.#halt()
      return
    }
    if (!isRunning) return this.#stop()
    try {
      this.#start()
      this.#isRunning = true
    } catch (failure) {
      // Why it did not start is the failure; what its undoing met is not.
      new Failures().now(() => this.#halt())
      throw failure
    }
  }

  /** Memory came or went. */
  memoryChanged(): void {
    if (this.#isRunning) this.#mapAll()
  }

  close(): void {
    const failures = new Failures()
    failures.now(() => this.#halt())
    for (const queue of this.#queues) queue.call?.close()
    this.#isRunning = false
    failures.throwMet('closing met failures')
  }

  #start(): void {
    const transport = this.#transport
    // What an end that failed may have left.
    transport.setStatus(0)
    transport.setStatus(ACKNOWLEDGE)
    transport.setStatus(ACKNOWLEDGE | DRIVER)
    // Memory is always reached by mappings here, whatever the client's guest knows of it.
    transport.setFeatures(this.#driverFeatures | (this.features & PLATFORM))
    transport.setStatus(NEGOTIATED)
    if ((transport.status() & FEATURES_OK) === 0)
      throw regionError('EINVAL', 'pwrite', 'the device does not accept the features')
    this.#mapAll()
    this.#queues.forEach((queue, index) => {
      if (isSetUp(queue)) this.#beginQueue(index, queue)
    })
    transport.setStatus(NEGOTIATED | DRIVER_OK)
  }

  #beginQueue(index: number, queue: SetUpQueue): void {
    const transport = this.#transport
    transport.setVringNum(index, queue.size)
    transport.setVringAddr(index, queue.addresses)
    transport.setVringBase(index, queue.base ?? this.#initialBase())
    const kick = this.#far.eventfd()
    this.doorbells.keep(index, kick)
    transport.setVringKick(index, kick.fd)
    this.#beginRelay(index, queue)
    transport.setVringEnable(index, true)
  }

  #beginRelay(index: number, queue: QueueSettings): void {
    if (queue.call === undefined) return
    queue.relay = new Relay(queue.call, this.#far.eventfd())
    this.#transport.setVringCall(index, queue.relay.fd)
  }

  #endRelay(index: number, queue: QueueSettings): void {
    if (queue.relay === undefined) return
    queue.relay.close()
    queue.relay = undefined
    if (this.#isRunning) this.#transport.setVringCall(index, -1)
  }

  /** Where the queues stand is read while they rest, or as well as it can be. */
  #stop(): void {
    const transport = this.#transport
    try {
      transport.suspend()
    } catch (failure) {
      if (!isVdpaError(failure) || failure.code !== 'EOPNOTSUPP') throw failure
    }
    this.#queues.forEach((queue, index) => {
      if (isSetUp(queue)) queue.base = transport.vringBase(index)
    })
    this.#isRunning = false
    this.#halt()
  }

  /** As before any start. */
  #halt(): void {
    const failures = new Failures()
    failures.now(() => this.#transport.setStatus(0))
    failures.now(() => this.#unmapAll())
    for (const queue of this.#queues) {
      queue.relay?.close()
      queue.relay = undefined
    }
    this.doorbells.close()
    failures.throwMet('stopping met failures')
  }

  #mapAll(): void {
    this.#unmapAll()
    for (const { iova, size, address } of this.#wanted()) {
      this.#send(VHOST_IOTLB_UPDATE, iova, size, address)
      this.#mapped.push({ iova, size })
    }
  }

  #unmapAll(): void {
    for (let [first] = this.#mapped; first !== undefined; [first] = this.#mapped) {
      this.#send(VHOST_IOTLB_INVALIDATE, first.iova, first.size, 0n)
      this.#mapped.shift()
    }
  }

  #send(type: number, iova: bigint, size: bigint, uaddr: bigint): void {
    const perm = type === VHOST_IOTLB_UPDATE ? vhostAccess.VHOST_ACCESS_RW : 0
    const message = vhostMessageTypes.VHOST_IOTLB_MSG_V2
    this.#far.handle.write(vhostMsgV2.encode({ message, asid: 0, iova, size, uaddr, perm, type }))
  }

  #initialBase(): number {
    const format = (this.#driverFeatures & PACKED) === 0n ? 'split' : 'packed'
    const { available, used } = initialState(format)
    return format === 'split' ? available : available + used * 0x1_0000
  }

  #checkStopped(): void {
    if (this.#isRunning) throw regionError('EBUSY', 'pwrite', 'the device runs')
  }

  #stopped(index: number): QueueSettings {
    const queue = this.#queue(index)
    this.#checkStopped()
    return queue
  }

  /** The server of 2019 read past the end of its array here. */
  #queue(index: number): QueueSettings {
    const queue = this.#queues[index]
    if (queue === undefined)
      throw regionError('EINVAL', 'pwrite', `queue ${index} is not there: there are ${this.queueCount}`)
    return queue
  }
}

type SetUpQueue = QueueSettings & { size: number; addresses: VringAddresses }

function isSetUp(queue: QueueSettings): queue is SetUpQueue {
  return queue.size !== undefined && queue.addresses !== undefined
}
