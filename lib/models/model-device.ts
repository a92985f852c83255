// The part of a device that every kind has: registers, status, queues, groups, and the turn in which it works. What the device does with its queues is
// the model's; no kind is mentioned here.

import { bit } from '../base/bits.js'
import { checkInteger, checkOneOf, rangeError, toU64 } from '../base/checks.js'
import type { Range } from '../base/ranges.js'
import { isVdpaError } from '../base/errors.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { initialState } from '../virtqueue/layout.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import { featureViolation, statusViolation, showViolation, VIOLATIONS_KEPT, type Violation } from './driver-law.js'
import type { DeviceHost, DeviceOps } from './device-ops.js'
import { checkDeviceShape, RING_LAST, type DeviceShape } from './device-shape.js'
import type { AheadOptions } from './ahead-ring.js'
import { DeviceQueue } from './device-queue.js'
import type { QueueContext, VringStateKind } from './queue-context.js'
import { TurnMeter } from './turn-meter.js'

/** What a model does. */
export interface DeviceModel {
  /** The device runs and something may be there to do. True when it stopped before all was done, and wants another turn. */
  work(device: ModelDevice): boolean
  /** A driver wrote to the configuration space, which is not changed unless the model does it. */
  writeConfig?(device: ModelDevice, offset: number, bytes: Uint8Array): void
  /** A driver is about to read the configuration space: bring `config` up to date. */
  readConfig?(device: ModelDevice, config: Uint8Array): void
  /** Forget what a reset forgets. */
  reset?(device: ModelDevice): void
  /** As DeviceOps.whenQuiet(). */
  whenQuiet?(device: ModelDevice): Promise<void> | undefined
  /** Whether a set of features, all offered, can be driven. */
  acceptFeatures?(features: bigint, device: ModelDevice): boolean
}

const platformBit = bit(transportFeatureBits.VIRTIO_F_ACCESS_PLATFORM)

const PAGE_BYTES = 4096
/** What Linux' vhost and QEMU take of a driver that makes indirect tables longer than its ring, as Linux does. */
const LONGEST_TABLE = 1024

function checkPieces(bytes: number): number {
  checkInteger(bytes, 'capabilities.pieceBytes', PAGE_BYTES, Number.MAX_SAFE_INTEGER)
  if (bytes % PAGE_BYTES !== 0) throw rangeError('capabilities.pieceBytes', `a multiple of ${PAGE_BYTES}`, bytes)
  return bytes
}

function aheadOf({ capabilities = {}, answersAtOnce = () => false }: DeviceShape): AheadOptions | undefined {
  const { takesAhead, answersNewestFirst = false } = capabilities
  if (takesAhead === undefined) return undefined
  checkInteger(takesAhead, 'capabilities.takesAhead', 1, 0x8000)
  return { chains: takesAhead, newestFirst: answersNewestFirst, atOnce: answersAtOnce }
}

/** A device made of a shape and a model, as a host drives it. */
export class ModelDevice implements DeviceOps {
  readonly path?: string
  readonly deviceId: number
  readonly queueCount: number
  readonly groupCount: number
  readonly addressSpaceCount: number
  readonly maxQueueSize: number
  /** Where nobody said how large a ring may be, as large as a ring can be. */
  readonly largestRing: number
  readonly iovaRange?: Range
  readonly configSize: number
  readonly enablesAfterDriverOk: boolean
  readonly pinsMemory: boolean
  readonly pieceBytes?: number
  readonly mapsAtOnce: boolean
  readonly queueMaxSize?: (index: number) => number
  readonly queueGroup?: (index: number) => number
  readonly queueDescriptorGroup?: (index: number) => number
  readonly setGroupAsid?: (group: number, asid: number) => boolean
  readonly suspend?: () => boolean
  readonly resume?: () => boolean
  readonly resetMap?: (asid: number) => void
  readonly ringDoorbell?: (index: number, value: number) => void
  /** The bytes that drivers read. */
  readonly config: Uint8Array
  /** Each queue as the model works with it, by index. */
  readonly queues: readonly DeviceQueue[]
  /** What the turn under way has cost: a model asks it, after each piece of work, whether to go on in another turn. */
  readonly meter = new TurnMeter(() => this.#host?.isTurnOver?.() === true)
  readonly #shape: DeviceShape
  readonly #model: DeviceModel
  readonly #groups: readonly number[]
  readonly #asids: Uint8Array
  readonly #vringState: VringStateKind
  readonly #disablesQueues: boolean
  readonly #ahead: AheadOptions | undefined
  readonly #turn = () => this.#work()
  #host: DeviceHost | undefined
  #context: QueueContext | undefined
  #driverFeatures = 0n
  #status = 0
  #isRunning = false
  #hasPendingKick = false
  // It was suspended with something to do.
  #owesTurn = false
  #hasTurn = false
  readonly #violations: string[] = []
  #violationCount = 0
  #isWorking = false
  // Its turn came while it had one.
  #isOverdue = false
  #configCallback: (() => void) | undefined

  constructor(shape: DeviceShape, model: DeviceModel) {
    checkDeviceShape(shape)
    const { queueCount, capabilities = {} } = shape
    // Copies: the caller's arrays stay his.
    const groups = shape.groups?.slice() ?? new Array<number>(queueCount).fill(0)
    const descriptorGroups = shape.descriptorGroups?.slice()
    this.#shape = shape
    this.#model = model
    this.#groups = groups
    if (shape.path !== undefined) this.path = shape.path
    this.deviceId = shape.deviceId
    this.queueCount = queueCount
    this.groupCount = [...groups, ...(descriptorGroups ?? [])].reduce((most, group) => Math.max(most, group), 0) + 1
    this.addressSpaceCount = shape.addressSpaceCount ?? 1
    this.maxQueueSize = shape.maxQueueSize ?? 256
    this.largestRing = shape.maxQueueSize ?? RING_LAST
    if (shape.iovaRange !== undefined) this.iovaRange = shape.iovaRange
    this.config = shape.config
    this.configSize = shape.config.byteLength
    this.pinsMemory = capabilities.pinsMemory === true
    if (capabilities.pieceBytes !== undefined) this.pieceBytes = checkPieces(capabilities.pieceBytes)
    this.mapsAtOnce = capabilities.mapsAtOnce === true
    this.#vringState = capabilities.vringState ?? 'available index'
    checkOneOf(this.#vringState, 'capabilities.vringState', ['available index', 'used index', 'none'])
    this.#disablesQueues = capabilities.disablesQueues !== false
    this.#ahead = aheadOf(shape)
    this.enablesAfterDriverOk = capabilities.enableAfterDriverOk !== false
    this.queues = Array.from({ length: queueCount }, (_, index) => new DeviceQueue(index, this.maxQueueSize))
    this.#asids = new Uint8Array(this.groupCount)
    if (capabilities.queueMaxSize === true) this.queueMaxSize = (index) => this.#sizeOf(index)
    if (capabilities.groups !== false) this.queueGroup = (index) => groups[index] ?? 0
    if (descriptorGroups !== undefined) this.queueDescriptorGroup = (index) => descriptorGroups[index] ?? 0
    if (capabilities.groupAsid !== false) this.setGroupAsid = (group, asid) => this.#assign(group, asid)
    if (capabilities.suspend !== false) this.suspend = () => this.#suspend()
    if (capabilities.resume !== false) this.resume = () => this.#resume()
    if (capabilities.persistentMaps !== false) this.resetMap = () => undefined
    if (capabilities.doorbell === true)
      this.ringDoorbell = (index) => {
        this.#countKick(index)
        this.kick(index)
      }
  }

  attach(host: DeviceHost): void {
    this.#host = host
    this.#context = undefined
  }

  /** What it was attached to; throws while it has no host. */
  get host(): DeviceHost {
    if (this.#host === undefined) throw new Error('the device has no host')
    return this.#host
  }

  /** What the driver's features make of the rings. */
  get context(): QueueContext {
    this.#context ??= this.#makeContext()
    return this.#context
  }

  /** Of all rings: `'packed'` when the driver accepted VIRTIO_F_RING_PACKED. */
  get format(): RingFormat {
    return this.hasFeature(transportFeatureBits.VIRTIO_F_RING_PACKED) ? 'packed' : 'split'
  }

  /** Whether the driver accepted a feature, by bit number. */
  hasFeature(number: number): boolean {
    return (this.#driverFeatures & bit(number)) !== 0n
  }

  features(): bigint {
    return this.#shape.features
  }

  setFeatures(features: bigint): boolean {
    const wanted = toU64(features, 'features')
    if ((wanted & platformBit) === 0n && (this.#shape.features & platformBit) !== 0n) return false
    if (this.#host?.deviates('masks-features') === true) {
      this.#acceptFeatures(wanted & this.#shape.features)
      return true
    }
    if ((wanted & ~this.#shape.features) !== 0n) return false
    if (this.isStrict) {
      const problem = featureViolation(wanted, this.#shape.features, this.deviceId)
      if (problem !== undefined) {
        this.violate(problem.what, problem.section)
        return false
      }
    }
    if (this.#model.acceptFeatures?.(wanted, this) === false) return false
    this.#acceptFeatures(wanted)
    return true
  }

  driverFeatures(): bigint {
    return this.#driverFeatures
  }

  status(): number {
    return this.#status
  }

  setStatus(status: number): boolean {
    const problem = this.isStrict ? statusViolation(this.#status, status) : undefined
    if (problem !== undefined) {
      this.violate(problem.what, problem.section)
      return false
    }
    this.#status = status
    this.#isRunning = (status & virtioStatus.DRIVER_OK) !== 0
    return true
  }

  /** Whether drivers are held to the specification's law (`'takes-drivers-as-they-are'` is not imitated). */
  get isStrict(): boolean {
    return this.#host?.deviates('takes-drivers-as-they-are') !== true
  }

  /** What drivers did that the specification forbids, oldest first: the first 100 since the device was made. */
  get violations(): readonly string[] {
    return this.#violations
  }

  /** How many there were in all. */
  get violationCount(): number {
    return this.#violationCount
  }

  /** Keeps in mind, and tells the host, that the driver broke a rule. What follows for the driver is up to the caller. */
  violate(what: string, section?: string): void {
    const violation: Violation = { what, ...(section !== undefined && { section }) }
    this.#violationCount++
    if (this.#violations.length < VIOLATIONS_KEPT) this.#violations.push(showViolation(violation))
    this.#host?.report?.(violation)
  }

  reset(): void {
    for (const queue of this.queues) queue.reset(this.maxQueueSize)
    this.#asids.fill(0)
    this.#status = 0
    this.#isRunning = false
    if (this.#host?.deviates('kicks-outlive-reset') !== true) this.#hasPendingKick = false
    this.#owesTurn = false
    this.#acceptFeatures(0n)
    this.#model.reset?.(this)
  }

  readConfig(offset: number, target: Uint8Array): void {
    this.#model.readConfig?.(this, this.config)
    target.set(this.config.subarray(offset, offset + target.byteLength))
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    if (this.isStrict && (this.#status & virtioStatus.FEATURES_OK) === 0) {
      this.violate('the configuration was written before FEATURES_OK', '3.1.1')
      return
    }
    this.#model.writeConfig?.(this, offset, bytes)
  }

  setConfigCallback(callback: (() => void) | undefined): void {
    this.#configCallback = callback
  }

  setQueueSize(index: number, size: number): void {
    this.#queue(index).setSize(size)
  }

  setQueueAddresses(index: number, descriptor: bigint, driver: bigint, device: bigint): boolean {
    this.#queue(index).setAddresses(descriptor, driver, device)
    return true
  }

  setQueueReady(index: number, isReady: boolean): void {
    const queue = this.#queue(index)
    if (isReady || !queue.isReady || this.#disablesQueues) queue.setReady(isReady)
    else this.breakDown()
  }

  queueState(index: number): number | undefined {
    const queue = this.#queue(index)
    return this.#vringState === 'none' ? undefined : queue.state(this.format, this.#vringState)
  }

  setQueueState(index: number, state: number): boolean | undefined {
    const { available, used } = initialState(this.format)
    const isInitial = state === (this.format === 'split' ? available : available + used * 0x1_0000)
    if (this.#vringState === 'none' && !isInitial) return undefined
    this.#queue(index).setState(state, this.format)
    return true
  }

  setQueueCallback(index: number, callback: (() => void) | undefined): void {
    this.#queue(index).callback = callback
  }

  /** Asks for a turn. Kicks while suspended are remembered until resume. */
  kick(index: number): void {
    if (!this.#isRunning && (this.#status & virtioStatus.DRIVER_OK) !== 0) {
      this.#hasPendingKick = true
      return
    }
    if (this.queues[index]?.isReady === true) this.wake()
  }

  /** Section 3.1.1: no notification before DRIVER_OK. The device would not see the chains, and the driver would wait for them. */
  kickByDriver(index: number): void {
    this.#countKick(index)
    if (this.isStrict && (this.#status & virtioStatus.DRIVER_OK) === 0 && this.#status !== 0) {
      this.violate(`queue ${index} was kicked before DRIVER_OK`, '3.1.1')
      this.breakDown()
      return
    }
    this.kick(index)
  }

  #countKick(index: number): void {
    const queue = this.queues[index]
    if (queue !== undefined) queue.tally.kicks++
  }

  /** Gives the model a turn soon. */
  wake(): void {
    if (this.#hasTurn) return
    this.#hasTurn = true
    this.host.schedule(this.#turn)
  }

  /**
   * One part of a turn. A driver that breaks a rule of a ring ends this part only: the queue is out of use, and the device says that it wants a reset
   * (section 2.1.2). Returns what the part returned, false when it ended so. What else is thrown is the program's, or its host's, and no fault of the driver.
   */
  attempt(part: () => boolean): boolean {
    try {
      return part()
    } catch (error) {
      if (!isVdpaError(error) || error.code !== 'ERR_VDPA_RING_BROKEN') throw error
      if (!this.host.deviates('rings-of-vringh')) {
        this.violate(error.message)
        this.breakDown()
      }
      return false
    }
  }

  /** Whether the device may touch its queues now. */
  get isRunning(): boolean {
    return this.#isRunning && (this.#status & virtioStatus.NEEDS_RESET) === 0
  }

  whenQuiet(): Promise<void> | undefined {
    return this.#model.whenQuiet?.(this)
  }

  breakDown(): void {
    this.#status |= virtioStatus.NEEDS_RESET
    this.#configCallback?.()
  }

  changeConfig(offset: number, bytes: Uint8Array): void {
    checkInteger(offset, 'offset', 0, this.configSize)
    checkInteger(bytes.byteLength, 'bytes.byteLength', 0, this.configSize - offset)
    this.config.set(bytes, offset)
    this.#configCallback?.()
  }

  #queue(index: number): DeviceQueue {
    const queue = this.queues[index]
    if (queue === undefined) throw new Error(`the device has no queue ${index}`)
    return queue
  }

  #acceptFeatures(features: bigint): void {
    this.#driverFeatures = features
    this.#context = undefined
  }

  groupAsid(group: number): number {
    return this.#asids[group] ?? 0
  }

  /** As vdpa_sim tells it: from DRIVER_OK on, suspended or not, it is the size that was set. */
  #sizeOf(index: number): number {
    const hasBegun = (this.#status & virtioStatus.DRIVER_OK) !== 0
    return hasBegun ? (this.queues[index]?.size ?? 0) : this.maxQueueSize
  }

  #assign(group: number, asid: number): boolean {
    if (group >= this.groupCount || asid >= this.addressSpaceCount) return false
    this.#asids[group] = asid
    return true
  }

  #suspend(): boolean {
    this.#isRunning = false
    for (const queue of this.queues) this.#owesTurn = queue.putBack() || queue.owesAnswers || this.#owesTurn
    return true
  }

  #resume(): boolean {
    this.#isRunning = true
    if (this.#owesTurn) this.wake()
    this.#owesTurn = false
    if (this.#hasPendingKick) {
      this.#hasPendingKick = false
      for (const queue of this.queues) this.kick(queue.index)
    }
    return true
  }

  #work(): void {
    this.#hasTurn = false
    this.#owesTurn = !this.#isRunning && (this.#status & virtioStatus.DRIVER_OK) !== 0
    if (!this.isRunning || !this.hasFeature(transportFeatureBits.VIRTIO_F_VERSION_1)) return
    // A program's handler may step the scheduler: a turn does not begin inside another, which has a chain in hand.
    if (this.#isWorking) {
      this.#isOverdue = true
      return
    }
    this.#isWorking = true
    this.meter.begin()
    let wantsMore = false
    try {
      wantsMore = this.#model.work(this)
      if (this.#ahead !== undefined) wantsMore = this.queues.some((queue) => queue.owesAnswers) || wantsMore
    } finally {
      this.#isWorking = false
      if (wantsMore || this.#isOverdue) this.wake()
      this.#isOverdue = false
    }
  }

  #makeContext(): QueueContext {
    const has = (number: number) => this.hasFeature(number)
    const asids = this.#asids
    const groups = this.#groups
    const descriptorGroups = this.#shape.descriptorGroups ?? groups
    const law = this.host.deviates('rings-of-vringh') && this.format === 'split' ? 'vringh' : 'virtio'
    return {
      dma: this.host.dma,
      meter: this.meter,
      bufferAsid: (index) => asids[groups[index] ?? 0] ?? 0,
      ringAsid: (index) => asids[descriptorGroups[index] ?? 0] ?? 0,
      format: this.format,
      eventIdx: has(transportFeatureBits.VIRTIO_F_RING_EVENT_IDX),
      indirect: has(transportFeatureBits.VIRTIO_F_RING_INDIRECT_DESC),
      inOrder: has(transportFeatureBits.VIRTIO_F_IN_ORDER),
      law,
      longestTable: this.isStrict || law === 'vringh' ? undefined : LONGEST_TABLE,
      ahead: this.#ahead,
      servesUnwritable: this.host.deviates('serves-unwritable-rings'),
    }
  }
}
