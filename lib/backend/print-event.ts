// How a recorded call reads to a person: one line, in the kernel's words. The table of requests says what the bytes mean.

import { checkObject, checkString } from '../base/checks.js'
import type { StructCodec } from '../uapi/struct.js'
import { vhostAccess, vhostMsg, vhostMsgV2 } from '../uapi/vhost-types.js'
import { requestByNumber } from '../uapi/vhost.js'
import type { HandleCall } from './call.js'
import { iotlbMessageOf, recordsOf } from './local-fields.js'
import type { Outcome } from './outcome.js'
import { lengthOf, readPortable, type NamedBytes, type PortableBytes } from './symbols.js'
import type { TraceEvent } from './trace.js'

/** Records of a writeEach that a line shows; the rest is counted. */
const shownRecords = 4
/** Bytes without a meaning that a line shows; the rest is counted. */
const shownBytes = 32

/**
 * One line: `VHOST_VDPA_SET_GROUP_ASID /dev/vhost-vdpa-0 {index: 1, num: 1} = 0`. What a call changed in its bytes follows an arrow; a refusal is
 * its code; `(async)` marks the asynchronous form.
 */
export function printEvent(event: TraceEvent): string {
  checkObject(event, 'event')
  checkString(event.op, 'event.op')
  const end = event.outcome === undefined ? '…' : printOutcome(event, event.outcome)
  return `${subjectOf(event)} = ${end}${event.async === true ? ' (async)' : ''}`
}

/** The call alone, without its end. */
export function printCall(event: TraceEvent): string {
  const { output: _output, outcome: _outcome, ...call } = event
  return subjectOf(call)
}

/** How a call ended, alone: `0`, `h0`, `EINVAL`, `EFAULT after 3 records`. */
export function printOutcome(event: TraceEvent, outcome: Outcome): string {
  if ('failed' in outcome) {
    if (outcome.completed === undefined) return outcome.failed
    return `${outcome.failed} after ${outcome.completed} record${outcome.completed === 1 ? '' : 's'}`
  }
  if (!('creates' in event)) return String(outcome.returned)
  return outcome.returned === 0 ? event.creates : `${event.creates} of ${outcome.returned} bytes`
}

/** The bytes that a call left, in the kernel's words; undefined where it changed none. */
export function printOutput(event: TraceEvent, output = event.output): string | undefined {
  if (output === undefined) return undefined
  if (event.op === 'ioctl') return printArgument(event.request, output)
  return event.op === 'read' ? printRecord(readPortable(output)) : printBytes(readPortable(output))
}

/** The kernel's name of what an event asks: of an ioctl, or of the IOTLB message that was written. */
export function requestNameIn(event: TraceEvent): string | undefined {
  if (event.op === 'ioctl') return requestByNumber(event.request)?.name
  const isWrite = event.op === 'write' || event.op === 'writeEach'
  return isWrite ? iotlbMessageOf(readPortable(event.bytes).bytes)?.name : undefined
}

function subjectOf(event: TraceEvent): string {
  const output = printOutput(event)
  const words = wordsOf(event).filter((word) => word !== '')
  return output === undefined ? words.join(' ') : `${words.join(' ')} → ${output}`
}

type HandleEvent = Extract<TraceEvent, HandleCall<PortableBytes> | { op: 'mapDoorbell' }>
type OtherEvent = Exclude<TraceEvent, HandleEvent>

function wordsOf(event: TraceEvent): string[] {
  switch (event.op) {
    case 'ioctl':
      return ioctlWords(event)
    case 'write': {
      const record = readPortable(event.bytes)
      const name = iotlbMessageOf(record.bytes)?.name
      return [name ?? 'write', event.path, printRecord(record, name !== undefined)]
    }
    case 'writeEach':
      return ['writeEach', event.path, printRecords(readPortable(event.bytes), event.stride)]
    case 'read':
      return ['read', event.path, `${lengthOf(event.bytes)} bytes`]
    case 'pread':
      return ['pread', event.path, `${lengthOf(event.bytes)} bytes at ${hex(event.offset)}`]
    case 'pwrite':
      return ['pwrite', event.path, `${printBytes(readPortable(event.bytes))} at ${hex(event.offset)}`]
    case 'mapDoorbell':
      return ['mapDoorbell', event.path, hex(event.offset)]
    case 'open':
    case 'openFd':
    case 'allocate':
    case 'adopt':
    case 'eventfd':
    case 'netlink':
    case 'signal':
    case 'take':
    case 'woken':
    case 'ring':
    case 'send':
    case 'receive':
    case 'addMembership':
    case 'close':
      return otherWords(event)
  }
}

function ioctlWords(event: TraceEvent & { readonly op: 'ioctl' }): string[] {
  const { request, path, argument, output } = event
  const row = requestByNumber(request)
  const name = row?.name ?? `ioctl ${hex(request)}`
  const isNothing = row?.direction === 'none' && argument === 0
  // What goes in is of no interest where the request only reads, unless the bytes say what to read.
  const isRoom = row?.direction === 'read' && !row.flexible && output !== undefined
  return [name, path, isNothing || isRoom ? '' : printArgument(request, argument)]
}

function otherWords(event: OtherEvent): string[] {
  switch (event.op) {
    case 'open':
      return ['open', event.path]
    case 'openFd':
      return ['openFd', event.path ?? String(event.fd)]
    case 'allocate':
      return ['allocate', `${event.length} bytes`, event.name ?? '']
    case 'adopt':
      return ['adopt', `${event.length} bytes at ${hex(event.offset ?? 0n)}`]
    case 'eventfd':
      return ['eventfd', event.fd === undefined ? '' : String(event.fd)]
    case 'netlink':
      return ['netlink', String(event.protocol)]
    case 'signal':
      return ['signal', event.target, String(event.count)]
    case 'ring':
      return [`ring${event.bits}`, event.target, hex(event.value)]
    case 'send':
      return ['send', event.target, printBytes(readPortable(event.bytes))]
    case 'addMembership':
      return ['addMembership', event.target, String(event.group)]
    case 'close':
      return ['close', event.path ?? event.target]
    case 'take':
    case 'woken':
    case 'receive':
      return [event.op, event.target]
  }
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`
}

function part({ bytes, names }: NamedBytes, from: number, length: number): NamedBytes {
  const inside = [...names].filter(([at]) => at >= from && at < from + length)
  return {
    bytes: bytes.subarray(from, from + length),
    names: new Map(inside.map(([at, name]) => [at - from, name])),
  }
}

function printArgument(request: number, argument: PortableBytes | number): string {
  if (typeof argument === 'number') return String(argument)
  const row = requestByNumber(request)
  const named = readPortable(argument)
  const codec = row?.argument
  if (codec === undefined || named.bytes.length < codec.size) return printBytes(named)
  const head = printStruct(codec, named)
  const rest = part(named, codec.size, named.bytes.length - codec.size)
  return rest.bytes.length === 0 ? head : `${head} ${printBytes(rest)}`
}

/** `{index: 1, num: 1}`, or the value alone where the struct is one number. */
function printStruct(codec: StructCodec<object>, named: NamedBytes, hidden: readonly string[] = []): string {
  const value = codec.decode(named.bytes) as Record<string, unknown>
  const fields = codec.fields
    .filter(({ name }) => !hidden.includes(name))
    .map(({ name, offset }) => [name, named.names.get(offset) ?? printValue(value[name])] as const)
  const [only] = fields
  if (fields.length === 1 && only?.[0] === 'value') return only[1]
  return `{${fields.map(([name, text]) => `${name}: ${text}`).join(', ')}}`
}

function printValue(value: unknown): string {
  if (typeof value === 'bigint') return hex(value)
  return value instanceof Uint8Array ? printBytes({ bytes: value, names: new Map() }) : String(value)
}

const accessNames: Readonly<Record<number, string>> = {
  [vhostAccess.VHOST_ACCESS_RO]: 'RO',
  [vhostAccess.VHOST_ACCESS_WO]: 'WO',
  [vhostAccess.VHOST_ACCESS_RW]: 'RW',
}

/** A vhost message by its fields; `hasName` when the line has said its name. A batch's message has an ASID and nothing else. */
function printRecord(named: NamedBytes, hasName = false): string {
  const message = iotlbMessageOf(named.bytes)
  if (message === undefined || named.bytes.length < vhostMsgV2.size) return printBytes(named)
  const codec: StructCodec<object> = message.version === 1 ? vhostMsg : vhostMsgV2
  const isBatch = message.name?.startsWith('VHOST_IOTLB_BATCH') === true
  const hidden = ['message', 'perm', ...(message.name === undefined ? [] : ['type'])]
  const fields = printStruct(codec, named, isBatch ? [...hidden, 'iova', 'size', 'uaddr'] : hidden)
  const perm = named.bytes[codec.fields.find(({ name }) => name === 'perm')?.offset ?? 0] ?? 0
  const access = isBatch ? '' : `, perm: ${accessNames[perm] ?? perm}`
  const text = fields === '{}' ? '' : fields.replace(/\}$/, `${access}}`)
  return hasName || message.name === undefined ? text : `${message.name} ${text}`.trimEnd()
}

function printRecords(named: NamedBytes, stride: number): string {
  const records = recordsOf(named.bytes, stride).map((bytes, index) => part(named, index * stride, bytes.length))
  const texts = records.slice(0, shownRecords).map((record) => printRecord(record))
  const rest = records.length - texts.length
  return `[${[...texts, ...(rest > 0 ? [`… ${rest} more`] : [])].join(', ')}]`
}

function printBytes({ bytes, names }: NamedBytes): string {
  const shown = Buffer.from(bytes.subarray(0, shownBytes)).toString('hex')
  const rest = bytes.length > shownBytes ? `… ${bytes.length - shownBytes} more bytes` : ''
  const named = names.size > 0 ? ` with ${[...names.values()].join(', ')}` : ''
  return bytes.length === 0 ? 'no bytes' : shown + rest + named
}
