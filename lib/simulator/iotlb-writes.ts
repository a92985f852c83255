// IOTLB messages: what a write() to an open vhost-vdpa does. Head problems are EINVAL; whatever a message itself is refused for arrives as EFAULT.

import { errno } from '../uapi/errno.js'
import { iotlbMessageTypes, vhostMessageTypes } from '../uapi/vhost-types.js'
import type { AddressSpace } from './address-space.js'
import { IOTLB_ENTRIES_LAST } from './iotlb-table.js'
import type { OpenFile } from './chardev.js'
import { ADDRESS_LIMIT, PAGE_BYTES, type ProcessMemory } from './process-memory.js'

/** Bytes that every successful write returns, however many were given. */
const RECORD_BYTES = 72
/** Bytes that the kernel reads: the record's head and the message. */
const MESSAGE_BYTES = 40

const view = { bytes: new Uint8Array(RECORD_BYTES) }
const words = new Uint32Array(view.bytes.buffer)
const isBigEndian = new Uint8Array(Uint16Array.of(1).buffer)[0] === 0
const dataView = new DataView(view.bytes.buffer)

/** Word `at` of the record, little-endian. */
function word(at: number): number {
  return isBigEndian ? dataView.getUint32(at * 4, true) : (words[at] ?? 0)
}

/** Carries one record out: 72, or a negative errno. */
export function writeRecord(
  file: OpenFile,
  memory: ProcessMemory,
  bytes: Uint8Array,
  offset: number,
  length: number,
): number {
  if (length < MESSAGE_BYTES) return -errno.EINVAL
  for (let index = 0; index < MESSAGE_BYTES; index++) view.bytes[index] = bytes[offset + index] as number
  const record = word(0)
  if (record !== vhostMessageTypes.VHOST_IOTLB_MSG && record !== vhostMessageTypes.VHOST_IOTLB_MSG_V2)
    return -errno.EINVAL
  const type = view.bytes[33]
  // Length 0 cannot be said of an update; of an invalidation it is taken as it comes.
  if (type === iotlbMessageTypes.VHOST_IOTLB_UPDATE && word(4) === 0 && word(5) === 0) return -errno.EINVAL
  const asid = record === vhostMessageTypes.VHOST_IOTLB_MSG_V2 && file.hasAsid ? word(1) : 0
  return message(file, memory, type ?? 0, asid) ? RECORD_BYTES : -errno.EFAULT
}

function message(file: OpenFile, memory: ProcessMemory, type: number, asid: number): boolean {
  if (!file.isOwned) return false
  const { dma } = file.node
  const makesSpace = type === iotlbMessageTypes.VHOST_IOTLB_UPDATE || type === iotlbMessageTypes.VHOST_IOTLB_BATCH_BEGIN
  if (asid >= file.ops.addressSpaceCount) return false
  const space = makesSpace ? dma.need(asid) : dma.space(asid)
  if (space === undefined) return false
  if (file.batchAsid !== -1 && file.batchAsid !== asid) return false
  switch (type) {
    case iotlbMessageTypes.VHOST_IOTLB_UPDATE:
      return update(file, memory, space, asid)
    case iotlbMessageTypes.VHOST_IOTLB_INVALIDATE:
      return invalidate(file, memory, space, asid)
    case iotlbMessageTypes.VHOST_IOTLB_BATCH_BEGIN:
      file.batchAsid = asid
      return true
    case iotlbMessageTypes.VHOST_IOTLB_BATCH_END:
      if (file.batchAsid !== -1) dma.publish(asid)
      file.batchAsid = -1
      return true
    default:
      return false
  }
}

/** The last address of a range of `size` bytes, modulo 2^64. */
const last: [high: number, low: number] = [0, 0]
function setLast(high: number, low: number, sizeHigh: number, sizeLow: number): boolean {
  const lowSum = low + sizeLow - 1
  const carry = lowSum > 0xffff_ffff ? 1 : lowSum < 0 ? -1 : 0
  const highSum = high + sizeHigh + carry
  last[0] = highSum >>> 0
  last[1] = lowSum >>> 0
  return highSum <= 0xffff_ffff && highSum >= 0
}

/** In a batch the device sees changes at its end, unless its parent maps at each message. */
function isDeferred(file: OpenFile): boolean {
  return file.batchAsid !== -1 && file.ops.mapsAtOnce !== true
}

function isInRange(file: OpenFile, high: number, low: number): boolean {
  const range = file.ops.iovaRange
  if (range === undefined) return true
  const first = (BigInt(high) << 32n) | BigInt(low)
  const end = (BigInt(last[0]) << 32n) | BigInt(last[1])
  return first >= range.first && end <= range.last
}

function update(file: OpenFile, memory: ProcessMemory, space: AddressSpace, asid: number): boolean {
  const [low, high, sizeLow, sizeHigh] = [word(2), word(3), word(4), word(5)]
  if (!setLast(high, low, sizeHigh, sizeLow) || !isInRange(file, high, low)) return false
  if (space.tracked.overlaps(high, low, last[0], last[1])) return false
  if (file.node.dma.pinsMemory) return updatePinned(file, memory, space, asid)
  // All of the range is looked at before any of it is mapped, so that a refusal leaves nothing behind.
  const uaddr = word(7) * 0x1_0000_0000 + word(6)
  const size = sizeHigh * 0x1_0000_0000 + sizeLow
  if (uaddr + size > ADDRESS_LIMIT) return refuseAddress(file, space, asid, high === 0 && low === 0)
  if (!hasRoom(memory, space, uaddr, size)) return false
  if (isDeferred(file)) space.fork()
  const perm = view.bytes[32] ?? 0
  for (let address = uaddr; address < uaddr + size;) {
    const region = memory.at(address)
    // Memory that is no region is passed over without a word.
    if (region === undefined || region.start >= uaddr + size) break
    const from = Math.max(address, region.start)
    const to = Math.min(region.start + region.length, uaddr + size)
    space.tracked.insert(
      add(high, low, from - uaddr),
      add(high, low, to - uaddr - 1),
      region,
      from - region.start,
      perm,
    )
    address = to
  }
  if (!isDeferred(file)) file.node.dma.publish(asid)
  return true
}

/** Refuses an update whose memory is none of the process's. */
function refuseAddress(file: OpenFile, space: AddressSpace, asid: number, isAtZero: boolean): false {
  if (!isAtZero || !file.deviates('refused-update-at-zero')) return false
  if (isDeferred(file)) space.fork()
  space.tracked.removeOverlapping(0, 0, 0xffff_ffff, 0xffff_ffff)
  if (!isDeferred(file)) file.node.dma.publish(asid)
  return false
}

/**
 * Memory for hardware: whole pages are mapped, whatever the bytes in them that were asked for, in pieces of pretended physical memory (one,
 * unless the device says of how many bytes), and count as pinned.
 * What is not memory, or more than may be pinned, is refused.
 */
function updatePinned(file: OpenFile, memory: ProcessMemory, space: AddressSpace, asid: number): boolean {
  const inPage = word(2) % PAGE_BYTES
  const [low, high] = [word(2) - inPage, word(3)]
  const uaddr = word(7) * 0x1_0000_0000 + word(6)
  const start = uaddr - (uaddr % PAGE_BYTES)
  const bytes = Math.ceil((word(5) * 0x1_0000_0000 + word(4) + inPage) / PAGE_BYTES) * PAGE_BYTES
  const region = memory.at(start)
  if (region === undefined || start < region.start || start + bytes > region.start + region.length) return false
  const end = add(high, low, bytes - 1)
  const at = start - region.start
  const piece = file.ops.pieceBytes ?? Infinity
  const pieces = piece === Infinity ? 1 : Math.floor((at + bytes - 1) / piece) - Math.floor(at / piece) + 1
  if (space.tracked.count + pieces > IOTLB_ENTRIES_LAST || space.tracked.overlaps(high, low, end[0], end[1]))
    return false
  if (!memory.pin(bytes)) return false
  if (isDeferred(file)) space.fork()
  const perm = view.bytes[32] ?? 0
  for (let from = at; from < at + bytes;) {
    const to = Math.min(at + bytes, piece === Infinity ? Infinity : (Math.floor(from / piece) + 1) * piece)
    space.tracked.insert(add(high, low, from - at), add(high, low, to - at - 1), region, from, perm)
    from = to
  }
  if (!isDeferred(file)) file.node.dma.publish(asid)
  return true
}

function hasRoom(memory: ProcessMemory, space: AddressSpace, uaddr: number, size: number): boolean {
  let pieces = 0
  for (let address = uaddr; address < uaddr + size; pieces++) {
    const region = memory.at(address)
    if (region === undefined || region.start >= uaddr + size) break
    address = region.start + region.length
  }
  return space.tracked.count + pieces <= IOTLB_ENTRIES_LAST
}

function add(high: number, low: number, count: number): readonly [number, number] {
  const sum = low + count
  return [high + Math.floor(sum / 0x1_0000_0000), sum % 0x1_0000_0000]
}

function invalidate(file: OpenFile, memory: ProcessMemory, space: AddressSpace, asid: number): boolean {
  const [low, high] = [word(2), word(3)]
  setLast(high, low, word(5), word(4))
  if (isDeferred(file)) space.fork()
  const before = space.tracked.bytes
  space.tracked.removeOverlapping(high, low, last[0], last[1])
  if (file.node.dma.pinsMemory) memory.unpin(before - space.tracked.bytes)
  if (!isDeferred(file)) file.node.dma.publish(asid)
  return true
}
