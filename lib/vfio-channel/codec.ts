// Messages as values: bytes in, checked numbers out, or a named refusal. It knows no state.

import { toU64 } from '../base/checks.js'
import type { StructCodec } from '../uapi/struct.js'
import { u64Value, vhostMemory, vhostMemoryRegion, vhostVringAddr, vhostVringState } from '../uapi/vhost-types.js'
import { requests } from '../uapi/vhost.js'
import { VHOST_DEVICE_SET_STATE, vhostVfioFlags, vhostVfioOp } from '../uapi/vhost-vfio.js'
import { protocolError } from './refusal.js'

/** Bytes of the head of a message. */
export const HEAD_BYTES = vhostVfioOp.size
/** Regions of one memory table. */
const REGIONS_LAST = 64

/** The drafts: of April 2018, whose memory comes as a table; of July 2019, whose memory is VFIO's business. */
export type Draft = '2018' | '2019'

/** Bytes that a payload may have. The draft of 2018 names no limit: its longest message is a memory table. */
export const payloadLast: Readonly<Record<Draft, number>> = {
  '2018': vhostMemory.size + REGIONS_LAST * vhostMemoryRegion.size,
  '2019': 1024,
}

/** A message whose head could be understood. */
export interface Message {
  readonly request: bigint
  readonly flags: number
  /** A view of the bytes that were decoded. */
  readonly payload: Uint8Array
}

/** A queue and a number of it. */
export interface OfQueue {
  readonly index: number
  readonly num: number
}

/** A piece of guest memory: where the guest and the client see it. */
export interface TableEntry {
  readonly guestAddress: bigint
  readonly size: bigint
  readonly userAddress: bigint
}

/** What each request of the drafts says. */
export type DraftRequest =
  | { readonly name: 'VHOST_SET_OWNER' | 'VHOST_RESET_OWNER' | 'VHOST_GET_FEATURES' }
  | { readonly name: 'VHOST_SET_FEATURES' | 'VHOST_SET_LOG_BASE' | 'VHOST_DEVICE_SET_STATE'; readonly value: bigint }
  | ({
      readonly name: 'VHOST_SET_VRING_NUM' | 'VHOST_SET_VRING_BASE' | 'VHOST_GET_VRING_BASE'
    } & OfQueue)
  | {
      readonly name: 'VHOST_SET_VRING_ADDR'
      readonly index: number
      readonly flags: number
      readonly descriptor: bigint
      readonly driver: bigint
      readonly device: bigint
      readonly log: bigint
    }
  | { readonly name: 'VHOST_SET_MEM_TABLE'; readonly entries: readonly TableEntry[] }

/** The name of a request of the drafts. */
export type DraftRequestName = DraftRequest['name']

type Decode = (payload: Uint8Array, name: string) => DraftRequest

function whole<T extends object>(codec: StructCodec<T>, payload: Uint8Array, name: string): T {
  if (payload.byteLength !== codec.size)
    throw protocolError(`a payload of ${payload.byteLength} bytes, not ${codec.size}`, name)
  return codec.decode(payload)
}

const nothing =
  (name: 'VHOST_SET_OWNER' | 'VHOST_RESET_OWNER' | 'VHOST_GET_FEATURES'): Decode =>
  (payload) => {
    if (payload.byteLength !== 0) throw protocolError(`a payload of ${payload.byteLength} bytes, not 0`, name)
    return { name }
  }
const number =
  (name: 'VHOST_SET_FEATURES' | 'VHOST_SET_LOG_BASE'): Decode =>
  (payload) => ({ name, value: whole(u64Value, payload, name).value })
const ofQueue =
  (name: 'VHOST_SET_VRING_NUM' | 'VHOST_SET_VRING_BASE' | 'VHOST_GET_VRING_BASE'): Decode =>
  (payload) => ({ name, ...whole(vhostVringState, payload, name) })

/** QEMU's client of the time sends an `int`. */
const state: Decode = (payload, name) => {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
  if (payload.byteLength === 4) return { name: 'VHOST_DEVICE_SET_STATE', value: BigInt(view.getUint32(0, true)) }
  return { name: 'VHOST_DEVICE_SET_STATE', value: whole(u64Value, payload, name).value }
}

const addresses: Decode = (payload, name) => {
  const raw = whole(vhostVringAddr, payload, name)
  return {
    name: 'VHOST_SET_VRING_ADDR',
    index: raw.index,
    flags: raw.flags,
    descriptor: raw.desc_user_addr,
    driver: raw.avail_user_addr,
    device: raw.used_user_addr,
    log: raw.log_guest_addr,
  }
}

const table: Decode = (payload, name) => {
  if (payload.byteLength < vhostMemory.size)
    throw protocolError(`a payload of ${payload.byteLength} bytes, not ${vhostMemory.size} or more`, name)
  const { nregions: count } = vhostMemory.decode(payload)
  if (count > REGIONS_LAST) throw protocolError(`${count} regions, and ${REGIONS_LAST} are the most`, name)
  const size = vhostMemory.size + count * vhostMemoryRegion.size
  if (payload.byteLength !== size) throw protocolError(`${payload.byteLength} bytes for ${count} regions`, name)
  return {
    name: 'VHOST_SET_MEM_TABLE',
    entries: Array.from({ length: count }, (_, index) =>
      entryOf(payload, vhostMemory.size + index * vhostMemoryRegion.size),
    ),
  }
}

function entryOf(payload: Uint8Array, at: number): TableEntry {
  const raw = vhostMemoryRegion.decode(payload, at)
  return { guestAddress: raw.guest_phys_addr, size: raw.memory_size, userAddress: raw.userspace_addr }
}

const rules: Readonly<Record<DraftRequestName, Decode>> = {
  VHOST_SET_OWNER: nothing('VHOST_SET_OWNER'),
  VHOST_RESET_OWNER: nothing('VHOST_RESET_OWNER'),
  VHOST_GET_FEATURES: nothing('VHOST_GET_FEATURES'),
  VHOST_SET_FEATURES: number('VHOST_SET_FEATURES'),
  VHOST_SET_MEM_TABLE: table,
  VHOST_SET_LOG_BASE: number('VHOST_SET_LOG_BASE'),
  VHOST_SET_VRING_NUM: ofQueue('VHOST_SET_VRING_NUM'),
  VHOST_SET_VRING_ADDR: addresses,
  VHOST_SET_VRING_BASE: ofQueue('VHOST_SET_VRING_BASE'),
  VHOST_GET_VRING_BASE: ofQueue('VHOST_GET_VRING_BASE'),
  VHOST_DEVICE_SET_STATE: state,
}

/** The number of a request of the drafts. */
export function draftNumber(name: DraftRequestName): bigint {
  return BigInt(name === 'VHOST_DEVICE_SET_STATE' ? VHOST_DEVICE_SET_STATE : requests[name].number)
}

const names = new Map((Object.keys(rules) as DraftRequestName[]).map((name) => [draftNumber(name), name]))

/** The name of a request of a draft; undefined for one that it does not have. */
export function draftRequest(number: bigint, draft: Draft): DraftRequestName | undefined {
  const name = names.get(number)
  return name === 'VHOST_SET_MEM_TABLE' && draft === '2019' ? undefined : name
}

/** Understands a head, and that as much follows as it says. ERR_VDPA_PROTOCOL. */
export function decodeMessage(bytes: Uint8Array, longest: number): Message {
  if (bytes.byteLength < HEAD_BYTES) throw protocolError(`a message of ${bytes.byteLength} bytes has no head`)
  const { request, flags, size } = vhostVfioOp.decode(bytes)
  if (size > longest) throw protocolError(`${size} bytes of payload, and ${longest} are the most`)
  if (bytes.byteLength !== HEAD_BYTES + size)
    throw protocolError(`a payload of ${bytes.byteLength - HEAD_BYTES} bytes, and the head says ${size}`)
  if ((flags & ~(vhostVfioFlags.VHOST_VFIO_NEED_REPLY | vhostVfioFlags.REPLY_RESULT)) !== 0)
    throw protocolError(`unknown flags 0x${flags.toString(16)}`)
  return { request, flags, payload: bytes.subarray(HEAD_BYTES) }
}

/** Understands the payload of a request that the draft has. ERR_VDPA_PROTOCOL, also where it has none of the number. */
export function decodeDraftRequest({ request, payload }: Message, draft: Draft): DraftRequest {
  const name = draftRequest(request, draft)
  if (name === undefined) throw protocolError(`the draft of ${draft} has no request 0x${request.toString(16)}`)
  return rules[name](payload, name)
}

/** A message as bytes. */
export function encodeMessage(request: bigint, flags: number, payload: Uint8Array): Uint8Array {
  const message = new Uint8Array(HEAD_BYTES + payload.byteLength)
  vhostVfioOp.encodeInto({ request: toU64(request, 'request'), flags, size: payload.byteLength }, message)
  message.set(payload, HEAD_BYTES)
  return message
}
