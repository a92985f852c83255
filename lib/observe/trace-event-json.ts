// A timeline as JSON in the Trace Event Format, which Perfetto, Chrome's tracing page and speedscope read: the fallback where no protobuf is wanted.

import type { Trace } from '../backend/trace.js'
import { timelineOf, type TimelineSlice, type TimelineTrack } from './timeline.js'

const PID = 1

/**
 * The same picture as `perfettoTrace()`, as one JSON document. Tracks are threads of one process, so that none lies below another; times are microseconds.
 * Since 0.1.0.
 */
export function traceEventJson(trace: Trace): string {
  const { name, tracks, slices } = timelineOf(trace)
  const process = { ph: 'M', pid: PID, tid: 0, name: 'process_name', args: { name } }
  const events = [process, ...tracks.flatMap(threadEvents), ...slices.flatMap(sliceEvents)]
  return `${JSON.stringify({ displayTimeUnit: 'ns', traceEvents: events })}\n`
}

function threadEvents({ id, name }: TimelineTrack): readonly object[] {
  const on = { ph: 'M', pid: PID, tid: id }
  return [
    { ...on, name: 'thread_name', args: { name } },
    { ...on, name: 'thread_sort_index', args: { sort_index: id } },
  ]
}

function sliceEvents(slice: TimelineSlice): readonly object[] {
  const ts = slice.begin / 1000
  const on = { pid: PID, tid: slice.track, ts }
  const about = { ...on, name: slice.name, cat: slice.category, args: slice.words }
  const length = slice.end === undefined ? undefined : (slice.end - slice.begin) / 1000
  const itself = length === undefined ? { ...about, ph: 'B' } : { ...about, ph: 'X', dur: length }
  // A flow's arrow is bound to the slice around it.
  const flow = { ...on, name: 'flow', cat: 'flow', bp: 'e' }
  return [
    itself,
    ...slice.flows.map((id) => ({ ...flow, ph: 's', id })),
    ...slice.endingFlows.map((id) => ({ ...flow, ph: 'f', id })),
  ]
}
