// `trace`: records what a probe of a device asks of the system, shows a trace as lines, replays one on a device or the simulator, and draws one for Perfetto.

import { constants } from 'node:buffer'
import { createReadStream } from 'node:fs'
import { stat, writeFile } from 'node:fs/promises'
import { text as wholeText } from 'node:stream/consumers'
import { fileFailure } from '../backend/file-errors.js'
import { printEvent } from '../backend/print-event.js'
import { RecordingBackend } from '../backend/recording-backend.js'
import { compareTrace } from '../backend/replay.js'
import { formatTrace, parseTrace, type Trace, type TraceEvent } from '../backend/trace.js'
import { perfettoTrace } from '../observe/perfetto.js'
import { traceEventJson } from '../observe/trace-event-json.js'
import { vdpaError } from '../base/errors.js'
import type { Host } from './host.js'
import { nodeOf, probe } from './opened.js'
import type { Report } from './output.js'
import { isSameFile } from './written-files.js'

/** Bytes: one less than fit into a string, so that one more can be seen. */
const LONGEST = constants.MAX_STRING_LENGTH - 1

/** `trace record`: opens the device, which resets it, asks for its groups, and writes each call to a file as JSON lines. */
export async function recordTrace(host: Host, file: string, name: string): Promise<Report> {
  const node = await nodeOf(host, name)
  const recording = new RecordingBackend(host.backend(), { times: true, about: { device: name, host: host.name } })
  await probe(recording, node)
  const { trace } = recording
  await writeFile(file, formatTrace(trace)).catch(fileFailure(file))
  return {
    data: { file, node, calls: trace.events.length },
    lines: [`${file}: ${trace.events.length} calls on ${node}`],
  }
}

/** `trace show`: a line for each call, in the kernel's words. */
export async function showTrace(file: string): Promise<Report> {
  const { backend, about, events } = await read(file)
  return { data: { backend, about, calls: events.map(printEvent) }, lines: events.map(timedLine) }
}

/** When it was asked, where the trace has times, and the call: `+1.204 ms  VHOST_SET_OWNER … = 0  (0.031 ms)`. */
function timedLine(event: TraceEvent): string {
  const { at, took } = event
  if (at === undefined) return printEvent(event)
  return `+${milliseconds(at)} ms  ${printEvent(event)}${took === undefined ? '' : `  (${milliseconds(took)} ms)`}`
}

function milliseconds(nanoseconds: number): string {
  return (nanoseconds / 1e6).toFixed(3)
}

/** How `trace convert` draws. */
export interface ConvertWords {
  /** Packets of Perfetto's own; the default. */
  readonly perfetto?: boolean
  /** JSON in the Trace Event Format. */
  readonly traceEvents?: boolean
}

/** `trace convert`: a trace as a picture of time, for ui.perfetto.dev. */
export async function convertTrace(file: string, output: string, words: ConvertWords): Promise<Report> {
  if (words.perfetto === true && words.traceEvents === true)
    throw new TypeError('--perfetto or --trace-events, not both')
  const trace = await read(file)
  if (await isSameFile(file, output)) throw new TypeError(`${output} is the trace itself, which would be lost`)
  const bytes = words.traceEvents === true ? Buffer.from(traceEventJson(trace)) : perfettoTrace(trace)
  await writeFile(output, bytes).catch(fileFailure(output))
  const hasTimes = trace.events.some(({ at }) => at !== undefined)
  const format = words.traceEvents === true ? 'trace-events' : 'perfetto'
  const without = hasTimes ? [] : ['the trace has no times: calls are drawn a microsecond apart']
  return {
    data: { file, output, format, calls: trace.events.length, bytes: bytes.length, hasTimes },
    lines: [`${output}: ${trace.events.length} calls; open it in https://ui.perfetto.dev`, ...without],
  }
}

/** `trace replay`: asks the same of another device, and shows the first difference. Exit code 1 where there is one. */
export async function replayTrace(host: Host, file: string, name: string): Promise<Report> {
  const trace = await read(file)
  const node = await nodeOf(host, name)
  const opened = trace.events.find((event) => event.op === 'open')
  const paths = opened === undefined ? {} : { [opened.path]: node }
  const { calls, difference } = await compareTrace(trace, host.backend(), { paths })
  if (difference === undefined)
    return { data: { file, node, calls }, lines: [`${node} answers all ${calls} calls as in ${file}`] }
  const { index, expected, came, text } = difference
  return {
    data: { file, node, calls, difference: { index, expected, came, text } },
    lines: text.split('\n'),
    exitCode: 1,
  }
}

/** No more of a file than one string can hold; what says nothing of its size, such as a device, may have no end. */
async function read(file: string): Promise<Trace> {
  const tooLong = vdpaError('ERR_VDPA_TRACE', `it is longer than ${LONGEST} bytes`, { path: file })
  const { size = 0 } = await stat(file).catch((): { size?: number } => ({}))
  if (size > LONGEST) throw tooLong
  const stream = createReadStream(file, { encoding: 'utf8', end: LONGEST })
  const said = await wholeText(stream).catch(fileFailure(file))
  if (stream.bytesRead > LONGEST) throw tooLong
  return parseTrace(said)
}
