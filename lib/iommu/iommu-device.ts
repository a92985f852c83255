// An IOMMU device on its virtqueues (spec section 5.13.2): requests are carried out in the order in which they came, faults are put into the buffers of the event queue. Hosts
// drive it as any other model.

import { bit } from '../base/bits.js'
import { typeError } from '../base/checks.js'
import type { ChainAside, DeviceQueue } from '../models/device-queue.js'
import type { DeviceCapabilities } from '../models/device-shape.js'
import { ModelDevice, type DeviceModel } from '../models/model-device.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { virtioIommuFault, virtioIommuReqProbe } from '../uapi/virtio-iommu.js'
import type { DeviceRing, RingState } from '../virtqueue/virtqueue.js'
import { iommuFeatureBits } from './iommu-options.js'
import { isMappingRequest, type MappingRequest } from './mapping-change.js'
import { encodeFault, type IommuFault } from './translate.js'
import { BYPASS_AT, VirtioIommu } from './virtio-iommu.js'

/** How an IOMMU is served. */
export interface IommuDeviceOptions {
  /** The node; default: the next free `/dev/vhost-vdpa-N`. */
  readonly path?: string
  /**
   * Carries requests out on the calling thread, within the device's turn, unless another is under way. Default false: while sinks sleep in the kernel the event loop goes on. A
   * sink whose device has a call under way refuses those on the calling thread (DEVERR).
   */
  readonly sync?: boolean
  /** What the device lacks, or has besides. */
  readonly capabilities?: DeviceCapabilities
  /** Descriptors of the largest ring; default 256. */
  readonly maxQueueSize?: number
}

/** An IOMMU that is served, and what became of its faults. */
export interface IommuDevice extends ModelDevice {
  /** Counted since it was made. */
  readonly counters: {
    /** Requests that were answered, with a status or with a used length of 0. */
    readonly requests: number
    /** Faults that were reported to the driver. */
    readonly faults: number
    /** Faults for which there was no buffer, or one that was too short. */
    readonly droppedFaults: number
  }
}

/** Requests that are under way: one, or some that are carried out together. */
interface InHand {
  readonly ring: DeviceRing
  /** Where it stood before them. */
  readonly from: RingState
  /** Chains that were set aside, in order; none where there is one request, whose chain is the queue's. */
  readonly chains: readonly ChainAside[]
  /** One for each of them, once they were carried out. */
  answers: readonly Uint8Array[] | undefined
}

/** Requests that are carried out together. */
interface Together {
  readonly request: MappingRequest
  readonly chain: ChainAside
}

/** Bytes of the answer to a request that changes mappings. */
const TAIL_BYTES = 4
/** Requests that are carried out together at most: the turn is to end between. */
const MOST_TOGETHER = 64
/** The longest request; what is behind it is not for us. */
const REQUEST_BYTES = virtioIommuReqProbe.size
/** Faults that wait for the device's turn; more are dropped. */
const FAULTS_KEPT = 256

class IommuModel implements DeviceModel {
  readonly counters = { requests: 0, faults: 0, droppedFaults: 0 }
  readonly #iommu: VirtioIommu
  readonly #sync: boolean
  readonly #scratch = new Uint8Array(REQUEST_BYTES)
  readonly #view = new DataView(this.#scratch.buffer)
  readonly #tail = new Uint8Array(TAIL_BYTES)
  readonly #faults: IommuFault[] = []
  #features = 0n
  #inHand: InHand | undefined

  constructor(iommu: VirtioIommu, sync: boolean) {
    this.#iommu = iommu
    this.#sync = sync
  }

  acceptFeatures(features: bigint): boolean {
    this.#accept(features)
    return true
  }

  reset(): void {
    this.#faults.length = 0
    this.#inHand = undefined
    this.#features = 0n
    this.#iommu.accept(0n)
    if (this.#isOnTheSpot) this.#iommu.resetSync()
    else this.#later(this.#iommu.reset())
  }

  writeConfig(device: ModelDevice, offset: number, bytes: Uint8Array): void {
    const value = bytes[BYPASS_AT - offset]
    if (!device.hasFeature(iommuFeatureBits.VIRTIO_IOMMU_F_BYPASS_CONFIG) || value === undefined || value > 1) return
    if (this.#isOnTheSpot) this.#iommu.setBypassSync(value === 1)
    else this.#later(this.#iommu.setBypass(value === 1))
  }

  work(device: ModelDevice): boolean {
    const [requests, events] = device.queues
    // Hosts that mask what a driver asks for do not ask us about it.
    this.#accept(device.driverFeatures())
    const wantsMore = device.attempt(() => this.#serve(device, requests))
    device.attempt(() => this.#report(device, events))
    return wantsMore
  }

  /** Keeps a fault until the device's turn, which the caller asks for. */
  keep(fault: IommuFault): void {
    if (this.#faults.length < FAULTS_KEPT) this.#faults.push(fault)
    else this.counters.droppedFaults++
  }

  /** Whether the next change is carried out on this thread: what is under way may not be overtaken. */
  get #isOnTheSpot(): boolean {
    return this.#sync && !this.#iommu.isBusy
  }

  #accept(features: bigint): void {
    if (features === this.#features) return
    this.#features = features
    this.#iommu.accept(features)
    // Draft 0.4: endpoints without a domain reach all memory from now on.
    if (this.#iommu.hasEventQueue || !this.#iommu.isBypassed) return
    if (this.#isOnTheSpot) this.#iommu.refreshSync()
    else this.#later(this.#iommu.refresh())
  }

  #serve(device: ModelDevice, queue: DeviceQueue | undefined): boolean {
    if (queue?.open(device.context) !== true) return false
    if (this.#inHand !== undefined && !this.#end(queue, this.#inHand)) return false
    const together: Together[] = []
    let from = queue.ring.state()
    while (queue.next()) {
      const length = queue.read(this.#scratch, 0, REQUEST_BYTES)
      const mapping = this.#mappingOf(queue, length)
      if (mapping !== undefined && together.push(mapping) < MOST_TOGETHER) continue
      if (!this.#isOnTheSpot && together.length > 0) {
        // What is behind them comes again, after them.
        if (mapping === undefined) queue.ring.rewind()
        break
      }
      if (!this.#finishAll(queue, together)) return false
      if (mapping === undefined && !this.#begin(device, queue, length, from)) return false
      device.meter.countUnknown()
      if (!device.isRunning || device.meter.isOver) return true
      from = queue.ring.state()
    }
    if (!this.#isOnTheSpot && together.length > 0) {
      this.#beginAll(device, queue, together, from)
      return false
    }
    return this.#finishAll(queue, together) && queue.rest()
  }

  /** The request in hand, `length` bytes long, where it only changes mappings, and can be carried out with those behind it. */
  #mappingOf(queue: DeviceQueue, length: number): Together | undefined {
    if (length < 0) return undefined
    const request = this.#iommu.parse(this.#view, length, queue.writableLength)
    if (request instanceof Uint8Array || !isMappingRequest(request)) return undefined
    const chain = queue.setAside(TAIL_BYTES)
    return chain && { request, chain }
  }

  /** Carries out what was gathered, and shows the driver all of it at once. False when a sink, which may be a function of the program, ended the queue. */
  #finishAll(queue: DeviceQueue, together: Together[]): boolean {
    if (together.length === 0) return true
    const { ring } = queue
    const gathered = together.splice(0)
    const statuses = this.#iommu.changeTogetherSync(gathered.map(({ request }) => request))
    if (!queue.isOn(ring)) return false
    for (let index = 0; index < gathered.length; index++) {
      this.counters.requests++
      this.#tail[0] = statuses[index] as number
      queue.completeAside((gathered[index] as Together).chain, this.#tail)
    }
    queue.publish()
    return true
  }

  /**
   * Ends what was in hand when it was carried out. A suspension puts the chains back, as does an end of the queue: where it goes on where it stood, they come again, and have their answers
   * already. What a driver makes available
   * meanwhile is gathered after it, so that a slow sink has few batches, however many requests there are.
   */
  #end(queue: DeviceQueue, { ring, from, chains, answers }: InHand): boolean {
    if (answers === undefined) return false
    this.#inHand = undefined
    if (queue.ring !== ring && !isAt(queue.ring.state(), from)) return true
    const areHeld = queue.isHolding
    if (areHeld) queue.takeUp()
    for (const [index, answer] of answers.entries()) {
      const chain = areHeld ? chains[index] : undefined
      if (chain === undefined && !areHeld && !queue.next()) break
      this.counters.requests++
      if (chain !== undefined) {
        queue.completeAside(chain, answer)
        continue
      }
      if (answer.length > 0) queue.write(answer, 0, answer.length)
      queue.complete()
    }
    queue.publish()
    return true
  }

  /** Carries out the chain that was loaded, whose request is `length` bytes long; false when its answer comes later. */
  #begin(device: ModelDevice, queue: DeviceQueue, length: number, from: RingState): boolean {
    if (length < 0) {
      this.#finish(queue, new Uint8Array(0))
      return true
    }
    const readable = this.#scratch.slice(0, length)
    const { ring, writableLength } = queue
    if (this.#isOnTheSpot) {
      const answer = this.#iommu.answerSync(readable, writableLength)
      // A sink may be a function of the program, which may have ended the queue.
      if (queue.isOn(ring)) this.#finish(queue, answer)
      return queue.isOn(ring)
    }
    queue.hold()
    const answers = this.#iommu.answer(readable, writableLength).then((answer) => [answer])
    this.#keepInHand(device, { ring, from, chains: [], answers: undefined }, answers, 1)
    return false
  }

  /** Carries out what was gathered, whose answers come later. `from`: where the ring stood before. */
  #beginAll(device: ModelDevice, queue: DeviceQueue, together: readonly Together[], from: RingState): void {
    queue.hold(from)
    const statuses = this.#iommu.changeTogether(together.map(({ request }) => request))
    const answers = statuses.then((all) => all.map((status) => Uint8Array.of(status, 0, 0, 0)))
    const chains = together.map(({ chain }) => chain)
    this.#keepInHand(device, { ring: queue.ring, from, chains, answers: undefined }, answers, chains.length)
  }

  #keepInHand(device: ModelDevice, inHand: InHand, answers: Promise<readonly Uint8Array[]>, count: number): void {
    this.#inHand = inHand
    const answered = (known: readonly Uint8Array[]) => {
      inHand.answers = known
      device.wake()
    }
    answers.then(answered, (failure: unknown) => {
      this.#iommu.report(failure)
      answered(new Array<Uint8Array>(count).fill(new Uint8Array(0)))
    })
  }

  #finish(queue: DeviceQueue, answer: Uint8Array): void {
    this.counters.requests++
    if (answer.length > 0) queue.write(answer, 0, answer.length)
    queue.complete()
    queue.publish()
  }

  #report(device: ModelDevice, queue: DeviceQueue | undefined): boolean {
    if (this.#faults.length === 0) return false
    const faults = this.#faults.splice(0)
    const isOpen = queue?.open(device.context) === true
    for (const fault of faults) {
      if (!isOpen || !queue.next()) {
        this.counters.droppedFaults++
        continue
      }
      const fits = queue.writableLength >= virtioIommuFault.size
      if (fits && queue.write(encodeFault(fault), 0, virtioIommuFault.size) >= 0) this.counters.faults++
      else this.counters.droppedFaults++
      queue.complete()
    }
    if (isOpen) queue.publish()
    return false
  }

  #later(work: Promise<unknown>): void {
    work.catch((failure: unknown) => this.#iommu.report(failure))
  }
}

function isAt(state: RingState, { available, used }: RingState): boolean {
  return state.available === available && state.used === used
}

/**
 * Serves an IOMMU over virtqueues: a device for `Simulator.add()`, and for any other host of models. Its faults are reported on the event queue while it runs.
 * TypeError for what is no VirtioIommu. An IOMMU has one device.
 */
export function iommuDevice(iommu: VirtioIommu, options: IommuDeviceOptions = {}): IommuDevice {
  if (!(iommu instanceof VirtioIommu)) throw typeError('iommu', 'a VirtioIommu', iommu)
  const { path, sync = false, capabilities, maxQueueSize } = options
  const { VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_INDIRECT_DESC, VIRTIO_F_RING_EVENT_IDX } =
    transportFeatureBits
  const model = new IommuModel(iommu, sync)
  const device = new ModelDevice(
    {
      deviceId: deviceIds.iommu,
      queueCount: iommu.hasEventQueue ? 2 : 1,
      features: [
        VIRTIO_F_VERSION_1,
        VIRTIO_F_ACCESS_PLATFORM,
        VIRTIO_F_RING_INDIRECT_DESC,
        VIRTIO_F_RING_EVENT_IDX,
        transportFeatureBits.VIRTIO_F_RING_PACKED,
      ].reduce((word, number) => word | bit(number), iommu.features),
      config: iommu.config,
      ...(path !== undefined && { path }),
      ...(capabilities !== undefined && { capabilities }),
      ...(maxQueueSize !== undefined && { maxQueueSize }),
    },
    model,
  )
  iommu.onFault((fault) => {
    if (!device.isRunning) return
    model.keep(fault)
    device.wake()
  })
  return Object.defineProperties(device, { counters: { value: model.counters, enumerable: true } }) as IommuDevice
}
