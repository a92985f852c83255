// The two kinds of nodes that VDUSE has, with their requests as verbs: bytes in and out, and nothing decided.

import { isVdpaError } from '../base/errors.js'
import type { Handle, Subscription } from '../backend/backend.js'
import { errno } from '../uapi/errno.js'
import {
  vduseConfigData,
  vduseDevConfig,
  vduseDevRequest,
  vduseDevResponse,
  vduseIotlbEntry,
  vduseIotlbEntryV2,
  vduseName,
  VDUSE_NAME_MAX,
  vduseRequests,
  vduseResults,
  vduseVqConfig,
  vduseVqEventfd,
  vduseVqInfo,
} from '../uapi/vduse.js'
import { u64Value } from '../uapi/vhost-types.js'

/** Where devices are made. */
export const CONTROL_PATH = '/dev/vduse/control'

/** The node of a device. */
export const devicePath = (name: string): string => `/dev/vduse/${name}`

/** Whether the system refused a call with an errno. */
export function isRefusal(error: unknown, code: number): boolean {
  return isVdpaError(error) && error.errno === -code
}

/** Whether the system refused because there is one already. */
export function isThere(error: unknown): boolean {
  return isRefusal(error, errno.EEXIST)
}

function nameBytes(name: string): Uint8Array {
  const bytes = new Uint8Array(VDUSE_NAME_MAX)
  bytes.set(new TextEncoder().encode(name))
  return bytes
}

/** What a device is made with. */
export interface NewVduseDevice {
  readonly name: string
  readonly deviceId: number
  readonly vendorId: number
  readonly features: bigint
  readonly queueCount: number
  /** Of rings, in bytes. */
  readonly alignment: number
  readonly config: Uint8Array
  /** 0 under version 0, as the address spaces. */
  readonly groups: number
  readonly addressSpaces: number
}

/** /dev/vduse/control. */
export class ControlNode {
  readonly #handle: Handle

  constructor(handle: Handle) {
    this.#handle = handle
  }

  /** Settles which version of the interface is spoken, at most `wanted`: 0 from Linux 5.15 on, 1 from 7.0 on. Returns it. */
  choose(wanted: number): number {
    const word = new Uint8Array(8)
    this.#handle.ioctl(vduseRequests.VDUSE_GET_API_VERSION.number, word)
    const version = Math.min(Number(u64Value.decode(word).value), wanted)
    this.#handle.ioctl(vduseRequests.VDUSE_SET_API_VERSION.number, u64Value.encode({ value: BigInt(version) }))
    return version
  }

  /** Asks to be asked for more (`vduseFeatureBits`), where the kernel can. Returns what it agreed to. Since Linux 7.3; before, nothing is. */
  accept(wanted: bigint): bigint {
    const word = new Uint8Array(8)
    try {
      this.#handle.ioctl(vduseRequests.VDUSE_GET_FEATURES.number, word)
    } catch (error) {
      if (isRefusal(error, errno.EINVAL) || isRefusal(error, errno.ENOTTY)) return 0n
      throw error
    }
    const features = u64Value.decode(word).value & wanted
    this.#handle.ioctl(vduseRequests.VDUSE_SET_FEATURES.number, u64Value.encode({ value: features }))
    return features
  }

  /** Errors: EEXIST; EINVAL for what VDUSE does not carry; EPERM for a network device without CAP_NET_ADMIN. */
  async create(device: NewVduseDevice): Promise<void> {
    const { config } = device
    const bytes = new Uint8Array(vduseDevConfig.size + config.byteLength)
    vduseDevConfig.encodeInto(
      {
        name: nameBytes(device.name),
        vendor_id: device.vendorId,
        device_id: device.deviceId,
        features: device.features,
        vq_num: device.queueCount,
        vq_align: device.alignment,
        ngroups: device.groups,
        nas: device.addressSpaces,
        reserved: new Uint8Array(44),
        config_size: config.byteLength,
      },
      bytes,
    )
    bytes.set(config, vduseDevConfig.size)
    await this.#handle.ioctlAsync(vduseRequests.VDUSE_CREATE_DEV.number, bytes)
  }

  /** Errors: EBUSY while the device is on the bus, or its node open; EINVAL when there is none. */
  async destroy(name: string): Promise<void> {
    const argument = vduseName.encode({ name: nameBytes(name) })
    await this.#handle.ioctlAsync(vduseRequests.VDUSE_DESTROY_DEV.number, argument)
  }

  close(): Promise<void> {
    return this.#handle.close()
  }
}

/** What a driver told a queue. */
export interface VduseQueueInfo {
  readonly isReady: boolean
  readonly size: number
  readonly descriptor: bigint
  readonly driver: bigint
  readonly device: bigint
  /** The available index of a split ring. */
  readonly splitState: number
  /** As of VHOST_GET_VRING_BASE, for a packed ring. */
  readonly packedState: number
}

/** A piece of an address space, and the file that it lies in: whoever asked closes it. */
export interface VdusePiece {
  readonly fd: number
  /** Where in the file `start` is, in bytes. */
  readonly offset: bigint
  readonly start: bigint
  readonly last: bigint
  /** Bits of `vduseAccess`. */
  readonly perm: number
}

/** What the kernel asks. */
export interface VduseMessage {
  readonly type: number
  readonly id: number
  readonly payload: Uint8Array
}

/** The version of the interface that a device was made under: those of version 0 do not know (ENOTTY) what came with version 1. */
export function versionOf(handle: Handle): number {
  // No piece begins behind its end: who knows the request says EINVAL.
  const nothing = {
    offset: 0n,
    start: 1n,
    last: 0n,
    perm: 0,
    padding: new Uint8Array(7),
    asid: 0,
    reserved: new Uint8Array(44),
  }
  try {
    handle.ioctl(vduseRequests.VDUSE_IOTLB_GET_FD2.number, vduseIotlbEntryV2.encode(nothing))
  } catch (error) {
    if (isRefusal(error, errno.ENOTTY)) return 0
    if (!isRefusal(error, errno.EINVAL)) throw error
  }
  return 1
}

/** /dev/vduse/NAME. */
export class DeviceNode {
  readonly #handle: Handle
  readonly #version: number
  readonly #request = new Uint8Array(vduseDevRequest.size)
  readonly #index = new Uint8Array(4)
  readonly #indexView = new DataView(this.#index.buffer)

  constructor(handle: Handle, version: number) {
    this.#handle = handle
    this.#version = version
  }

  get path(): string {
    return this.#handle.path
  }

  /** Calls `listener` whenever there is something to read. */
  onReadable(listener: () => void): Subscription {
    if (this.#handle.onReadable === undefined) throw new Error(`${this.path} cannot be read`)
    return this.#handle.onReadable(listener)
  }

  /** What the driver accepted. */
  driverFeatures(): bigint {
    const word = new Uint8Array(8)
    this.#handle.ioctl(vduseRequests.VDUSE_DEV_GET_FEATURES.number, word)
    return u64Value.decode(word).value
  }

  setUpQueue(index: number, maxSize: number, group: number): void {
    const argument = { index, max_size: maxSize, reserved1: 0, group, reserved2: new Uint8Array(20) }
    this.#handle.ioctl(vduseRequests.VDUSE_VQ_SETUP.number, vduseVqConfig.encode(argument))
  }

  /** How many queues the device has, as far as `most` of them. */
  queueCountUpTo(most: number): number {
    for (let index = 0; index < most; index++) {
      try {
        this.queueInfo(index)
      } catch (error) {
        if (isRefusal(error, errno.EINVAL)) return index
        throw error
      }
    }
    return most
  }

  queueInfo(index: number): VduseQueueInfo {
    const argument = new Uint8Array(vduseVqInfo.size)
    new DataView(argument.buffer).setUint32(0, index, true)
    this.#handle.ioctl(vduseRequests.VDUSE_VQ_GET_INFO.number, argument)
    const info = vduseVqInfo.decode(argument)
    const available = info.last_avail_idx | (info.last_avail_counter << 15)
    const used = info.last_used_idx | (info.last_used_counter << 15)
    return {
      isReady: info.ready !== 0,
      size: info.num,
      descriptor: info.desc_addr,
      driver: info.driver_addr,
      device: info.device_addr,
      splitState: info.last_avail_counter,
      packedState: ((available & 0xffff) | ((used & 0xffff) << 16)) >>> 0,
    }
  }

  /** Where kicks go; -1: nowhere. */
  setKick(index: number, fd: number): void {
    this.#handle.ioctl(vduseRequests.VDUSE_VQ_SETUP_KICKFD.number, vduseVqEventfd.encode({ index, fd }))
  }

  /** False when the driver takes no interrupts now (EINVAL). */
  interrupt(index: number): boolean {
    this.#indexView.setUint32(0, index, true)
    try {
      this.#handle.ioctl(vduseRequests.VDUSE_VQ_INJECT_IRQ.number, this.#index)
      return true
    } catch (error) {
      if (isRefusal(error, errno.EINVAL)) return false
      throw error
    }
  }

  setConfig(offset: number, bytes: Uint8Array): void {
    const argument = new Uint8Array(vduseConfigData.size + bytes.byteLength)
    vduseConfigData.encodeInto({ offset, length: bytes.byteLength }, argument)
    argument.set(bytes, vduseConfigData.size)
    this.#handle.ioctl(vduseRequests.VDUSE_DEV_SET_CONFIG.number, argument)
  }

  /** False when the driver takes no interrupts now. */
  interruptConfig(): boolean {
    try {
      this.#handle.ioctl(vduseRequests.VDUSE_DEV_INJECT_CONFIG_IRQ.number, 0)
      return true
    } catch (error) {
      if (isRefusal(error, errno.EINVAL)) return false
      throw error
    }
  }

  /** The piece that has an address; undefined when none has. */
  pieceAt(asid: number, address: bigint): VdusePiece | undefined {
    const asked = { offset: 0n, start: address, last: address, perm: 0 }
    const argument =
      this.#version === 0
        ? vduseIotlbEntry.encode(asked)
        : vduseIotlbEntryV2.encode({ ...asked, padding: new Uint8Array(7), asid, reserved: new Uint8Array(44) })
    const request = this.#version === 0 ? vduseRequests.VDUSE_IOTLB_GET_FD : vduseRequests.VDUSE_IOTLB_GET_FD2
    try {
      const fd = this.#handle.ioctl(request.number, argument)
      const { offset, start, last, perm } = vduseIotlbEntry.decode(argument)
      return { fd, offset, start, last, perm }
    } catch (error) {
      if (isRefusal(error, errno.EINVAL) || isRefusal(error, errno.ENOENT)) return undefined
      throw error
    }
  }

  /** The oldest message that nobody has read; undefined when there is none. Its payload is valid until the next is read. */
  read(): VduseMessage | undefined {
    try {
      const count = this.#handle.read?.(this.#request) ?? 0
      if (count < this.#request.byteLength) return undefined
    } catch (error) {
      if (isRefusal(error, errno.EAGAIN)) return undefined
      throw error
    }
    const { type, request_id: id, payload } = vduseDevRequest.decode(this.#request)
    return { type, id, payload }
  }

  /** Answers a message, which nobody else may have answered. False when the kernel has given up waiting for it (ENOENT). */
  answer(id: number, isDone: boolean, answered: Uint8Array = new Uint8Array(0)): boolean {
    const payload = new Uint8Array(128)
    payload.set(answered)
    const result = isDone ? vduseResults.VDUSE_REQ_RESULT_OK : vduseResults.VDUSE_REQ_RESULT_FAILED
    try {
      this.#handle.write(vduseDevResponse.encode({ request_id: id, result, reserved: new Uint8Array(16), payload }))
      return true
    } catch (error) {
      if (isRefusal(error, errno.ENOENT)) return false
      throw error
    }
  }

  close(): Promise<void> {
    return this.#handle.close()
  }
}
