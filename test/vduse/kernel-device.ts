// A device as the kernel keeps it, and the driver behind it: what it maps, what it tells its queues, and what it asks the server.

import type { MemoryRegion } from '../../lib/memory/memory-region'
import { RingMemory } from '../../lib/memory/ring-memory'
import {
  vduseDevConfig,
  vduseDevStatus,
  vduseIovaRange,
  vduseRequestTypes as types,
  vduseVqReady,
} from '../../lib/uapi/vduse'
import { createDriverRing } from '../../lib/virtqueue/create'
import { areaSizes, initialState, writeEmptyPackedRing } from '../../lib/virtqueue/layout'
import type { DriverRing, RingFormat } from '../../lib/virtqueue/virtqueue'

/** The other side, as far as a device needs it. */
export interface Server {
  /** Its answer's payload; undefined when it refuses. */
  ask(type: number, payload: Uint8Array): Uint8Array | undefined
  flood(count: number): void
  readonly unread: number
  readonly unanswered: number
  poll(): void
  close(): Promise<void>
}

/** One queue as the kernel keeps it. */
interface KernelQueue {
  maxSize: number
  group: number
  isReady: boolean
  size: number
  areas: readonly [descriptor: bigint, driver: bigint, device: bigint]
  state: number
  kickFd: number
  wasKicked: boolean
  interrupts: number
}

interface Piece {
  readonly asid: number
  readonly start: bigint
  readonly last: bigint
  readonly region: MemoryRegion
  readonly perm: number
  /** Where in the region's file it begins; default 0. */
  readonly offset?: bigint
}

/** How a ring is to be. */
export interface RingWish {
  readonly format?: RingFormat
  readonly size?: number
  /** Where in the memory it begins. */
  readonly at?: number
}

/** A device that somebody made. */
export class KernelDevice {
  readonly name: string
  readonly features: bigint
  readonly deviceId: number
  readonly groups: number
  readonly addressSpaces: number
  config: Uint8Array
  driverFeatures = 0n
  status = 0
  /** Until the next reset: it takes no interrupts. */
  isSuspended = false
  configInterrupts = 0
  readonly queues: KernelQueue[]
  readonly #signal: (fd: number) => void
  pieces: Piece[] = []
  handle: Server | undefined
  /** What was asked, and how it was answered. */
  readonly asked: { readonly type: number; readonly isDone: boolean }[] = []

  constructor(argument: Uint8Array, signal: (fd: number) => void) {
    const made = vduseDevConfig.decode(argument)
    this.#signal = signal
    this.name = new TextDecoder().decode(made.name).replace(/\0.*$/s, '')
    this.features = made.features
    this.deviceId = made.device_id
    this.groups = made.ngroups
    this.addressSpaces = made.nas
    this.config = argument.slice(vduseDevConfig.size)
    this.queues = Array.from({ length: made.vq_num }, () => ({
      maxSize: 0,
      group: 0,
      isReady: false,
      size: 0,
      areas: [0n, 0n, 0n],
      state: 0,
      kickFd: -1,
      wasKicked: false,
      interrupts: 0,
    }))
  }

  queue(index: number): KernelQueue {
    const queue = this.queues[index]
    if (queue === undefined) throw new Error(`there is no queue ${index}`)
    return queue
  }

  /** Asks the server; its answer's payload, or undefined when it refuses, or nobody serves. */
  ask(type: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array | undefined {
    const answered = this.handle?.ask(type, payload)
    this.asked.push({ type, isDone: answered !== undefined })
    this.isSuspended ||= type === types.VDUSE_SUSPEND && answered !== undefined
    return answered
  }

  /** As the kernel: the status is what it was where the server refuses. */
  setStatus(status: number): boolean {
    if (this.ask(types.VDUSE_SET_STATUS, vduseDevStatus.encode({ status })) === undefined && status !== 0) return false
    this.status = status
    if (status === 0) {
      this.driverFeatures = 0n
      this.isSuspended = false
      for (const queue of this.queues) Object.assign(queue, { isReady: false, kickFd: -1, wasKicked: false, state: 0 })
    }
    return true
  }

  map(iova: bigint, region: MemoryRegion, { asid = 0, perm = 3 } = {}): void {
    this.pieces.push({ asid, start: iova, last: iova + BigInt(region.length) - 1n, region, perm })
    this.changed(asid)
  }

  unmap(iova: bigint): void {
    this.pieces = this.pieces.filter(({ start }) => start !== iova)
    this.changed(0)
  }

  /** Enables a queue, or disables it, as a kernel that asks first: it has changed when the server has agreed. */
  setReady(num: number, isReady: boolean): boolean {
    const ready = vduseVqReady.encode({ num, ready: Number(isReady) })
    if (this.ask(types.VDUSE_SET_VQ_READY, ready) === undefined) return false
    this.queue(num).isReady = isReady
    return true
  }

  /** Says that an address space is another now, as the kernel does: all of it. */
  changed(asid: number): boolean {
    const range = { start: 0n, last: 2n ** 64n - 1n, asid, padding: 0 }
    return this.ask(types.VDUSE_UPDATE_IOTLB, vduseIovaRange.encode(range)) !== undefined
  }

  /** Whether the driver takes interrupts now. */
  get takesInterrupts(): boolean {
    return (this.status & 4) !== 0 && !this.isSuspended
  }

  kick(index: number): void {
    const queue = this.queue(index)
    if (!queue.isReady || this.isSuspended) return
    if (queue.kickFd < 0) queue.wasKicked = true
    else this.#signal(queue.kickFd)
  }

  /** Sets a queue up over memory that is mapped at `iova`, and returns the ring that its driver has. */
  setUp(
    index: number,
    region: MemoryRegion,
    iova: bigint,
    { format = 'split', size = 16, at = 0 }: RingWish = {},
  ): DriverRing {
    const sizes = areaSizes(format, size)
    const places = [at, at + 0x1000, at + 0x2000] as const
    const [descriptor, driver, device] = (['descriptor', 'driver', 'device'] as const).map(
      (name, area) => new RingMemory(region.buffer, places[area] ?? 0, sizes[name]),
    ) as [RingMemory, RingMemory, RingMemory]
    const areas = { descriptor, driver, device }
    if (format === 'packed') writeEmptyPackedRing(areas, size, 0)
    const queue = this.queue(index)
    queue.size = size
    queue.areas = [iova + BigInt(places[0]), iova + BigInt(places[1]), iova + BigInt(places[2])]
    const { available, used } = initialState(format)
    queue.state = format === 'split' ? 0 : available + used * 0x1_0000
    queue.isReady = true
    return createDriverRing({ format, size, areas, features: {} })
  }

  /** The whole way up to DRIVER_OK. */
  begin(features = this.features): boolean {
    return this.setStatus(1) && this.setStatus(3) && this.accept(features) && this.setStatus(15)
  }

  accept(features: bigint): boolean {
    this.driverFeatures = features
    return this.setStatus(11)
  }
}
