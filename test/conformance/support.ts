// Requests and messages by hand, for suites that speak to the seam itself.

import { expect } from '@jest/globals'
import type { Handle } from '../../lib/backend/backend.js'
import type { DeviceQueue } from '../../lib/device/device-queue.js'
import { isVdpaError, type VdpaError } from '../../lib/base/errors.js'
import type { MemoryRegion } from '../../lib/memory/memory-region.js'
import { u8Value, vhostMsgV2 } from '../../lib/uapi/vhost-types.js'
import { requests, type RequestName } from '../../lib/uapi/vhost.js'
import { netCommands } from '../../lib/uapi/virtio-net-commands.js'

/** What `call` throws or rejects with. */
export async function failureOf(call: () => unknown): Promise<unknown> {
  try {
    await call()
  } catch (error) {
    return error
  }
  throw new Error('the call did not fail')
}

/** The same for what must be an error of this package. */
export async function refusalOf(call: () => unknown): Promise<VdpaError & { readonly completed?: number }> {
  const error = await failureOf(call)
  if (!isVdpaError(error)) throw error
  return error
}

/** Misuse in the one grammar: `<name> must be <what> (got <value>)`. */
export async function expectMisuse(call: () => unknown, kind: 'type' | 'range', name: string): Promise<void> {
  const error = (await failureOf(call)) as Error & { code?: string }
  expect(error).toMatchObject(
    kind === 'type'
      ? { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' }
      : { name: 'RangeError', code: 'ERR_OUT_OF_RANGE' },
  )
  expect(error.message).toMatch(/^.+ must be .+ \(got .+\)$/)
  expect(error.message.slice(0, name.length)).toBe(name)
}

export function ask(handle: Handle, name: RequestName, argument: Uint8Array | number = 0): number {
  return handle.ioctl(requests[name].number, argument)
}

export function setStatus(handle: Handle, value: number): void {
  ask(handle, 'VHOST_VDPA_SET_STATUS', u8Value.encode({ value }))
}

export function statusOf(handle: Handle): number {
  const argument = new Uint8Array(1)
  ask(handle, 'VHOST_VDPA_GET_STATUS', argument)
  return u8Value.decode(argument).value
}

/** `count` messages that map one page of `memory` each, at one IOVA after the other from `iova` on. */
export function updates(memory: MemoryRegion, iova: bigint, count: number): Uint8Array {
  const records = new Uint8Array(count * vhostMsgV2.size)
  for (let index = 0; index < count; index++) {
    const at = iova + BigInt(index * 4096)
    vhostMsgV2.encodeInto(
      { message: 2, asid: 0, iova: at, size: 4096n, uaddr: memory.address, perm: 3, type: 2 },
      records,
      index * vhostMsgV2.size,
    )
  }
  return records
}

/** How many of `count` pages from `iova` on are mapped: those that cannot be mapped again. Maps the others. */
export function countMapped(handle: Handle, memory: MemoryRegion, iova: bigint, count: number): number {
  let mapped = 0
  for (let index = 0; index < count; index++) {
    const record = updates(memory, iova + BigInt(index * 4096), 1)
    try {
      handle.write(record)
    } catch (error) {
      if (!isVdpaError(error) || error.code !== 'EFAULT') throw error
      mapped++
    }
  }
  return mapped
}

/** Turns of the event loop in which something could happen that must not. */
export async function turns(count = 5): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setTimeout(resolve, 1))
}

/** A frame of 64 bytes to an address. */
export function frameTo(mac: string): Uint8Array {
  const frame = new Uint8Array(64)
  frame.set(mac.split(':').map((part) => parseInt(part, 16)))
  frame.set([0x02, 0, 0, 0, 0, 0x02, 0x88, 0xb5], 6)
  return frame.fill(0x5a, 14)
}

/** The bytes of VIRTIO_NET_CTRL_MAC_ADDR_SET. */
export function macCommand(mac: string): Uint8Array {
  return Uint8Array.from([1, 1, ...netCommands.VIRTIO_NET_CTRL_MAC_ADDR_SET.encode(mac)])
}

/** Puts one raw command into the ring; resolves with its acknowledgement, or undefined when none comes in time. */
export async function sendCommand(
  queue: DeviceQueue,
  commandIova: bigint,
  milliseconds = 60_000,
): Promise<number | undefined> {
  const ackAt = 0x800
  queue.buffers.setU8(ackAt, 0xff)
  queue.ring.begin()
  queue.ring.pushAddress(commandIova, 8, false)
  queue.ring.pushAddress(queue.buffersIova + BigInt(ackAt), 1, true)
  queue.ring.commit(7)
  queue.publish()
  for (let waited = 0; waited < milliseconds; waited += 5) {
    if (queue.ring.take() === 7) return queue.buffers.u8(ackAt)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  expect(queue.buffers.u8(ackAt)).toBe(0xff)
  return undefined
}
