// A message of the front end as a value: bytes in, a request with checked numbers out, or a named refusal. It knows no state and no descriptor but their count.

import { bit } from '../base/bits.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import {
  vhostUserConfigHead,
  vhostUserFlags,
  vhostUserHeader,
  vhostUserInflight,
  vhostUserLog,
  vhostUserMemoryHead,
  vhostUserRegion,
  vhostUserRequests,
  vhostUserStateTransfer,
  vhostUserVringAddr,
  vhostUserVringState,
  VHOST_USER_VRING_NO_FD,
  type VhostUserRequest,
} from '../uapi/vhost-user.js'
import type { StructCodec } from '../uapi/struct.js'

/** Bytes of a header. */
export const HEADER_BYTES = vhostUserHeader.size
/** The longest payload of any message. */
export const PAYLOAD_LAST = 4096
/** Regions of one memory table. */
export const REGIONS_LAST = 8
/** Bytes of configuration space in one message, by the protocol. */
const CONFIG_LAST = 256

/** A header that could be understood. */
export interface MessageHeader {
  /** Its number, with or without a name. */
  readonly request: number
  /** Whether an answer is asked for where there would be none. */
  readonly needsReply: boolean
  /** Bytes of the payload, at most 4096. */
  readonly size: number
}

/** One region of the guest's memory, as the front end describes it. */
export interface RegionDescription {
  /** Where the guest sees it. */
  readonly guestAddress: bigint
  /** Bytes, at least 1. */
  readonly size: bigint
  /** Where the front end sees it: what ring addresses are given in. */
  readonly userAddress: bigint
  /** Where it begins in its file. */
  readonly offset: bigint
}

interface OfNumber {
  readonly value: bigint
}
interface OfVring {
  readonly index: number
}

/** What each request says, by its name. Requests that say nothing have `{}`. */
export interface RequestValues {
  GET_FEATURES: object
  SET_FEATURES: OfNumber
  SET_OWNER: object
  RESET_OWNER: object
  SET_MEM_TABLE: { readonly regions: readonly RegionDescription[] }
  SET_LOG_BASE: { readonly size: bigint; readonly offset: bigint }
  SET_LOG_FD: object
  SET_VRING_NUM: OfVring & { readonly num: number }
  SET_VRING_ADDR: OfVring & {
    readonly flags: number
    readonly descriptor: bigint
    readonly used: bigint
    readonly available: bigint
    readonly log: bigint
  }
  SET_VRING_BASE: OfVring & { readonly num: number }
  GET_VRING_BASE: OfVring & { readonly num: number }
  SET_VRING_KICK: OfVring & { readonly hasFile: boolean }
  SET_VRING_CALL: OfVring & { readonly hasFile: boolean }
  SET_VRING_ERR: OfVring & { readonly hasFile: boolean }
  GET_PROTOCOL_FEATURES: object
  SET_PROTOCOL_FEATURES: OfNumber
  GET_QUEUE_NUM: object
  SET_VRING_ENABLE: OfVring & { readonly num: number }
  SET_BACKEND_REQ_FD: object
  GET_CONFIG: { readonly offset: number; readonly size: number; readonly flags: number; readonly bytes: Uint8Array }
  SET_CONFIG: { readonly offset: number; readonly size: number; readonly flags: number; readonly bytes: Uint8Array }
  GET_INFLIGHT_FD: {
    readonly size: bigint
    readonly offset: bigint
    readonly queues: number
    readonly queueSize: number
  }
  SET_INFLIGHT_FD: {
    readonly size: bigint
    readonly offset: bigint
    readonly queues: number
    readonly queueSize: number
  }
  RESET_DEVICE: object
  VRING_KICK: OfVring & { readonly num: number }
  GET_MAX_MEM_SLOTS: object
  ADD_MEM_REG: { readonly region: RegionDescription }
  REM_MEM_REG: { readonly region: RegionDescription }
  SET_STATUS: OfNumber
  GET_STATUS: object
  SET_DEVICE_STATE_FD: { readonly direction: number; readonly phase: number }
  CHECK_DEVICE_STATE: object
}

/** A request that this back end knows. */
export type KnownRequest = keyof RequestValues
/** Any request as a value. */
export type RequestValue = { readonly [N in KnownRequest]: { readonly name: N } & RequestValues[N] }[KnownRequest]

interface Rule<N extends KnownRequest> {
  /** Descriptors that must come with it, at least and at most. */
  readonly files: readonly [least: number, most: number]
  readonly decode: (payload: Uint8Array, files: number) => RequestValues[N]
}

/** What is wrong with a message. */
export function protocolError(request: string, text: string): VdpaError {
  return vdpaError('ERR_VDPA_PROTOCOL', text, { request: `VHOST_USER_${request}` })
}

class Wrong extends Error {}
const wrong = (text: string): Wrong => new Wrong(text)

function sizeIs(payload: Uint8Array, size: number): void {
  if (payload.byteLength !== size) throw wrong(`a payload of ${payload.byteLength} bytes, not ${size}`)
}

function whole<T extends object>(codec: StructCodec<T>, payload: Uint8Array): T {
  sizeIs(payload, codec.size)
  return codec.decode(payload)
}

const nothing = <N extends KnownRequest>(): Rule<N> => ({
  files: [0, 0],
  decode: (payload) => {
    sizeIs(payload, 0)
    return {} as RequestValues[N]
  },
})

const oneFile = { files: [1, 1], decode: nothing().decode } as const

function numberOf(payload: Uint8Array): OfNumber {
  sizeIs(payload, 8)
  return { value: new DataView(payload.buffer, payload.byteOffset).getBigUint64(0, true) }
}
const ofNumber = { files: [0, 0], decode: numberOf } as const
const ofState = { files: [0, 0], decode: (payload: Uint8Array) => whole(vhostUserVringState, payload) } as const

const ofFile = {
  files: [0, 1],
  decode: (payload: Uint8Array, files: number) => {
    const { value } = numberOf(payload)
    const hasFile = (value & BigInt(VHOST_USER_VRING_NO_FD)) === 0n
    if (value > 0x1ffn) throw wrong(`unknown bits in 0x${value.toString(16)}`)
    if (hasFile !== (files === 1))
      throw wrong(hasFile ? 'no descriptor came with it' : 'a descriptor came that it says it has not')
    return { index: Number(value & 0xffn), hasFile }
  },
} as const

const LAST = 0xffff_ffff_ffff_ffffn

function regionOf(payload: Uint8Array, at: number): RegionDescription {
  const raw = vhostUserRegion.decode(payload, at)
  const { memory_size: size } = raw
  if (size === 0n) throw wrong('a region of no bytes')
  for (const [name, address] of Object.entries(raw))
    if (name !== 'memory_size' && address > LAST - size + 1n)
      throw wrong(`${name} 0x${address.toString(16)} and its size pass 2^64`)
  return { guestAddress: raw.guest_phys_addr, size, userAddress: raw.userspace_addr, offset: raw.mmap_offset }
}

function tableOf(payload: Uint8Array, files: number): RequestValues['SET_MEM_TABLE'] {
  if (payload.byteLength < vhostUserMemoryHead.size) throw wrong(`a payload of ${payload.byteLength} bytes`)
  const { nregions: count } = vhostUserMemoryHead.decode(payload)
  if (count > REGIONS_LAST) throw wrong(`${count} regions, and ${REGIONS_LAST} are the most`)
  if (count !== files) throw wrong(`${count} regions with ${files} descriptors`)
  // User Mode Linux sends room for two, whatever it has.
  if (payload.byteLength < vhostUserMemoryHead.size + count * vhostUserRegion.size)
    throw wrong(`${payload.byteLength} bytes for ${count} regions`)
  return {
    regions: Array.from({ length: count }, (_, index) =>
      regionOf(payload, vhostUserMemoryHead.size + index * vhostUserRegion.size),
    ),
  }
}

function singleRegion(payload: Uint8Array): { region: RegionDescription } {
  sizeIs(payload, 40)
  return { region: regionOf(payload, 8) }
}

function configOf(payload: Uint8Array): RequestValues['SET_CONFIG'] {
  if (payload.byteLength < vhostUserConfigHead.size) throw wrong(`a payload of ${payload.byteLength} bytes`)
  const head = vhostUserConfigHead.decode(payload)
  if (head.size > CONFIG_LAST || head.offset > CONFIG_LAST) throw wrong(`${head.size} bytes at ${head.offset}`)
  sizeIs(payload, vhostUserConfigHead.size + head.size)
  return { ...head, bytes: payload.slice(vhostUserConfigHead.size) }
}

function inflightOf(payload: Uint8Array): RequestValues['GET_INFLIGHT_FD'] {
  // C pads 20 bytes to 24, and QEMU sends them so.
  if (payload.byteLength !== 20 && payload.byteLength !== 24)
    throw wrong(`a payload of ${payload.byteLength} bytes, not 20 or 24`)
  const raw = vhostUserInflight.decode(payload)
  return { size: raw.mmap_size, offset: raw.mmap_offset, queues: raw.num_queues, queueSize: raw.queue_size }
}

function addressesOf(payload: Uint8Array): RequestValues['SET_VRING_ADDR'] {
  const raw = whole(vhostUserVringAddr, payload)
  if (raw.flags > 1) throw wrong(`unknown flags 0x${raw.flags.toString(16)}`)
  const { index, flags, desc_user_addr: descriptor, used_user_addr: used, avail_user_addr: available } = raw
  if (descriptor % 16n !== 0n || used % 4n !== 0n || available % 2n !== 0n) throw wrong('an area that is not aligned')
  return { index, flags, descriptor, used, available, log: raw.log_guest_addr }
}

const rules: { readonly [N in KnownRequest]: Rule<N> } = {
  GET_FEATURES: nothing(),
  SET_FEATURES: ofNumber,
  SET_OWNER: nothing(),
  RESET_OWNER: nothing(),
  SET_MEM_TABLE: { files: [0, REGIONS_LAST], decode: tableOf },
  SET_LOG_BASE: {
    files: [1, 1],
    decode: (payload) => {
      const raw = whole(vhostUserLog, payload)
      return { size: raw.mmap_size, offset: raw.mmap_offset }
    },
  },
  SET_LOG_FD: oneFile,
  SET_VRING_NUM: ofState,
  SET_VRING_ADDR: { files: [0, 0], decode: addressesOf },
  SET_VRING_BASE: ofState,
  GET_VRING_BASE: ofState,
  SET_VRING_KICK: ofFile,
  SET_VRING_CALL: ofFile,
  SET_VRING_ERR: ofFile,
  GET_PROTOCOL_FEATURES: nothing(),
  SET_PROTOCOL_FEATURES: ofNumber,
  GET_QUEUE_NUM: nothing(),
  SET_VRING_ENABLE: ofState,
  SET_BACKEND_REQ_FD: oneFile,
  GET_CONFIG: { files: [0, 0], decode: configOf },
  SET_CONFIG: { files: [0, 0], decode: configOf },
  GET_INFLIGHT_FD: { files: [0, 0], decode: inflightOf },
  SET_INFLIGHT_FD: { files: [1, 1], decode: inflightOf },
  RESET_DEVICE: nothing(),
  VRING_KICK: ofState,
  GET_MAX_MEM_SLOTS: nothing(),
  ADD_MEM_REG: { files: [1, 1], decode: singleRegion },
  REM_MEM_REG: { files: [0, 1], decode: singleRegion },
  SET_STATUS: ofNumber,
  GET_STATUS: nothing(),
  SET_DEVICE_STATE_FD: { files: [1, 1], decode: (payload) => whole(vhostUserStateTransfer, payload) },
  CHECK_DEVICE_STATE: nothing(),
}

const names = new Map<number, VhostUserRequest>(
  Object.entries(vhostUserRequests).map(([name, number]) => [number, name as VhostUserRequest]),
)

/** The name of a request, or its number where it has none. */
export function requestName(number: number): string {
  return names.get(number) ?? `request ${number}`
}

/** Understands a header of 12 bytes. ERR_VDPA_PROTOCOL for one that no front end sends: what follows it cannot be understood either. */
export function decodeHeader(source: Uint8Array): MessageHeader {
  const { request, flags, size } = vhostUserHeader.decode(source)
  const problem =
    (flags & vhostUserFlags.VERSION_MASK) !== vhostUserFlags.VERSION
      ? `version ${flags & vhostUserFlags.VERSION_MASK}, not 1`
      : (flags & vhostUserFlags.REPLY) !== 0
        ? 'an answer that nobody asked for'
        : flags > vhostUserFlags.ALL
          ? `unknown flags 0x${flags.toString(16)}`
          : size > PAYLOAD_LAST
            ? `${size} bytes to follow, and ${PAYLOAD_LAST} are the most`
            : undefined
  if (problem !== undefined) throw protocolError(requestName(request), problem)
  return { request, needsReply: (flags & vhostUserFlags.NEED_REPLY) !== 0, size }
}

/** Understands a payload, with the count of descriptors that came. ERR_VDPA_PROTOCOL says what is wrong, or that the request is unknown here. */
export function decodeRequest(number: number, payload: Uint8Array, files: number): RequestValue {
  const name = requestName(number)
  if (!Object.hasOwn(rules, name)) throw protocolError(name, 'this back end does not know it')
  const known = name as KnownRequest
  const { files: allowed, decode } = rules[known]
  const [least, most] = allowed
  if (files < least || files > most)
    throw protocolError(name, `${files} descriptors, not ${least === most ? least : `${least} to ${most}`}`)
  try {
    return { name: known, ...decode(payload, files) } as RequestValue
  } catch (error) {
    if (error instanceof Wrong) throw protocolError(name, error.message)
    throw error
  }
}

/** An answer, header and payload; NEED_REPLY is never in it, because front ends compare the whole word. */
export function encodeReply(request: number, payload: Uint8Array): Uint8Array {
  return encodeMessage(request, vhostUserFlags.VERSION | vhostUserFlags.REPLY, payload)
}

/** Any message. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const message = new Uint8Array(HEADER_BYTES + payload.byteLength)
  vhostUserHeader.encodeInto({ request, flags, size: payload.byteLength }, message)
  message.set(payload, HEADER_BYTES)
  return message
}

/** A `u64` as payload. */
export function encodeNumber(value: bigint): Uint8Array {
  const payload = new Uint8Array(8)
  new DataView(payload.buffer).setBigUint64(0, value, true)
  return payload
}

/** A word of features as its bits. */
export function maskOf(bits: readonly number[]): bigint {
  return bits.reduce((word, number) => word | bit(number), 0n)
}
