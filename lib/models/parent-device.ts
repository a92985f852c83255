// A device made of the eight operations that the vhost-vfio proposal of 2018 asked of a parent driver: start, stop, memory, interrupts, features, kicks. It keeps the rest (status,
// registers of queues, configuration) itself, so that such a device has every host that a model has.

import { checkFunction, checkInteger, checkObject } from '../base/checks.js'
import { ProgramCalls } from '../base/program-calls.js'
import { virtioStatus } from '../uapi/virtio-status.js'
import { featureViolation, statusViolation } from './driver-law.js'
import type { DeviceHost, DeviceOps, Dma } from './device-ops.js'

/** What the device knows of a queue (`vdpa_vring_info`). */
export interface ParentVring {
  /** The IOVAs of its areas. */
  readonly descriptor: bigint
  /** Of the available ring. */
  readonly driver: bigint
  /** Of the used ring. */
  readonly device: bigint
  /** Descriptors. */
  readonly size: number
  /** Whether it was enabled when the device was started. */
  readonly isReady: boolean
  /** Where it stands, as VHOST_GET_VRING_BASE: the device's to keep up to date. */
  base: number
}

/** What the operations are called with (`vdpa_dev`). */
export interface ParentState {
  /** What the driver accepted. */
  readonly features: bigint
  /** By index. */
  readonly vrings: readonly ParentVring[]
  /** Guest memory, by ASID 0. Reaches nothing before dmaMap(). */
  readonly dma: Dma
  /** The bytes of the configuration space. */
  readonly config: Uint8Array
}

/** The eight operations, each with the name it had. What one throws reaches who asked the device's host, when the books are finished. */
export interface ParentOperations {
  /** start: the driver set DRIVER_OK, memory is there. False refuses. */
  start(device: ParentState): boolean | void
  /** stop: the device is reset, or did not start. Afterwards it touches nothing. */
  stop(device: ParentState): void
  /** dma_map: memory can be reached from now on, before start(). False refuses. */
  dmaMap?(device: ParentState): boolean | void
  /** dma_unmap: memory is gone, after stop(). */
  dmaUnmap?(device: ParentState): void
  /** set_eventfd: how to interrupt for a queue (`vector` is its index); undefined takes it away. */
  setEventfd(device: ParentState, vector: number, interrupt: (() => void) | undefined): void
  /** supported_features: a word of bits, the same each time. */
  supportedFeatures(): bigint
  /** notify: the driver kicked a queue, of a device that was started. */
  notify(device: ParentState, queue: number): void
  /** get_notify_addr: what a write to the queue's doorbell page does. Absent: there are no pages to map. */
  notifyAddress?(device: ParentState, queue: number, value: number): void
}

/** What the operations do not say of a device. */
export interface ParentDeviceOptions {
  /** The node; default: the next free `/dev/vhost-vdpa-N`. */
  readonly path?: string
  /** A virtio device id. */
  readonly deviceId: number
  /** Virtqueues, 1..65535; default 1 (`max_vrings`). */
  readonly queues?: number
  /** Descriptors of the largest ring, 1..32768; default 256. */
  readonly maxQueueSize?: number
  /** The configuration space; default: none. */
  readonly config?: Uint8Array
}

const { DRIVER_OK, NEEDS_RESET } = virtioStatus

type Vring = { -readonly [K in keyof ParentVring]: ParentVring[K] }

class ParentDevice implements DeviceOps {
  readonly path?: string
  readonly deviceId: number
  readonly queueCount: number
  readonly groupCount = 1
  readonly addressSpaceCount = 1
  readonly maxQueueSize: number
  readonly configSize: number
  readonly ringDoorbell?: (index: number, value: number) => void
  readonly #ops: ParentOperations
  readonly #config: Uint8Array
  readonly #vrings: Vring[]
  #host: DeviceHost | undefined
  #features = 0n
  #status = 0
  #isMapped = false
  #isRunning = false
  #configCallback: (() => void) | undefined

  constructor(ops: ParentOperations, options: ParentDeviceOptions) {
    const { path, deviceId, queues = 1, maxQueueSize = 256, config = new Uint8Array(0) } = options
    checkInteger(deviceId, 'options.deviceId', 0, 0xffff_ffff)
    checkInteger(queues, 'options.queues', 1, 0xffff)
    checkInteger(maxQueueSize, 'options.maxQueueSize', 1, 0x8000)
    this.#ops = ops
    if (path !== undefined) this.path = path
    this.deviceId = deviceId
    this.queueCount = queues
    this.maxQueueSize = maxQueueSize
    this.configSize = config.byteLength
    this.#config = config
    this.#vrings = Array.from({ length: queues }, () => fresh(maxQueueSize))
    if (ops.notifyAddress !== undefined)
      this.ringDoorbell = (index, value) => {
        if (this.#isRunning) ops.notifyAddress?.(this.#state, index, value)
      }
  }

  attach(host: DeviceHost): void {
    this.#host = host
  }

  features(): bigint {
    return this.#ops.supportedFeatures()
  }

  setFeatures(features: bigint): boolean {
    const offered = this.features()
    if ((features & ~offered) !== 0n || this.#breaks(featureViolation(features, offered, this.deviceId))) return false
    this.#features = features
    return true
  }

  driverFeatures(): bigint {
    return this.#features
  }

  status(): number {
    return this.#status
  }

  setStatus(status: number): boolean {
    if (this.#breaks(statusViolation(this.#status, status))) return false
    if ((status & DRIVER_OK) !== 0 && !this.#isRunning && !this.#start()) return false
    this.#status = status
    return true
  }

  reset(): void {
    const calls = new ProgramCalls()
    this.#end(calls)
    this.#status = 0
    this.#features = 0n
    this.#vrings.forEach((vring, index) => {
      Object.assign(vring, fresh(this.maxQueueSize))
      calls.call(() => this.#ops.setEventfd(this.#state, index, undefined))
    })
    calls.throwKept()
  }

  readConfig(offset: number, target: Uint8Array): void {
    target.set(this.#config.subarray(offset, offset + target.byteLength))
  }

  /** Nothing in the eight operations hears of it: no byte is the driver's to write. */
  writeConfig(): void {
    return
  }

  setConfigCallback(callback: (() => void) | undefined): void {
    this.#configCallback = callback
  }

  setQueueSize(index: number, size: number): void {
    this.#vring(index).size = size
  }

  setQueueAddresses(index: number, descriptor: bigint, driver: bigint, device: bigint): boolean {
    Object.assign(this.#vring(index), { descriptor, driver, device })
    return true
  }

  /** Counts at the start: the eight operations know no queue that begins or ends by itself. */
  setQueueReady(index: number, isReady: boolean): void {
    if (this.#isRunning && !isReady) this.breakDown()
    this.#vring(index).isReady = isReady
  }

  queueState(index: number): number {
    return this.#vring(index).base
  }

  setQueueState(index: number, state: number): boolean {
    this.#vring(index).base = state
    return true
  }

  setQueueCallback(index: number, callback: (() => void) | undefined): void {
    this.#ops.setEventfd(this.#state, index, callback)
  }

  kick(index: number): void {
    if (this.#isRunning && this.#vring(index).isReady) this.#ops.notify(this.#state, index)
  }

  breakDown(): void {
    this.#status |= NEEDS_RESET
    this.#configCallback?.()
  }

  /** All or nothing: memory that was mapped for a start that failed is unmapped. */
  #start(): boolean {
    const calls = new ProgramCalls()
    this.#isMapped = true
    this.#isRunning =
      calls.call(() => this.#ops.dmaMap?.(this.#state) !== false && this.#ops.start(this.#state) !== false) === true
    const { isRunning } = this
    if (!isRunning) this.#unmap(calls)
    calls.throwKept()
    return isRunning
  }

  get isRunning(): boolean {
    return this.#isRunning
  }

  #end(calls: ProgramCalls): void {
    if (this.#isRunning) {
      this.#isRunning = false
      calls.call(() => this.#ops.stop(this.#state))
    }
    this.#unmap(calls)
  }

  #unmap(calls: ProgramCalls): void {
    if (!this.#isMapped) return
    this.#isMapped = false
    calls.call(() => this.#ops.dmaUnmap?.(this.#state))
  }

  #breaks(violation: { readonly what: string; readonly section?: string | undefined } | undefined): boolean {
    const host = this.#host
    if (violation === undefined || host?.deviates('takes-drivers-as-they-are') === true) return false
    const { what, section } = violation
    host?.report?.({ what, ...(section !== undefined && { section }) })
    return true
  }

  get #state(): ParentState {
    if (this.#host === undefined) throw new Error('the device has no host')
    return { features: this.#features, vrings: this.#vrings, dma: this.#host.dma, config: this.#config }
  }

  #vring(index: number): Vring {
    const vring = this.#vrings[index]
    if (vring === undefined) throw new Error(`the device has no queue ${index}`)
    return vring
  }
}

function fresh(size: number): Vring {
  return { descriptor: 0n, driver: 0n, device: 0n, size, isReady: false, base: 0 }
}

const required = ['start', 'stop', 'setEventfd', 'supportedFeatures', 'notify'] as const

/**
 * A model from the operations of a parent driver of 2018: for quick devices, and for code of that shape. What it lacks against `customDevice()`: groups, address spaces,
 * suspending, queues that begin later; rings are the operations' own to walk, through `dma`. TypeError, RangeError. Since 0.1.0.
 */
export function parentDevice(ops: ParentOperations, options: ParentDeviceOptions): DeviceOps {
  checkObject(ops, 'ops')
  checkObject(options, 'options')
  for (const name of required) checkFunction(Reflect.get(ops, name), `ops.${name}`)
  return new ParentDevice(ops, options)
}
