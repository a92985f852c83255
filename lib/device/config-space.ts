// The configuration space of a device: bytes, and the typed view where the kind is known.

import { checkBytes, checkInteger, rangeError } from '../base/checks.js'
import { decodeBlockConfig, virtioBlkConfig, type BlockConfig } from '../uapi/virtio-blk.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { decodeNetConfig, virtioNetConfig, type NetConfig } from '../uapi/virtio-net.js'
import { checkOpen, checkThere, refusal, type DeviceContext } from './context.js'

/** Bytes that snapshots keep: a PCI device's configuration is a window of thousands, of which the first mean something. */
export const CONFIG_BYTES = 256

/** The configuration space of a device: VdpaDevice.config. Every multi-byte field is little-endian. (spec section 2.5) */
export class ConfigSpace {
  /** Bytes; undefined where the kernel is older than VHOST_VDPA_GET_CONFIG_SIZE (5.18). */
  readonly size: number | undefined
  readonly #context: DeviceContext

  constructor(context: DeviceContext, size: number | undefined) {
    this.#context = context
    this.size = size
  }

  /** Reads `length` bytes at `offset`; all from `offset` on by default. RangeError outside the space. (VHOST_VDPA_GET_CONFIG) */
  read(offset = 0, length?: number): Uint8Array {
    checkThere(this.#context)
    checkInteger(offset, 'offset', 0, 0xffff_ffff)
    const bytes = length === undefined ? this.#rest(offset) : length
    this.#check(offset, bytes)
    return this.#context.transport.readConfig(offset, bytes)
  }

  /** Writes bytes at `offset`. What a device lets a driver write is its own affair; most ignore most of it. (VHOST_VDPA_SET_CONFIG) */
  write(offset: number, bytes: Uint8Array): void {
    checkOpen(this.#context)
    checkBytes(bytes, 'bytes')
    this.#check(offset, bytes.byteLength)
    this.#context.transport.writeConfig(offset, bytes)
    // No more than a snapshot keeps.
    for (const [at, byte] of bytes.subarray(0, Math.max(0, CONFIG_BYTES - offset)).entries())
      this.#context.writtenConfig.set(offset + at, byte)
  }

  /** The network configuration. Throws ERR_VDPA_WRONG_DEVICE on another kind of device. */
  net(): NetConfig {
    this.#checkKind(deviceIds.net, 'network')
    // A field that Linux does not name follows where this feature is (spec section 5.1.4).
    const hasTunnels = this.#context.state.features?.has('VIRTIO_NET_F_HASH_TUNNEL') === true
    return decodeNetConfig(this.#head(virtioNetConfig.size + (hasTunnels ? 4 : 0), 12))
  }

  /** The block configuration. Throws ERR_VDPA_WRONG_DEVICE on another kind of device. */
  block(): BlockConfig {
    this.#checkKind(deviceIds.block, 'block')
    // Every block device of a kernel that does not tell the size has the fields up to write-zeroes.
    return decodeBlockConfig(this.#head(virtioBlkConfig.size, 60))
  }

  /** The first bytes, as many as there are of `wanted`. A PCI device's space is a whole window of thousands, of which few mean something. */
  #head(wanted: number, whenUnknown: number): Uint8Array {
    return this.read(0, this.size === undefined ? whenUnknown : Math.min(this.size, wanted))
  }

  #checkKind(deviceId: number, name: string): void {
    const actual = this.#context.facts.deviceId
    if (actual !== deviceId)
      throw refusal(
        this.#context,
        'ERR_VDPA_WRONG_DEVICE',
        `a ${name} configuration was asked of a device with id ${actual}`,
      )
  }

  #rest(offset: number): number {
    if (this.size === undefined)
      throw rangeError('length', 'given, because this kernel does not tell the size of the configuration', undefined)
    return this.size - offset
  }

  #check(offset: number, length: number): void {
    const size = this.size ?? 0xffff_ffff
    checkInteger(offset, 'offset', 0, size - 1)
    checkInteger(length, 'length', 1, size - offset)
  }
}
