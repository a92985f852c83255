// A trace as a picture of time: tracks, slices on them, and flows between them, as plain data. What a file of it looks like is for perfetto.ts and
// trace-event-json.ts.

import { checkData, checkObject } from '../base/checks.js'
import { printEvent, printOutcome, requestNameIn } from '../backend/print-event.js'
import { recordsOf } from '../backend/local-fields.js'
import { readPortable } from '../backend/symbols.js'
import type { Trace, TraceEvent } from '../backend/trace.js'
import { Flows } from './flows.js'
import { Lanes } from './lanes.js'
import { iotlbRecord } from './iotlb-record.js'
import { QueueRoles, queueOf, type QueueKey } from './queue-roles.js'

/** A line of the picture: everything on it belongs to one descriptor, or to one virtqueue. */
export interface TimelineTrack {
  /** From 1. */
  readonly id: number
  /** `h0 /dev/vhost-vdpa-0`, `queue 1 of h0`, `e2 kick of queue 1`. */
  readonly name: string
  /** The track that it belongs under. */
  readonly parent?: number
}

/** A call, or, where `isInstant`, a moment of a queue: its kick, its call. Times are nanoseconds since the recording began. */
export interface TimelineSlice {
  /** The id of its track. Slices of one track never overlap. */
  readonly track: number
  /** The kernel's name of the request or message, else the operation. */
  readonly name: string
  /** `request`, `message`, `notification` or `object`. */
  readonly category: 'request' | 'message' | 'notification' | 'object'
  /** When it began. */
  readonly begin: number
  /** When it ended; undefined for a call that was under way when the recording ended. */
  readonly end: number | undefined
  /** A moment that has no length. */
  readonly isInstant: boolean
  /** The call in the kernel's words, its end, the place in the trace. */
  readonly words: Readonly<Record<string, string>>
  /** Flows that start or go on here. */
  readonly flows: readonly number[]
  /** Flows that end here. */
  readonly endingFlows: readonly number[]
}

/** A trace as it is drawn. */
export interface Timeline {
  /** The name of the backend it was recorded from, and what was said about it. */
  readonly name: string
  /** False for a trace without times: its calls stand a microsecond apart, in the order of asking. */
  readonly hasTimes: boolean
  /** A parent comes before its children. */
  readonly tracks: readonly TimelineTrack[]
  /** In the order in which the calls were asked for. */
  readonly slices: readonly TimelineSlice[]
}

/** Nanoseconds between calls of a trace without times. */
const STEP = 1000

/**
 * Draws a trace: a track for each descriptor and each queue, the calls as slices on them, a flow from the kick of a queue to its next call, and from a miss to the
 * update that answers it. Calls of one descriptor that were under way together lie on tracks below it. Since 0.1.0.
 */
export function timelineOf(trace: Trace): Timeline {
  checkData(trace, 'trace', ['events'])
  checkObject(trace.about, 'trace.about')
  const drawing = new Drawing()
  trace.events.forEach((event, index) => drawing.draw(event, index))
  const about = Object.entries(trace.about).map(([key, value]) => `${key} ${value}`)
  return {
    name: [trace.backend, ...about].join(', '),
    hasTimes: trace.events.some(({ at }) => at !== undefined),
    tracks: drawing.lanes.tracks(),
    slices: drawing.slices,
  }
}

interface Span {
  readonly begin: number
  readonly end: number | undefined
}

class Drawing {
  readonly lanes = new Lanes()
  readonly slices: TimelineSlice[] = []
  readonly #roles = new QueueRoles()
  readonly #flows = new Flows()

  draw(event: TraceEvent, index: number): void {
    const span = spanOf(event, index)
    const object = 'creates' in event ? event.creates : event.target
    this.lanes.name(object, objectName(event, object))
    const queue = queueOf(event)
    const lane = queue === undefined ? this.lanes.of(object, span) : this.lanes.of(this.#queueLane(queue), span)
    this.slices.push({
      track: lane,
      name: sliceName(event),
      category: categoryOf(event),
      ...span,
      isInstant: false,
      words: wordsOf(event, index),
      ...this.#missFlows(event),
    })
    for (const [role, named] of this.#roles.learn(event)) this.lanes.name(named, `${named} ${role}`)
    this.#moments(event, span)
  }

  #queueLane({ handle, queue }: QueueKey): string {
    const key = `${handle}:${queue}`
    this.lanes.name(key, `queue ${queue} of ${handle}`, handle)
    return key
  }

  #missFlows(event: TraceEvent): Pick<TimelineSlice, 'flows' | 'endingFlows'> {
    if (event.op === 'read' && event.output !== undefined) {
      const record = iotlbRecord(readPortable(event.output).bytes)
      if (record?.name !== 'VHOST_IOTLB_MISS') return { flows: [], endingFlows: [] }
      return { flows: [this.#flows.missed(event.target, record.iova)], endingFlows: [] }
    }
    const updates = takenRecords(event).filter(({ name }) => name === 'VHOST_IOTLB_UPDATE')
    const target = 'target' in event ? event.target : ''
    return { flows: [], endingFlows: updates.flatMap(({ iova, size }) => this.#flows.updated(target, iova, size)) }
  }

  /** The kick or call of a queue that an event on its eventfd, or on a doorbell, is. */
  #moments(event: TraceEvent, { begin }: Span): void {
    if (event.outcome === undefined || 'failed' in event.outcome) return
    for (const { kind, queue } of this.#roles.momentsOf(event)) {
      const key = this.#queueLane(queue)
      const flow = kind === 'kick' ? this.#flows.kicked(key) : this.#flows.called(key)
      this.slices.push({
        track: this.lanes.root(key),
        name: kind,
        category: 'notification',
        begin,
        end: begin,
        isInstant: true,
        words: { by: event.op === 'ring' ? 'doorbell' : 'target' in event ? event.target : '' },
        flows: kind === 'kick' && flow !== undefined ? [flow] : [],
        endingFlows: kind === 'call' && flow !== undefined ? [flow] : [],
      })
    }
  }
}

function spanOf({ at, took, outcome }: TraceEvent, index: number): Span {
  const begin = at ?? index * STEP
  if (outcome === undefined) return { begin, end: undefined }
  return { begin, end: begin + (took ?? (at === undefined ? STEP : 0)) }
}

function objectName(event: TraceEvent, object: string): string {
  const path = 'path' in event ? event.path : undefined
  if (path !== undefined && event.op !== 'mapDoorbell') return `${object} ${path}`
  const kinds: Readonly<Record<string, string>> = { h: 'node', m: 'memory', e: 'eventfd', n: 'netlink', d: 'doorbell' }
  return `${object} ${kinds[object.charAt(0)] ?? ''}`.trimEnd()
}

/** The records of a write that the device took. */
function takenRecords(event: TraceEvent): readonly NonNullable<ReturnType<typeof iotlbRecord>>[] {
  if (event.op !== 'write' && event.op !== 'writeEach') return []
  const { bytes } = readPortable(event.bytes)
  const records = event.op === 'writeEach' ? recordsOf(bytes, event.stride) : [bytes]
  const { outcome } = event
  const refusedAt = event.op === 'write' ? 0 : ((outcome && 'failed' in outcome ? outcome.completed : undefined) ?? 0)
  const isRefused = outcome === undefined || 'failed' in outcome
  return records.slice(0, isRefused ? refusedAt : records.length).flatMap((record) => iotlbRecord(record) ?? [])
}

function sliceName(event: TraceEvent): string {
  if (event.op === 'read') return iotlbRecord(readPortable(event.output ?? '').bytes)?.name ?? event.op
  if (event.op !== 'writeEach') return requestNameIn(event) ?? event.op
  const { bytes } = readPortable(event.bytes)
  const names = recordsOf(bytes, event.stride).map((record) => iotlbRecord(record)?.name ?? 'write')
  const counted = new Map<string, number>()
  // The two messages around a batch say nothing of what is in it.
  for (const name of names.filter((one) => !one.startsWith('VHOST_IOTLB_BATCH')))
    counted.set(name, (counted.get(name) ?? 0) + 1)
  const words = [...counted].map(([name, count]) => (count === 1 ? name : `${name} × ${count}`))
  return words.length === 0 ? (names[0] ?? event.op) : words.join(', ')
}

function categoryOf({ op }: TraceEvent): TimelineSlice['category'] {
  if (op === 'ioctl' || op === 'pread' || op === 'pwrite') return 'request'
  if (op === 'write' || op === 'writeEach' || op === 'read' || op === 'send' || op === 'receive') return 'message'
  return op === 'signal' || op === 'take' || op === 'woken' || op === 'ring' ? 'notification' : 'object'
}

function wordsOf(event: TraceEvent, index: number): Record<string, string> {
  const end = event.outcome === undefined ? 'under way' : printOutcome(event, event.outcome)
  return { call: printEvent(event), end, index: String(index) }
}
