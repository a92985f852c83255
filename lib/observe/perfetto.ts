// A timeline as a Perfetto trace: TrackEvent packets in protobuf, which ui.perfetto.dev and trace_processor open. Field numbers are those of
// perfetto's protos/perfetto/trace, whose names stand beside them.

import type { Trace } from '../backend/trace.js'
import { bytesOfFields, fixed64, message, text, varint, type Field } from './protobuf.js'
import { timelineOf, type TimelineSlice, type TimelineTrack } from './timeline.js'

const TRACE = { packet: 1 } as const
const PACKET = { timestamp: 8, trustedPacketSequenceId: 10, trackEvent: 11, trackDescriptor: 60 } as const
const DESCRIPTOR = { uuid: 1, name: 2, process: 3, parentUuid: 5 } as const
const PROCESS = { pid: 1, processName: 6 } as const
const EVENT = {
  debugAnnotations: 4,
  type: 9,
  trackUuid: 11,
  categories: 22,
  name: 23,
  flowIds: 47,
  terminatingFlowIds: 48,
} as const
const ANNOTATION = { stringValue: 6, name: 10 } as const
const TYPE = { sliceBegin: 1, sliceEnd: 2, instant: 3 } as const

/** The number of the one sequence that we write; any but 0. */
const SEQUENCE = 1
/** The uuid of the track of all; those of the others follow it. */
const WHOLE = 1

interface Timed {
  readonly at: number
  readonly field: Field
}

/**
 * The bytes of a Perfetto trace (`.pftrace`): a track for each descriptor and each queue, requests as slices, flows from kicks to calls and from misses to updates.
 * A trace without times is drawn in the order of asking, a microsecond apart. Since 0.1.0.
 */
export function perfettoTrace(trace: Trace): Uint8Array {
  const { name, tracks, slices } = timelineOf(trace)
  const whole = message(DESCRIPTOR.process, varint(PROCESS.pid, 1), text(PROCESS.processName, name))
  const descriptors = [descriptor(WHOLE, name, whole), ...tracks.map(trackDescriptor)]
  const events = slices.flatMap(sliceEvents)
  // A stable order: what ends at a moment stands before what begins then on the same track, as it was asked for.
  events.sort((one, other) => one.at - other.at)
  return bytesOfFields([...descriptors, ...events.map(({ field }) => field)])
}

function uuidOf(track: number): number {
  return WHOLE + track
}

function trackDescriptor({ id, name, parent }: TimelineTrack): Field {
  return descriptor(uuidOf(id), name, varint(DESCRIPTOR.parentUuid, parent === undefined ? WHOLE : uuidOf(parent)))
}

function descriptor(uuid: number, name: string, rest: Field): Field {
  return packet(message(PACKET.trackDescriptor, varint(DESCRIPTOR.uuid, uuid), text(DESCRIPTOR.name, name), rest))
}

function sliceEvents(slice: TimelineSlice): Timed[] {
  const track = varint(EVENT.trackUuid, uuidOf(slice.track))
  const about = [
    varint(EVENT.type, slice.isInstant ? TYPE.instant : TYPE.sliceBegin),
    track,
    text(EVENT.categories, slice.category),
    text(EVENT.name, slice.name),
    ...slice.flows.map((flow) => fixed64(EVENT.flowIds, flow)),
    ...slice.endingFlows.map((flow) => fixed64(EVENT.terminatingFlowIds, flow)),
    ...Object.entries(slice.words).map(([key, value]) =>
      message(EVENT.debugAnnotations, text(ANNOTATION.name, key), text(ANNOTATION.stringValue, value)),
    ),
  ]
  const begin = timed(slice.begin, about)
  if (slice.isInstant || slice.end === undefined) return [begin]
  return [begin, timed(slice.end, [varint(EVENT.type, TYPE.sliceEnd), track])]
}

function timed(at: number, fields: readonly Field[]): Timed {
  return { at, field: packet(varint(PACKET.timestamp, at), message(PACKET.trackEvent, ...fields)) }
}

function packet(...fields: readonly Field[]): Field {
  return message(TRACE.packet, varint(PACKET.trustedPacketSequenceId, SEQUENCE), ...fields)
}
