// Which bytes of a call hold numbers that only one process knows, and what a call is called in the kernel's words. Read from the table of requests.

import {
  iotlbMessageTypes,
  vhostMemory,
  vhostMemoryRegion,
  vhostMessageTypes,
  vhostMsgV2,
} from '../uapi/vhost-types.js'
import { requestByNumber, requests } from '../uapi/vhost.js'
import type { StructCodec } from '../uapi/struct.js'
import type { Call, ShownCall } from './call.js'
import { isBytes } from './outcome.js'
import type { LocalField } from './symbols.js'

/** A message that is written to, or read from, a vhost device, as its 72 bytes say it. */
export interface IotlbMessage {
  /** 2 is vhost_msg_v2, which has an ASID. */
  readonly version: 1 | 2
  /** The kernel's name of the type, such as `VHOST_IOTLB_UPDATE`; undefined for a type that it does not know. */
  readonly name: string | undefined
}

/** Bytes that a vhost message must have at least: its head and the IOTLB message in it. */
const shortestMessage = 40

const messageNames: ReadonlyMap<number, string> = new Map(
  Object.entries(iotlbMessageTypes).map(([name, type]) => [type, name]),
)

function offsetIn(codec: Pick<StructCodec<object>, 'name' | 'fields'>, field: string): number {
  const found = codec.fields.find(({ name }) => name === field)
  if (found === undefined) throw new Error(`struct ${codec.name} has no field ${field}`)
  return found.offset
}

const typeAt = offsetIn(vhostMsgV2, 'type')
const uaddrAt = offsetIn(vhostMsgV2, 'uaddr')
const userspaceAt = offsetIn(vhostMemoryRegion, 'userspace_addr')

/** Arguments that are one local number, and nothing else. */
const wholeArgument: ReadonlyMap<number, LocalField['kind']> = new Map([
  [requests.VHOST_SET_LOG_FD.number, 'fd'],
  [requests.VHOST_VDPA_SET_CONFIG_CALL.number, 'fd'],
  [requests.VHOST_SET_LOG_BASE.number, 'address'],
])

/** What a record is, when it is a message to or from a vhost device. */
export function iotlbMessageOf(record: Uint8Array): IotlbMessage | undefined {
  if (!isBytes(record) || record.byteLength < shortestMessage) return undefined
  const version = new DataView(record.buffer, record.byteOffset).getUint32(0, true)
  if (version !== vhostMessageTypes.VHOST_IOTLB_MSG && version !== vhostMessageTypes.VHOST_IOTLB_MSG_V2)
    return undefined
  return { version, name: messageNames.get(record[typeAt] ?? 0) }
}

/** The kernel's name of what a call asks: of an ioctl, or of the IOTLB message that is written. */
export function requestNameOf(call: ShownCall): string | undefined {
  if (call.op === 'ioctl') return requestByNumber(call.request)?.name
  return call.op === 'write' || call.op === 'writeEach' ? iotlbMessageOf(call.bytes)?.name : undefined
}

/** Where descriptors and addresses lie in the bytes of a call, in their order. */
export function localFields(call: Call): LocalField[] {
  if (call.op === 'ioctl') return typeof call.argument === 'number' ? [] : inArgument(call.request, call.argument)
  if (call.op === 'write') return [inRecord(0)]
  if (call.op !== 'writeEach') return []
  return recordsOf(call.bytes, call.stride).map((_, index) => inRecord(index * call.stride))
}

/** The records of a writeEach, as views. */
export function recordsOf(bytes: Uint8Array, stride: number): Uint8Array[] {
  if (!isBytes(bytes) || !(stride >= 1)) return []
  return Array.from({ length: Math.ceil(bytes.byteLength / stride) }, (_, index) =>
    bytes.subarray(index * stride, (index + 1) * stride),
  )
}

/** Records that are no message, too: a wrong head or a missing end does not make an address portable. */
function inRecord(start: number): LocalField {
  return { at: start + uaddrAt, kind: 'address' }
}

function inArgument(request: number, argument: Uint8Array): LocalField[] {
  const whole = wholeArgument.get(request)
  if (whole !== undefined) return [{ at: 0, kind: whole }]
  if (request === requests.VHOST_SET_MEM_TABLE.number) {
    const tail = argument.subarray(vhostMemory.size)
    return recordsOf(tail, vhostMemoryRegion.size).map((_, index) => ({
      at: vhostMemory.size + index * vhostMemoryRegion.size + userspaceAt,
      kind: 'address',
    }))
  }
  const fd = requestByNumber(request)?.argument?.fields.find(({ name }) => name === 'fd')
  return fd === undefined ? [] : [{ at: fd.offset, kind: 'fd' }]
}
