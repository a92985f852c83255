// A trace: the calls that crossed the seam, as plain data that means the same in every process, and its text form, JSON lines.
// It neither records (recording-backend.ts) nor replays (replay.ts).

import { checkData, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Call, Op } from './call.js'
import type { Outcome } from './outcome.js'
import { partsOf, type PortableBytes } from './symbols.js'

/** One call and its end. Events stand in the order in which the calls were asked for. */
export type TraceEvent = Call<PortableBytes> & {
  /** The asynchronous form was used. */
  readonly async?: true
  /** The call's bytes after it, where it changed them; the datagram that was received. */
  readonly output?: PortableBytes
  /** Absent while the call is under way. */
  readonly outcome?: Outcome
  /** When it was asked for, in nanoseconds since the recording began; absent where no times were kept. */
  readonly at?: number
  /** Nanoseconds from then to its end; absent where no times were kept, and while it is under way. */
  readonly took?: number
}

/** What was recorded, and from what. */
export interface Trace {
  /** The name of the backend it was recorded from. */
  readonly backend: string
  /** Bytes of a page of the system it was recorded on. */
  readonly pageSize: number
  /** Whatever the one who recorded it wants to say: the kernel's release, the device. */
  readonly about: Readonly<Record<string, string>>
  /** The calls, in the order in which they were asked for. */
  readonly events: readonly TraceEvent[]
}

const format = 'vhost-vdpa-trace'
const version = 1

/** The text of a trace: a line of JSON about it, then one per event. Bigints are written as hexadecimal strings. */
export function formatTrace(trace: Trace): string {
  checkData(trace, 'trace', ['events'])
  const { events, ...rest } = trace
  const lines = [{ format, version, ...rest }, ...events].map((value) =>
    JSON.stringify(value, (_key, field: unknown) => (typeof field === 'bigint' ? `0x${field.toString(16)}` : field)),
  )
  return `${lines.join('\n')}\n`
}

/** Reads the text of a trace, which is checked field by field. Throws ERR_VDPA_TRACE with the line's number. */
export function parseTrace(text: string): Trace {
  if (typeof text !== 'string') throw typeError('text', 'a string', text)
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  const [head = {}, ...events] = lines.map((line, index) => {
    try {
      const value: unknown = JSON.parse(line)
      if (isRecord(value)) return value
    } catch {
      // Said below, with the line's number.
    }
    throw broken(index + 1, 'is not an object in JSON')
  })
  if (head['format'] !== format) throw broken(1, `does not say that its format is ${format}`)
  if (head['version'] !== version)
    throw broken(1, `has version ${String(head['version'])}, and only ${version} is known`)
  const { backend, pageSize, about } = head
  const isHead = typeof backend === 'string' && typeof pageSize === 'number' && isTextRecord(about)
  if (!isHead) throw broken(1, 'lacks backend, pageSize or about')
  return { backend, pageSize, about, events: events.map((value, index) => readEvent(value, index + 2)) }
}

type FieldKind = 'text' | 'name' | 'count' | 'fd' | 'offset' | 'bytes' | 'argument' | 'bits' | 'flag'
type Shape = Readonly<Record<string, FieldKind | `${FieldKind}?`>>

const onHandle = { target: 'name', path: 'text' } as const

/** Which fields the event of a call has, beside those that every event may have. */
const shapes: Readonly<Record<Op, Shape>> = {
  open: { creates: 'name', path: 'text' },
  openFd: { creates: 'name', fd: 'fd', path: 'text?' },
  allocate: { creates: 'name', length: 'count', pageSize: 'count?', name: 'text?' },
  adopt: {
    creates: 'name',
    fd: 'fd',
    length: 'count',
    offset: 'offset?',
    sealed: 'flag?',
    guarded: 'flag?',
    isReadOnly: 'flag?',
  },
  eventfd: { creates: 'name', fd: 'fd?' },
  netlink: { creates: 'name', protocol: 'count' },
  mapDoorbell: { creates: 'name', ...onHandle, offset: 'offset' },
  ioctl: { ...onHandle, request: 'count', argument: 'argument' },
  write: { ...onHandle, bytes: 'bytes' },
  read: { ...onHandle, bytes: 'bytes' },
  writeEach: { ...onHandle, bytes: 'bytes', stride: 'count' },
  pread: { ...onHandle, bytes: 'bytes', offset: 'offset' },
  pwrite: { ...onHandle, bytes: 'bytes', offset: 'offset' },
  signal: { target: 'name', count: 'count' },
  take: { target: 'name' },
  woken: { target: 'name' },
  ring: { target: 'name', bits: 'bits', value: 'count' },
  send: { target: 'name', bytes: 'bytes' },
  receive: { target: 'name' },
  addMembership: { target: 'name', group: 'count' },
  close: { target: 'name', path: 'text?' },
}

const isBytes = (value: unknown): boolean => typeof value === 'string' && partsOf(value) !== undefined

/** What a field of each kind looks like in JSON. */
const checks: Readonly<Record<FieldKind, (value: unknown) => boolean>> = {
  text: (value) => typeof value === 'string',
  name: (value) => typeof value === 'string' && /^[hmend]\d+$/.test(value),
  count: (value) => Number.isSafeInteger(value) && (value as number) >= 0,
  fd: (value) => Number.isSafeInteger(value),
  offset: (value) => typeof value === 'string' && /^0x[0-9a-f]{1,16}$/.test(value),
  bytes: isBytes,
  argument: (value) => Number.isSafeInteger(value) || isBytes(value),
  bits: (value) => value === 16 || value === 32,
  flag: (value) => typeof value === 'boolean',
}

function readEvent(value: Record<string, unknown>, line: number): TraceEvent {
  const { op, async, at, output, outcome, took, ...fields } = value
  if (typeof op !== 'string' || !Object.hasOwn(shapes, op))
    throw broken(line, `has no call that is known: ${String(op)}`)
  const shape = shapes[op as Op]
  for (const [name, kind] of Object.entries(shape)) {
    if (kind.endsWith('?') && fields[name] === undefined) continue
    const plain = kind.replace('?', '') as FieldKind
    if (!checks[plain](fields[name])) throw broken(line, `: ${op} has no ${plain} in '${name}'`)
    if (plain === 'offset') fields[name] = BigInt(fields[name] as string)
  }
  const stranger = Object.keys(fields).find((name) => !Object.hasOwn(shape, name))
  if (stranger !== undefined) throw broken(line, `: ${op} has no '${stranger}'`)
  if (async !== undefined && async !== true) throw broken(line, `has an 'async' that is not true`)
  if (output !== undefined && !isBytes(output)) throw broken(line, `has an 'output' that is not bytes`)
  if (outcome !== undefined && !isOutcome(outcome)) throw broken(line, `has an 'outcome' that is not one`)
  for (const [name, time] of Object.entries({ at, took }))
    if (time !== undefined && !checks.count(time)) throw broken(line, `has no nanoseconds in '${name}'`)
  const ends = { output, outcome, took }
  const known = Object.entries({ async, at, ...ends }).filter(([, field]) => field !== undefined)
  return { op, ...fields, ...Object.fromEntries(known) } as TraceEvent
}

function isOutcome(value: unknown): value is Outcome {
  if (!isRecord(value)) return false
  const { returned, failed, errno, completed, ...rest } = value
  if (Object.keys(rest).length > 0) return false
  if (failed === undefined) return Number.isSafeInteger(returned)
  const counts = [errno, completed].every((count) => count === undefined || Number.isSafeInteger(count))
  return typeof failed === 'string' && returned === undefined && counts
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isTextRecord(value: unknown): value is Record<string, string> {
  return isRecord(value) && Object.values(value).every((text) => typeof text === 'string')
}

function broken(line: number, text: string): Error {
  return vdpaError('ERR_VDPA_TRACE', `line ${line} ${text}`.replace(' :', ':'))
}
