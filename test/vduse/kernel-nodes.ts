// The nodes of VDUSE, as the kernel answers them.

import type { Subscription } from '../../lib/backend/backend'
import { systemError } from '../../lib/base/errors'
import type { MemoryRegion } from '../../lib/memory/memory-region'
import { errno } from '../../lib/uapi/errno'
import {
  vduseDevRequest,
  vduseDevResponse,
  vduseIotlbEntry,
  vduseIotlbEntryV2,
  vduseRequestTypes as types,
  vduseVqConfig,
  vduseVqEventfd,
  vduseVqInfo,
} from '../../lib/uapi/vduse'
import { KernelDevice, type Server } from './kernel-device'

/** A refusal of the system's. */
export function refuse(code: keyof typeof errno, syscall: string, path?: string): Error {
  return systemError(code, errno[code], 'refused', { syscall, ...(path !== undefined && { path }) })
}

/** What the nodes need of their system. */
export interface System {
  readonly version: number
  readonly features: bigint | undefined
  agreed: bigint
  open: number
  readonly devices: Map<string, KernelDevice>
  /** Counts a call, and refuses it where it is its turn; its name, for requests. */
  reach(call: number | string): string
  signal(fd: number): void
  give(region: MemoryRegion): number
}

/** /dev/vduse/control. */
export class ControlHandle {
  readonly path = '/dev/vduse/control'
  readonly fd = 3
  readonly kernel: System
  isClosed = false
  #version = 0

  constructor(kernel: System) {
    this.kernel = kernel
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    const name = this.kernel.reach(request)
    const bytes = argument as Uint8Array
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    switch (name) {
      case 'VDUSE_GET_API_VERSION':
        view.setBigUint64(0, BigInt(this.kernel.version), true)
        return 0
      case 'VDUSE_SET_API_VERSION':
        this.#version = Number(view.getBigUint64(0, true))
        if (this.#version > this.kernel.version) throw refuse('EINVAL', 'ioctl')
        return 0
      case 'VDUSE_GET_FEATURES':
        if (this.kernel.features === undefined) throw refuse('EINVAL', 'ioctl')
        view.setBigUint64(0, this.kernel.features, true)
        return 0
      case 'VDUSE_SET_FEATURES':
        this.kernel.agreed = view.getBigUint64(0, true)
        return 0
      case 'VDUSE_CREATE_DEV': {
        const device = new KernelDevice(bytes, (fd) => this.kernel.signal(fd))
        if (this.kernel.devices.has(device.name)) throw refuse('EEXIST', 'ioctl')
        this.kernel.devices.set(device.name, device)
        return 0
      }
      case 'VDUSE_DESTROY_DEV': {
        const named = new TextDecoder().decode(bytes).replace(/\0.*$/s, '')
        const device = this.kernel.devices.get(named)
        if (device === undefined) throw refuse('EINVAL', 'ioctl')
        if (device.handle !== undefined) throw refuse('EBUSY', 'ioctl')
        this.kernel.devices.delete(named)
        return 0
      }
      default:
        throw refuse('ENOTTY', 'ioctl')
    }
  }

  async ioctlAsync(request: number, argument: Uint8Array | number): Promise<number> {
    await Promise.resolve()
    return this.ioctl(request, argument)
  }

  async close(): Promise<void> {
    await Promise.resolve()
    if (!this.isClosed) this.kernel.open--
    this.isClosed = true
  }
}

/** /dev/vduse/NAME. */
export class DeviceHandle implements Server {
  readonly path: string
  readonly fd = 4
  readonly #kernel: System
  readonly #device: KernelDevice
  readonly #waiting: { id: number; bytes: Uint8Array }[] = []
  readonly #answers = new Map<number, Uint8Array | undefined>()
  #listener: (() => void) | undefined
  #next = 1
  isClosed = false

  constructor(kernel: System, device: KernelDevice) {
    this.#kernel = kernel
    this.#device = device
    this.path = `/dev/vduse/${device.name}`
    device.handle = this
  }

  ask(type: number, asked: Uint8Array): Uint8Array | undefined {
    const id = this.#next++
    const payload = new Uint8Array(128)
    payload.set(asked)
    const bytes = vduseDevRequest.encode({ type, request_id: id, reserved: new Uint8Array(16), payload })
    this.#waiting.push({ id, bytes })
    this.#listener?.()
    return this.#answers.get(id)
  }

  /** Requests that the server has read and not answered. */
  get unanswered(): number {
    return this.#next - 1 - this.#waiting.length - this.#answers.size
  }

  /** Messages that nobody has read. */
  flood(count: number): void {
    for (let index = 0; index < count; index++) {
      const payload = new Uint8Array(128)
      const type = types.VDUSE_GET_VQ_STATE
      const id = this.#next++
      this.#waiting.push({
        id,
        bytes: vduseDevRequest.encode({ type, request_id: id, reserved: new Uint8Array(16), payload }),
      })
    }
    this.#listener?.()
  }

  get unread(): number {
    return this.#waiting.length
  }

  /** Has the server look again, as libuv does while there is something to read. */
  poll(): void {
    this.#listener?.()
  }

  read(bytes: Uint8Array): number {
    this.#kernel.reach('read')
    const next = this.#waiting.shift()
    if (next === undefined) throw refuse('EAGAIN', 'read')
    bytes.set(next.bytes)
    return next.bytes.byteLength
  }

  write(bytes: Uint8Array): number {
    this.#kernel.reach('write')
    const { request_id: id, result, payload } = vduseDevResponse.decode(bytes)
    if (id >= this.#next || this.#answers.has(id)) throw refuse('ENOENT', 'write')
    this.#answers.set(id, result === 0 ? payload : undefined)
    return bytes.byteLength
  }

  onReadable(listener: () => void): Subscription {
    this.#kernel.reach('watch')
    this.#listener = listener
    const subscription: Subscription = {
      isClosed: false,
      ref: () => subscription,
      unref: () => subscription,
      close: () => {
        this.#listener = undefined
      },
      [Symbol.dispose]: () => subscription.close(),
    }
    return subscription
  }

  ioctl(request: number, argument: Uint8Array | number): number {
    const name = this.#kernel.reach(request)
    const device = this.#device
    const bytes = typeof argument === 'number' ? new Uint8Array(8) : argument
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    switch (name) {
      case 'VDUSE_DEV_GET_FEATURES':
        view.setBigUint64(0, device.driverFeatures, true)
        return 0
      case 'VDUSE_VQ_SETUP': {
        const { index, max_size: maxSize, group } = vduseVqConfig.decode(bytes)
        if (index >= device.queues.length) throw refuse('EINVAL', 'ioctl')
        Object.assign(device.queue(index), { maxSize, group })
        return 0
      }
      case 'VDUSE_VQ_GET_INFO': {
        const index = view.getUint32(0, true)
        if (index >= device.queues.length) throw refuse('EINVAL', 'ioctl')
        const { size, areas, state, isReady } = device.queue(index)
        const [low, high] = [state & 0xffff, state >>> 16]
        const isPacked = (device.driverFeatures & (1n << 34n)) !== 0n
        vduseVqInfo.encodeInto(
          {
            index,
            num: size,
            desc_addr: areas[0],
            driver_addr: areas[1],
            device_addr: areas[2],
            last_avail_counter: isPacked ? low >>> 15 : low,
            last_avail_idx: isPacked ? low & 0x7fff : 0,
            last_used_counter: isPacked ? high >>> 15 : 0,
            last_used_idx: isPacked ? high & 0x7fff : 0,
            ready: isReady ? 1 : 0,
          },
          bytes,
        )
        return 0
      }
      case 'VDUSE_VQ_SETUP_KICKFD': {
        const { index, fd } = vduseVqEventfd.decode(bytes)
        const queue = device.queue(index)
        queue.kickFd = fd
        if (queue.wasKicked) this.#kernel.signal(fd)
        queue.wasKicked = false
        return 0
      }
      case 'VDUSE_VQ_INJECT_IRQ':
        if (!device.takesInterrupts) throw refuse('EINVAL', 'ioctl')
        device.queue(view.getUint32(0, true)).interrupts++
        return 0
      case 'VDUSE_DEV_INJECT_CONFIG_IRQ':
        if (!device.takesInterrupts) throw refuse('EINVAL', 'ioctl')
        device.configInterrupts++
        return 0
      case 'VDUSE_DEV_SET_CONFIG':
        if (view.getUint32(0, true) + view.getUint32(4, true) > device.config.length) throw refuse('EINVAL', 'ioctl')
        device.config.set(bytes.subarray(8, 8 + view.getUint32(4, true)), view.getUint32(0, true))
        return 0
      case 'VDUSE_IOTLB_GET_FD':
      case 'VDUSE_IOTLB_GET_FD2':
        if (name === 'VDUSE_IOTLB_GET_FD2' && device.addressSpaces === 0) throw refuse('ENOTTY', 'ioctl')
        return this.#fileOf(bytes, name === 'VDUSE_IOTLB_GET_FD2')
      default:
        throw refuse('ENOTTY', 'ioctl')
    }
  }

  #fileOf(bytes: Uint8Array, isNew: boolean): number {
    const { start, last } = vduseIotlbEntry.decode(bytes)
    if (start > last) throw refuse('EINVAL', 'ioctl')
    const asid = isNew ? vduseIotlbEntryV2.decode(bytes).asid : 0
    const piece = this.#device.pieces.find((each) => each.asid === asid && each.start <= last && start <= each.last)
    if (piece === undefined) throw refuse('EINVAL', 'ioctl')
    const { offset = 0n, start: first, last: end, perm } = piece
    vduseIotlbEntry.encodeInto({ offset, start: first, last: end, perm }, bytes)
    return this.#kernel.give(piece.region)
  }

  async close(): Promise<void> {
    await Promise.resolve()
    if (!this.isClosed) this.#kernel.open--
    this.isClosed = true
    this.#device.handle = undefined
  }
}
