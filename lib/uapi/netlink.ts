// Netlink and generic netlink in the kernel's words (<linux/netlink.h>, <linux/genetlink.h>): headers, flags, and attributes as bytes. Integers are in the
// order of the host, which is little-endian on all hosts of this package. No family is known here but the controller.

import { checkArray, checkBytes, checkInteger, checkObject, rangeError, toU64, typeError } from '../base/checks.js'
import { struct, u16, u32, u8 } from './struct.js'

/** The protocol of `netlink()` that carries generic netlink. */
export const NETLINK_GENERIC = 16
/** The type of messages to the controller, which knows the families by name. */
export const GENL_ID_CTRL = 0x10

/** Bits of `nlmsghdr.flags`. The last two are those of an NLMSG_ERROR, where they have the numbers of NLM_F_ROOT and NLM_F_MATCH. */
export const netlinkFlags = {
  NLM_F_REQUEST: 0x01,
  NLM_F_MULTI: 0x02,
  NLM_F_ACK: 0x04,
  NLM_F_DUMP_INTR: 0x10,
  NLM_F_ROOT: 0x100,
  NLM_F_MATCH: 0x200,
  NLM_F_DUMP: 0x300,
  NLM_F_CAPPED: 0x100,
  NLM_F_ACK_TLVS: 0x200,
} as const

/** Types of messages that every family has; a family's own begin at 16. */
export const netlinkTypes = { NLMSG_NOOP: 1, NLMSG_ERROR: 2, NLMSG_DONE: 3, NLMSG_OVERRUN: 4 } as const

/** Attributes of an NLMSG_ERROR or NLMSG_DONE: the text, and where in the request the offending attribute is. */
export const netlinkErrorAttributes = { NLMSGERR_ATTR_MSG: 1, NLMSGERR_ATTR_OFFS: 2 } as const

/** Commands of the controller. */
export const controlCommands = { CTRL_CMD_NEWFAMILY: 1, CTRL_CMD_GETFAMILY: 3 } as const

/** Attributes of the controller. */
export const controlAttributes = {
  CTRL_ATTR_FAMILY_ID: 1,
  CTRL_ATTR_FAMILY_NAME: 2,
  CTRL_ATTR_VERSION: 3,
  CTRL_ATTR_HDRSIZE: 4,
  CTRL_ATTR_MAXATTR: 5,
  CTRL_ATTR_OPS: 6,
  CTRL_ATTR_OP_ID: 1,
  CTRL_ATTR_OP_FLAGS: 2,
} as const

/** The head of every message: `len` counts itself, `seq` pairs questions and answers. */
export const nlmsghdr = struct('nlmsghdr', {
  nlmsg_len: u32,
  nlmsg_type: u16,
  nlmsg_flags: u16,
  nlmsg_seq: u32,
  nlmsg_pid: u32,
})
/** What follows it in generic netlink. */
export const genlmsghdr = struct('genlmsghdr', { cmd: u8, version: u8, reserved: u16 })
/** The head of an attribute: `nla_len` counts itself, and not the padding. */
export const nlattr = struct('nlattr', { nla_len: u16, nla_type: u16 })

/** NLA_TYPE_MASK: the type without the bits that say `nested` and `in network order`. */
const TYPE_MASK = 0x3fff
const HEAD = nlmsghdr.size
const GENERIC_HEAD = genlmsghdr.size
const ATTRIBUTE_HEAD = nlattr.size

/** An attribute of a message: its type without flags, and its bytes without padding. */
export interface NetlinkAttribute {
  /** Below 0x4000. */
  readonly type: number
  /** The payload, at most 65531 bytes. Nested attributes are in it in the same form. */
  readonly bytes: Uint8Array
}

/** A message as it was received: its head and what follows it. */
export interface NetlinkMessage {
  /** One of `netlinkTypes`, or a family's id. */
  readonly type: number
  /** Bits of `netlinkFlags`. */
  readonly flags: number
  /** That of the question. */
  readonly sequence: number
  /** What follows the head. */
  readonly payload: Uint8Array
}

/** A generic netlink message of a family. */
export interface GenericMessage {
  /** The family's command. */
  readonly command: number
  /** In the order they came: some families repeat types, and the order says what belongs together. */
  readonly attributes: readonly NetlinkAttribute[]
}

/** Attributes one after another, each padded to four bytes. RangeError for what no attribute can carry. */
export function encodeAttributes(attributes: readonly NetlinkAttribute[]): Uint8Array {
  checkArray(attributes, 'attributes')
  const parts = attributes.map((attribute) => {
    checkObject(attribute, 'an attribute')
    const { type, bytes } = attribute
    checkInteger(type, 'an attribute type', 0, TYPE_MASK)
    checkBytes(bytes, 'an attribute')
    if (bytes.length > 0xffff - ATTRIBUTE_HEAD)
      throw rangeError('an attribute', 'at most 65531 bytes long', bytes.length)
    const part = new Uint8Array(padded(ATTRIBUTE_HEAD + bytes.length))
    nlattr.encodeInto({ nla_len: ATTRIBUTE_HEAD + bytes.length, nla_type: type }, part)
    part.set(bytes, ATTRIBUTE_HEAD)
    return part
  })
  return join(parts)
}

/** The attributes in `bytes`. RangeError when a length is a lie: shorter than its own head, or longer than what is there. */
export function decodeAttributes(bytes: Uint8Array): NetlinkAttribute[] {
  checkBytes(bytes, 'bytes')
  const result: NetlinkAttribute[] = []
  // Fewer bytes than a head are padding.
  for (let at = 0; bytes.length - at >= ATTRIBUTE_HEAD;) {
    const { nla_len: length, nla_type: type } = nlattr.decode(bytes, at)
    if (length < ATTRIBUTE_HEAD || length > bytes.length - at)
      throw rangeError('nla_len', `from ${ATTRIBUTE_HEAD} to ${bytes.length - at}`, length)
    result.push({ type: type & TYPE_MASK, bytes: bytes.slice(at + ATTRIBUTE_HEAD, at + length) })
    at += padded(length)
  }
  return result
}

/** A whole message: head and payload. */
export function encodeMessage(message: NetlinkMessage): Uint8Array {
  checkObject(message, 'message')
  const { type, flags, sequence, payload } = message
  checkBytes(payload, 'message.payload')
  const result = new Uint8Array(padded(HEAD + payload.length))
  const nlmsg_len = HEAD + payload.length
  nlmsghdr.encodeInto({ nlmsg_len, nlmsg_type: type, nlmsg_flags: flags, nlmsg_seq: sequence, nlmsg_pid: 0 }, result)
  result.set(payload, HEAD)
  return result
}

/** The messages of one datagram. RangeError when a length is a lie, as of decodeAttributes(). */
export function decodeMessages(datagram: Uint8Array): NetlinkMessage[] {
  checkBytes(datagram, 'datagram')
  const result: NetlinkMessage[] = []
  for (let at = 0; datagram.length - at >= HEAD;) {
    const head = nlmsghdr.decode(datagram, at)
    const length = head.nlmsg_len
    if (length < HEAD || length > datagram.length - at)
      throw rangeError('nlmsg_len', `from ${HEAD} to ${datagram.length - at}`, length)
    const payload = datagram.slice(at + HEAD, at + length)
    result.push({ type: head.nlmsg_type, flags: head.nlmsg_flags, sequence: head.nlmsg_seq, payload })
    at += padded(length)
  }
  return result
}

/** The payload of a generic message; the version is always 1. */
export function encodeGeneric(message: GenericMessage): Uint8Array {
  checkObject(message, 'message')
  const head = genlmsghdr.encode({ cmd: message.command, version: 1, reserved: 0 })
  return join([head, encodeAttributes(message.attributes)])
}

/** The generic message in a payload. RangeError when it has no head, or an attribute lies. */
export function decodeGeneric(payload: Uint8Array): GenericMessage {
  checkBytes(payload, 'payload')
  const { cmd } = genlmsghdr.decode(payload)
  return { command: cmd, attributes: decodeAttributes(payload.subarray(GENERIC_HEAD)) }
}

/** What an NLMSG_ERROR or NLMSG_DONE says. */
export interface NetlinkVerdict {
  /** The positive errno; 0 is an acknowledgement. */
  readonly errno: number
  /** What the kernel says in words, where it does. With errno 0 it is a warning. */
  readonly text?: string
}

/** Reads an NLMSG_ERROR or NLMSG_DONE. RangeError when it is too short or an attribute lies. */
export function decodeVerdict(message: NetlinkMessage): NetlinkVerdict {
  checkObject(message, 'message')
  const { type, flags, payload } = message
  checkBytes(payload, 'message.payload')
  // A DONE that carries no word at all is one without a failure.
  const errno = type === netlinkTypes.NLMSG_DONE && payload.length < 4 ? 0 : 0 - s32At(payload)
  if ((flags & netlinkFlags.NLM_F_ACK_TLVS) === 0) return { errno }
  const attributes = decodeAttributes(
    payload.subarray(type === netlinkTypes.NLMSG_DONE ? 4 : endOfRequest(flags, payload)),
  )
  const found = attributes.find((attribute) => attribute.type === netlinkErrorAttributes.NLMSGERR_ATTR_MSG)
  return found === undefined ? { errno } : { errno, text: attributeText(found.bytes) }
}

/** An errno is a small negative number; the negation of anything else is still a number. */
function s32At(payload: Uint8Array): number {
  if (payload.length < 4) throw rangeError('struct nlmsgerr', 'at least 4 bytes long', payload.length)
  return new DataView(payload.buffer, payload.byteOffset).getInt32(0, true)
}

/** An NLMSG_ERROR repeats the request: its head alone when it is capped, else all of it. */
function endOfRequest(flags: number, payload: Uint8Array): number {
  const capped = 4 + HEAD
  if ((flags & netlinkFlags.NLM_F_CAPPED) !== 0 || payload.length < capped) return capped
  return 4 + padded(nlmsghdr.decode(payload, 4).nlmsg_len)
}

/** An NLA_NUL_STRING: the bytes up to the first NUL, or all, as UTF-8; what is none becomes U+FFFD. */
export function attributeText(bytes: Uint8Array): string {
  checkBytes(bytes, 'bytes')
  const end = bytes.indexOf(0)
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end))
}

/** The payload of an NLA_NUL_STRING. */
export function textAttribute(text: string): Uint8Array {
  if (typeof text !== 'string') throw typeError('text', 'a string', text)
  return new TextEncoder().encode(`${text}\0`)
}

/** An unsigned integer of any width, as kernels may widen one. */
export function attributeInteger(bytes: Uint8Array): bigint {
  checkBytes(bytes, 'bytes')
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n)
}

/** The payload of an NLA_U8 to NLA_U64: `value` in `width` bytes. RangeError when it does not fit. */
export function integerAttribute(value: number | bigint, width: 1 | 2 | 4 | 8): Uint8Array {
  const word = toU64(value, 'an attribute')
  checkInteger(width, 'width', 1, 8)
  if (word < 0n || word >> BigInt(width * 8) !== 0n)
    throw rangeError('an attribute', `an integer of ${width} bytes`, value)
  return Uint8Array.from({ length: width }, (_, index) => Number((word >> BigInt(index * 8)) & 0xffn))
}

function padded(length: number): number {
  return (length + 3) & ~3
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    result.set(part, at)
    at += part.length
  }
  return result
}
