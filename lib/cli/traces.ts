// `trace`: records what a probe of a device asks of the system, shows a trace as lines, and replays one on a device or the simulator.

import { readFile, writeFile } from 'node:fs/promises'
import { fileFailure } from '../backend/file-errors.js'
import { printEvent } from '../backend/print-event.js'
import { RecordingBackend } from '../backend/recording-backend.js'
import { compareTrace } from '../backend/replay.js'
import { formatTrace, parseTrace, type Trace } from '../backend/trace.js'
import type { Host } from './host.js'
import { nodeOf, probe } from './opened.js'
import type { Report } from './output.js'

/** `trace record`: opens the device, which resets it, asks for its groups, and writes each call to a file as JSON lines. */
export async function recordTrace(host: Host, file: string, name: string): Promise<Report> {
  const node = await nodeOf(host, name)
  const recording = new RecordingBackend(host.backend(), { about: { device: name, host: host.name } })
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
  return { data: { backend, about, calls: events.map(printEvent) }, lines: events.map(printEvent) }
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
  return { data: { file, node, calls, difference: { index, expected, came, text } }, lines: [text], exitCode: 1 }
}

async function read(file: string): Promise<Trace> {
  return parseTrace(await readFile(file, 'utf8').catch(fileFailure(file)))
}
