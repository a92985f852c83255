// A model as VDUSE hosts it: the kernel's messages answered, queues begun and ended, kicks in, interrupts out. All of it on one thread, so that memory which the
// kernel takes away is never in use when the answer says so.

import type { Backend, Eventfd, Subscription } from '../backend/backend.js'
import { bit } from '../base/bits.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { callUnasked, ProgramCalls } from '../base/program-calls.js'
import { Turns } from '../base/turns.js'
import type { DeviceOps } from '../models/device-ops.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import {
  vduseDevStatus,
  vduseFeatureBits,
  vduseIovaRange,
  vduseRequestTypes as types,
  vduseVqGroupAsid,
  vduseVqReady,
  vduseVqState,
} from '../uapi/vduse.js'
import { ENTRIES_AT, INDEX_AT } from '../virtqueue/layout.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import { Interrupts } from './interrupts.js'
import { IovaMemory } from './iova-memory.js'
import type { DeviceNode, VduseMessage, VduseQueueInfo } from './nodes.js'
import { encodeQueueState } from './queue-state.js'

/** Messages in one turn of the event loop. */
const MESSAGES_A_TURN = 32
/** Milliseconds between two looks for queues that were enabled after the device began: kernels before 7.3 do not say. */
const READY_INTERVAL = 20

const { FEATURES_OK, DRIVER_OK, NEEDS_RESET } = virtioStatus

/** What a host is made with. */
export interface HostedOptions {
  readonly ops: DeviceOps
  readonly backend: Backend
  /** What drivers are offered. */
  readonly features: bigint
  /** Queues that the device shows; those of the model from 0 on. */
  readonly queueCount: number
  readonly addressSpaces: number
  /** Hears of what was refused, and why. */
  readonly onRefusal: (error: Error) => void
}

/** One queue as the kernel has it. */
interface HostedQueue {
  readonly index: number
  kick: Eventfd | undefined
  kicks: Subscription | undefined
  isLive: boolean
  /** Where the kernel said that it is to go on, when it was begun last; undefined: it was not since the last reset. */
  base: number | undefined
  /** It could not be begun when it was looked at, which was told: nobody looks again before the device begins anew, or a kick. */
  isRefused: boolean
}

/** One model behind one VDUSE node. */
export class HostedDevice {
  readonly #options: HostedOptions
  readonly #memory: IovaMemory
  readonly #turns = new Turns()
  readonly #queues: readonly HostedQueue[]
  readonly #interrupts = new Interrupts((call) => this.#told(call))
  #config: Uint8Array
  #readyTimer: NodeJS.Timeout | undefined
  #isClosed = false
  #open: DeviceNode | undefined
  #agreed = 0n

  constructor(options: HostedOptions) {
    const { ops, backend, queueCount, addressSpaces, onRefusal } = options
    this.#options = options
    this.#memory = new IovaMemory(backend, addressSpaces, onRefusal)
    this.#queues = Array.from({ length: queueCount }, (_, index) => ({
      index,
      kick: undefined,
      kicks: undefined,
      isLive: false,
      base: undefined,
      isRefused: false,
    }))
    ops.attach({
      dma: this.#memory,
      schedule: (work) => this.#turns.schedule(() => this.#turn(work)),
      // The kernel's drivers, and what is between, are as they are.
      deviates: (name) => name === 'takes-drivers-as-they-are',
      isTurnOver: () => this.#turns.isOver,
      // VDUSE carries none: nobody can say which frames are wanted, and Linux takes it that a card without one passes all.
      mayKeepControlQueue: true,
    })
    this.#config = configOf(ops)
    ops.setConfigCallback(() => this.#configChanged())
  }

  /** The configuration as it was made. */
  get config(): Uint8Array {
    return this.#config
  }

  /** The node to work with from now on, and what the kernel agreed to tell (`vduseFeatureBits`). */
  open(node: DeviceNode, agreed: bigint): void {
    this.#open = node
    this.#agreed = agreed
    this.#memory.open(node)
    this.#interrupts.open(node)
  }

  /** Queues that run. */
  get liveQueues(): number {
    return this.#queues.filter(({ isLive }) => isLive).length
  }

  /** Answers what the kernel asks; the rest of a flood in another turn. */
  serve(): void {
    const node = this.#node
    for (let count = 0; count < MESSAGES_A_TURN && !this.#isClosed; count++) {
      const message = this.#told(() => node.read())
      if (message === undefined) return
      this.#answer(message)
    }
  }

  /**
   * Goes on with a device that another process served until it died: a driver has it, and its queues stand where the used rings say, since models answer in order. The driver hears that the
   * configuration may be another. False when no driver has begun: whoever does says DRIVER_OK. ERR_VDPA_FEATURES for features that are not offered, and ERR_VDPA_NOT_SUPPORTED for packed
   * rings, which do not say where they stand, and for another number of queues.
   */
  takeOver(): boolean {
    const { ops, queueCount } = this.#options
    const node = this.#node
    if (node.queueCountUpTo(queueCount + 1) !== queueCount)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the device that was left behind has not ${queueCount} queues`)
    // Nobody tells the status; but interrupts are taken from DRIVER_OK on.
    const isRunning = node.interruptConfig()
    if (isRunning) this.#acceptRunning()
    if (this.#config.length > 0) node.setConfig(0, this.#config)
    if (!isRunning) return false
    const status = virtioStatus.ACKNOWLEDGE | virtioStatus.DRIVER | FEATURES_OK
    ops.setStatus(status)
    if (!this.#begin(status | DRIVER_OK, true))
      throw vdpaError('ERR_VDPA_REFUSED', 'the model refuses to go on with the device that was left behind')
    node.interruptConfig()
    return true
  }

  #acceptRunning(): void {
    if (!this.#accept())
      throw vdpaError('ERR_VDPA_FEATURES', 'the device that was left behind has features that the model refuses')
    if (this.#format === 'packed')
      throw vdpaError(
        'ERR_VDPA_NOT_SUPPORTED',
        'a device with packed rings cannot be taken over: no ring says where it stands',
      )
  }

  /** Nothing runs, and nothing is mapped. The node stays the caller's to close. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    const failures = new Failures()
    failures.now(() => this.#stopAll())
    failures.now(() => this.#options.ops.reset())
    failures.now(() => this.#options.ops.setConfigCallback(undefined))
    this.#turns.stop()
    failures.now(() => this.#memory.close())
    failures.throwMet('closing met failures')
  }

  get #node(): DeviceNode {
    if (this.#open === undefined) throw new Error('the device has no node yet')
    return this.#open
  }

  get #format(): RingFormat {
    const packed = bit(transportFeatureBits.VIRTIO_F_RING_PACKED)
    return (this.#options.ops.driverFeatures() & packed) === 0n ? 'split' : 'packed'
  }

  /** Whether the kernel says which queues are ready. */
  get #isTold(): boolean {
    return (this.#agreed & bit(vduseFeatureBits.VDUSE_F_QUEUE_READY)) !== 0n
  }

  #answer(message: VduseMessage): void {
    const { onRefusal } = this.#options
    let answered: Uint8Array | undefined
    let quiet: Promise<void> | undefined
    try {
      answered = this.#carryOut(message)
      if (message.type === types.VDUSE_SUSPEND && answered !== undefined) quiet = this.#whenQuiet()
    } catch (error) {
      answered = undefined
      onRefusal(error as Error)
    }
    if (quiet === undefined) return this.#send(message, answered)
    const refuse = (error: unknown) => {
      this.#send(message, undefined)
      if (!this.#isClosed) onRefusal(error as Error)
      this.#goOn()
    }
    void Promise.resolve(quiet).then(
      () => callUnasked(() => this.#send(message, answered)),
      (error: unknown) => callUnasked(() => refuse(error)),
    )
  }

  #send({ id, type }: VduseMessage, answered: Uint8Array | undefined): void {
    if (this.#isClosed) return
    const isHeard = this.#told(() => this.#node.answer(id, answered !== undefined, answered))
    if (isHeard === false) {
      const { onRefusal } = this.#options
      onRefusal(vdpaError('ERR_VDPA_TIMEOUT', `the kernel waited no longer for the answer to request ${id}`))
    }
    if (isHeard === true && type === types.VDUSE_SUSPEND && answered !== undefined) this.#interrupts.hold()
  }

  /** What a device that was suspended has still to wait for. One that cannot say it is refused to the kernel, and goes on. */
  #whenQuiet(): Promise<void> | undefined {
    try {
      return this.#options.ops.whenQuiet?.()
    } catch (error) {
      this.#goOn()
      throw error
    }
  }

  #goOn(): void {
    const { ops } = this.#options
    if ((ops.status() & DRIVER_OK) !== 0) ops.resume?.()
  }

  /** A call of the kernel's that nobody waits for: what it refuses is told to who serves, and undefined returned. */
  #told<T>(call: () => T): T | undefined {
    try {
      return call()
    } catch (error) {
      this.#options.onRefusal(error as Error)
      return undefined
    }
  }

  /** What a message comes to: the answer's payload, or undefined where it is refused. */
  #carryOut({ type, payload }: VduseMessage): Uint8Array | undefined {
    const { ops } = this.#options
    switch (type) {
      case types.VDUSE_GET_VQ_STATE:
        return this.#stateOf(vduseVqState.decode(payload).index)
      case types.VDUSE_SET_STATUS:
        return done(this.#setStatus(vduseDevStatus.decode(payload).status))
      case types.VDUSE_UPDATE_IOTLB: {
        const { start, last, asid } = vduseIovaRange.decode(payload)
        this.#memory.invalidate(asid, start, last)
        return done(true)
      }
      case types.VDUSE_SET_VQ_GROUP_ASID: {
        const { group, asid } = vduseVqGroupAsid.decode(payload)
        return done(group < ops.groupCount && ops.setGroupAsid?.(group, asid) === true)
      }
      case types.VDUSE_SET_VQ_READY: {
        const { num, ready } = vduseVqReady.decode(payload)
        return done(this.#setReady(num, ready !== 0))
      }
      case types.VDUSE_SUSPEND:
        return done(ops.suspend?.() === true)
      default:
        throw vdpaError('ERR_VDPA_PROTOCOL', `the kernel asks for ${type}, which nobody here knows`)
    }
  }

  /** Of a queue that has not begun the kernel knows where it is to, and asks all the same. */
  #stateOf(index: number): Uint8Array | undefined {
    const queue = this.#queues[index]
    if (queue === undefined) return undefined
    const state = queue.base === undefined ? this.#toldOf(index) : this.#options.ops.queueState(index)
    return state === undefined ? undefined : encodeQueueState(index, this.#format, state)
  }

  #toldOf(index: number, info = this.#node.queueInfo(index)): number {
    return this.#format === 'packed' ? info.packedState : info.splitState
  }

  #setStatus(status: number): boolean {
    const { ops } = this.#options
    if (status === 0) {
      try {
        this.#stopAll()
        ops.reset()
      } finally {
        for (const queue of this.#queues) queue.base = undefined
        // The kernel's own drivers take their rings away after a reset, and have others at the same addresses: nobody says that.
        this.#memory.close()
      }
      return true
    }
    const added = status & ~ops.status()
    if ((added & FEATURES_OK) !== 0 && !this.#accept()) return false
    if ((added & DRIVER_OK) !== 0) return this.#begin(status, false)
    // The kernel does not know NEEDS_RESET, and its driver takes it away by a reset alone.
    return ops.setStatus((status & ~NEEDS_RESET) | (ops.status() & NEEDS_RESET)) !== false
  }

  /** What the driver accepted, for the model: the platform bit is of the kernel's asking. The kernel takes any bits, and leaves it to the device to refuse those that it does not offer. */
  #accept(): boolean {
    const { ops, features } = this.#options
    const accepted = this.#node.driverFeatures()
    return (accepted & ~features) === 0n && ops.setFeatures(accepted & ops.features())
  }

  #begin(status: number, isTakenOver: boolean): boolean {
    const { ops } = this.#options
    let isBegun = false
    try {
      for (const queue of this.#queues) this.#listen(queue)
      for (const queue of this.#queues) this.#startIfReady(queue, isTakenOver)
      isBegun = ops.setStatus(status) !== false
    } finally {
      if (!isBegun) this.#stopAll()
    }
    if (!isBegun) return false
    // What was there before may have been kicked before.
    for (const { index, isLive } of this.#queues) if (isLive) ops.kick(index)
    this.#watchForReady()
    return true
  }

  /** Has the kernel pass kicks on, those included that came before. */
  #listen(queue: HostedQueue): void {
    const { backend } = this.#options
    const node = this.#node
    queue.isRefused = false
    queue.kick = backend.eventfd()
    queue.kicks = queue.kick.onSignal(() => this.#kicked(queue)).ref()
    node.setKick(queue.index, queue.kick.fd)
  }

  #kicked(queue: HostedQueue): void {
    const { ops } = this.#options
    if (!queue.isLive && !this.#isTold) this.#startLate(queue)
    if (!queue.isLive) return
    if (ops.kickByDriver === undefined) ops.kick(queue.index)
    else ops.kickByDriver(queue.index)
  }

  /** A failure has nobody to be told but who serves. */
  #startLate(queue: HostedQueue): void {
    queue.isRefused = this.#told(() => this.#startIfReady(queue, false)) === undefined
  }

  #setReady(index: number, isReady: boolean): boolean {
    const queue = this.#queues[index]
    if (queue === undefined) return false
    if (!isReady) this.#stop(queue)
    else if (!queue.isLive && (this.#options.ops.status() & DRIVER_OK) !== 0) {
      // The queue's own information says so from the answer on.
      this.#start(queue, this.#node.queueInfo(index), false)
      this.#options.ops.kick(index)
    }
    return true
  }

  /** False when its driver has not made it ready. */
  #startIfReady(queue: HostedQueue, isTakenOver: boolean): boolean {
    if (queue.isLive) return true
    const info = this.#node.queueInfo(queue.index)
    if (info.isReady) this.#start(queue, info, isTakenOver)
    return info.isReady
  }

  #start(queue: HostedQueue, info: VduseQueueInfo, isTakenOver: boolean): void {
    const { ops } = this.#options
    const { index } = queue
    ops.setQueueSize(index, info.size)
    const base = this.#toldOf(index, info)
    const state = isTakenOver ? this.#usedIndex(index, info) : base
    // One that was only stopped for a while goes on where it stands: its driver has not set another base.
    const isElsewhere = isTakenOver || base !== queue.base
    if (
      !ops.setQueueAddresses(index, info.descriptor, info.driver, info.device) ||
      (isElsewhere && ops.setQueueState(index, state) !== true)
    )
      throw vdpaError('ERR_VDPA_REFUSED', `the device refuses queue ${index} as it is`)
    ops.setQueueCallback(index, () => this.#interrupts.ofQueue(index))
    ops.setQueueReady(index, true)
    queue.isLive = true
    queue.base = base
  }

  #usedIndex(index: number, { device }: { readonly device: bigint }): number {
    const asid = this.#options.ops.groupAsid?.(this.#options.ops.queueGroup?.(index) ?? 0) ?? 0
    const found = this.#memory.locate(asid, Number(device >> 32n), Number(device & 0xffff_ffffn), ENTRIES_AT, 1)
    if (found === undefined) throw vdpaError('ERR_VDPA_NOT_MAPPED', `the used ring of queue ${index} cannot be reached`)
    const [low = 0, high = 0] = found.memory.bytes(found.offset + INDEX_AT, 2)
    return low | (high << 8)
  }

  #stop(queue: HostedQueue): void {
    if (!queue.isLive) return
    queue.isLive = false
    this.#interrupts.forget(queue.index)
    this.#options.ops.setQueueCallback(queue.index, undefined)
    this.#options.ops.setQueueReady(queue.index, false)
  }

  /** What the model throws does not stop it, and is thrown at the end. */
  #stopAll(): void {
    const calls = new ProgramCalls()
    clearTimeout(this.#readyTimer)
    this.#readyTimer = undefined
    this.#interrupts.clear()
    for (const queue of this.#queues) {
      calls.call(() => this.#stop(queue))
      queue.kicks?.close()
      queue.kick?.close()
      queue.kicks = queue.kick = undefined
    }
    calls.throwKept()
  }

  #watchForReady(): void {
    if (this.#isTold) return
    if (this.#queues.every(({ isLive, isRefused }) => isLive || isRefused)) return
    this.#readyTimer = setTimeout(() => {
      for (const queue of this.#queues) {
        if (queue.isLive || queue.isRefused) continue
        this.#startLate(queue)
        if (queue.isLive) this.#options.ops.kick(queue.index)
      }
      this.#watchForReady()
    }, READY_INTERVAL)
  }

  #turn(work: () => void): void {
    try {
      work()
    } finally {
      if (this.#memory.isTorn) this.#torn()
    }
  }

  /** Memory that its owner cut off under a mapping: the device rests until the driver resets it. */
  #torn(): void {
    const calls = new ProgramCalls()
    calls.call(() => this.#stopAll())
    this.#memory.close()
    this.#options.onRefusal(vdpaError('ERR_VDPA_PROTOCOL', 'the driver made a file shorter under its own memory'))
    calls.throwKept()
  }

  /** VDUSE has no way to say NEEDS_RESET: the device rests, and who serves it hears why. */
  #configChanged(): void {
    const { ops, onRefusal } = this.#options
    const node = this.#open
    if ((ops.status() & NEEDS_RESET) !== 0) {
      onRefusal(vdpaError('ERR_VDPA_RING_BROKEN', 'the driver broke a rule, and the device rests until it is reset'))
      return
    }
    const config = configOf(ops)
    if (Buffer.compare(config, this.#config) === 0) return
    this.#config = config
    if (node === undefined) return
    node.setConfig(0, config)
    this.#interrupts.ofConfig((ops.status() & DRIVER_OK) !== 0)
  }
}

const noPayload = new Uint8Array(0)

function done(isDone: boolean): Uint8Array | undefined {
  return isDone ? noPayload : undefined
}

function configOf(ops: DeviceOps): Uint8Array {
  const config = new Uint8Array(ops.configSize)
  ops.readConfig(0, config)
  return config
}
