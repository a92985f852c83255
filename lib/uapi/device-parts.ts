// Device parts (virtio 1.4, "Device parts"): the state of a device as a list of pieces, each with a head of 16 bytes. What the pieces say of a device of ours is known in move/.

import { checkBytes, checkInteger, rangeError, typeError } from '../base/checks.js'
import { bytes, struct, u16, u32, u64, u8 } from './struct.js'

/** Types of parts. Below 0x200 they are of every device, below 0x600 of one kind, and reserved above. */
export const devicePartTypes = {
  /** What the device offers: optional, for comparing only. */
  DEV_FEATURES: 0x100,
  /** What was negotiated. */
  DRV_FEATURES: 0x101,
  /** A field of the common configuration of PCI devices. */
  PCI_COMMON_CFG: 0x102,
  /** The status byte. */
  DEVICE_STATUS: 0x103,
  /** Size and addresses of a virtqueue. */
  VQ_CFG: 0x104,
  /** Where a virtqueue is notified. */
  VQ_NOTIFY_CFG: 0x105,
  /** What a command of a network device's control queue has set. */
  NET_CONTROL: 0x200,
} as const

/** `struct virtio_dev_part_hdr`: the head of a part. */
export const virtioDevPartHdr = struct('virtio_dev_part_hdr', {
  part_type: u16,
  flags: u8,
  reserved: u8,
  selector: bytes(8),
  length: u32,
})

/** `struct virtio_dev_part_vq_cfg`: the value of VQ_CFG. */
export const virtioDevPartVqCfg = struct('virtio_dev_part_vq_cfg', {
  queue_size: u16,
  vector: u16,
  enabled: u16,
  reserved: u16,
  queue_desc: u64,
  queue_driver: u64,
  queue_device: u64,
})

/** VIRTIO_DEV_PART_F_OPTIONAL as a mask of `flags`: who does not know the part may go on without it. */
export const DEVICE_PART_OPTIONAL = 1

/** One part of the state of a device. */
export interface DevicePart {
  /** One of `devicePartTypes`, or another. */
  readonly type: number
  /** DEVICE_PART_OPTIONAL, or 0. */
  readonly flags: number
  /** Which one of several of the type: 8 bytes, zeroes where there are not several. */
  readonly selector: Uint8Array
  /** What follows the head. */
  readonly value: Uint8Array
}

/** Parts as one sequence of bytes. TypeError and RangeError name what does not fit. */
export function encodeDeviceParts(parts: readonly DevicePart[]): Uint8Array {
  const isList: boolean = Array.isArray(parts)
  if (!isList) throw typeError('parts', 'an array', parts)
  const pieces = parts.flatMap(({ type, flags, selector, value }, index) => {
    checkInteger(type, `parts[${index}].type`, 0, 0xffff)
    checkInteger(flags, `parts[${index}].flags`, 0, 0xff)
    checkBytes(selector, `parts[${index}].selector`, 8)
    checkBytes(value, `parts[${index}].value`)
    return [virtioDevPartHdr.encode({ part_type: type, flags, reserved: 0, selector, length: value.byteLength }), value]
  })
  const result = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0))
  let at = 0
  for (const piece of pieces) {
    result.set(piece, at)
    at += piece.byteLength
  }
  return result
}

/** The parts in a sequence of bytes, copied. RangeError where it ends in the middle of one. */
export function decodeDeviceParts(source: Uint8Array): DevicePart[] {
  checkBytes(source, 'source')
  const parts: DevicePart[] = []
  for (let at = 0; at < source.byteLength;) {
    const name = `part ${parts.length}`
    if (source.byteLength - at < virtioDevPartHdr.size)
      throw rangeError(name, `a head of ${virtioDevPartHdr.size} bytes and its value`, source.byteLength - at)
    const { part_type: type, flags, selector, length } = virtioDevPartHdr.decode(source, at)
    at += virtioDevPartHdr.size
    if (source.byteLength - at < length)
      throw rangeError(name, `followed by its ${length} bytes`, source.byteLength - at)
    parts.push({ type, flags, selector, value: source.slice(at, at + length) })
    at += length
  }
  return parts
}
