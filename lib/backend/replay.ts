// Runs the calls of a trace against another backend and says where its answers differ first. It knows which differences it was told to
// tolerate, and judges nothing else.

import { checkData, checkObject } from '../base/checks.js'
import { checkBackend } from './check-backend.js'
import { vdpaError } from '../base/errors.js'
import type { Backend } from './backend.js'
import type { Op } from './call.js'
import type { Outcome } from './outcome.js'
import { printCall, printOutcome, printOutput, requestNameIn } from './print-event.js'
import { Stage, type Answer } from './replay-stage.js'
import { sliceOf, type PortableBytes } from './symbols.js'
import type { Trace, TraceEvent } from './trace.js'

/** A difference that is known and allowed, and where. What is left out matches anything. */
export interface ToleratedDifference {
  /** What this is, in a few words or as the name of a deviation. */
  readonly name: string
  /** The call: `'ioctl'`, `'open'` … */
  readonly op?: Op
  /** The kernel's name of the request or of the IOTLB message. */
  readonly request?: string
  /** The node, by its path in the trace. */
  readonly path?: string
  /** The place in the trace, counted from 0. */
  readonly index?: number
  /** How the call ended in the trace, as `printOutcome` says it: `'EINVAL'`, `'0'`. */
  readonly expected?: string
  /** How it ended now. */
  readonly came?: string
}

/** What a replay may be told. */
export interface ReplayOptions {
  /** Where a path of the trace lies on this backend. */
  readonly paths?: Readonly<Record<string, string>>
  /** Differences that do not end the replay. The first rule that matches counts. Default: none. */
  readonly tolerate?: readonly ToleratedDifference[]
  /** Called before a counter is read (`take`, `woken`): lets a simulator with `scheduler: 'manual'` do its work. */
  readonly settle?: () => void | Promise<void>
}

/** A call of the trace that this backend answered otherwise. */
export interface TraceDifference {
  /** Its place in the trace, counted from 0. */
  readonly index: number
  /** The call as it was recorded, with its end then. */
  readonly event: TraceEvent
  /** The end in the trace, as a person reads it: `0`, `EINVAL`, `EFAULT after 3 records`. */
  readonly expected: string
  /** The end now, in the same words. */
  readonly came: string
  /** All of it, in lines. */
  readonly text: string
}

/** How a replay went. */
export interface ReplayReport {
  /** Calls that were made. */
  readonly calls: number
  /** The first difference that is not tolerated, after which nothing more was asked; undefined when there is none. */
  readonly difference: TraceDifference | undefined
  /** Differences that were tolerated, each with the name that allowed it. */
  readonly tolerated: readonly (TraceDifference & { readonly name: string })[]
  /** Names that allowed nothing: what they speak of is not in this trace, or no longer different. */
  readonly unused: readonly string[]
}

/**
 * Replays a trace and throws ERR_VDPA_TRACE at the first difference that is not tolerated; its sentence shows the call, what the trace expected and
 * what came, and its `cause` is the `TraceDifference`. Resolves with a report otherwise.
 *
 * Calls are made one after another: an asynchronous one is awaited before the next. A writeEach that was canceled is replayed with the records
 * that it came to. `openFd` and `adopt` open the path, or make memory, of this backend. Objects that the trace left open are closed at the end.
 */
export async function replay(trace: Trace, backend: Backend, options: ReplayOptions = {}): Promise<ReplayReport> {
  const report = await compareTrace(trace, backend, options)
  if (report.difference === undefined) return report
  throw vdpaError('ERR_VDPA_TRACE', report.difference.text, { cause: report.difference })
}

/** The same, but a difference is part of the report. */
export async function compareTrace(trace: Trace, backend: Backend, options: ReplayOptions = {}): Promise<ReplayReport> {
  checkData(trace, 'trace', ['events'])
  checkBackend(backend, 'backend')
  checkObject(options, 'options')
  const stage = new Stage(backend, options)
  let report: ReplayReport
  try {
    report = await run(trace, stage, options.tolerate ?? [])
  } catch (error) {
    await stage.close().catch(() => undefined)
    throw error
  }
  // A backend that answers otherwise may also close otherwise; the first difference is what to look at.
  if (report.difference === undefined) await stage.close()
  else await stage.close().catch(() => undefined)
  return report
}

async function run(trace: Trace, stage: Stage, rules: readonly ToleratedDifference[]): Promise<ReplayReport> {
  const tolerated: (TraceDifference & { name: string })[] = []
  let calls = 0
  for (const [index, recorded] of trace.events.entries()) {
    const event = replayable(recorded)
    if (event === undefined) continue
    calls++
    const difference = differenceOf(index, event, await stage.perform(event))
    if (difference === undefined) continue
    const rule = rules.find((candidate) => allows(candidate, difference))
    // What comes after it might have used the other rules.
    if (rule === undefined) return { calls, difference, tolerated, unused: [] }
    tolerated.push({ ...difference, name: rule.name })
  }
  const used = new Set(tolerated.map(({ name }) => name))
  const unused = new Set(rules.map(({ name }) => name).filter((name) => !used.has(name)))
  return { calls, difference: undefined, tolerated, unused: [...unused] }
}

/** An event whose end is known. */
type EndedEvent = TraceEvent & { readonly outcome: Outcome }

/**
 * The call to make in place of a recorded one: itself, or the records that a canceled writeEach came to. Undefined where the end hung on what no
 * trace holds: a call that never ended, or memory that the program held.
 */
function replayable(event: TraceEvent): EndedEvent | undefined {
  const { outcome } = event
  if (outcome === undefined) return undefined
  const refused = 'failed' in outcome ? outcome : undefined
  if (refused?.failed === 'ERR_VDPA_MEMORY_HELD') return undefined
  if (refused?.failed !== 'ERR_VDPA_CANCELED') return { ...event, outcome }
  const { completed = 0 } = refused
  if (event.op !== 'writeEach' || completed === 0) return undefined
  return { ...event, bytes: sliceOf(event.bytes, completed * event.stride), outcome: { returned: completed } }
}

function differenceOf(index: number, event: EndedEvent, answer: Answer): TraceDifference | undefined {
  const [expected, came] = [printOutcome(event, event.outcome), printOutcome(event, answer.outcome)]
  const input = inputOf(event)
  const [left, leftNow] = [event.output ?? input, answer.output ?? input]
  if (expected === came && left === leftNow) return undefined
  const lines = [
    `call ${index} was answered otherwise: ${printCall(event)}`,
    `  expected ${expected}${aside(event, left, input)}`,
    `  came     ${came}${aside(event, leftNow, input)}`,
    ...(answer.sentence === undefined ? [] : [`  (${answer.sentence})`]),
  ]
  return { index, event, expected, came, text: lines.join('\n') }
}

function inputOf(event: TraceEvent): PortableBytes | undefined {
  if ('bytes' in event) return event.bytes
  return event.op === 'ioctl' && typeof event.argument === 'string' ? event.argument : undefined
}

/** What a call left in its bytes, where that is worth saying. */
function aside(event: TraceEvent, left: PortableBytes | undefined, input: PortableBytes | undefined): string {
  return left === input ? '' : `, leaving ${printOutput(event, left) ?? 'no bytes'}`
}

function allows(rule: ToleratedDifference, { event, index, expected, came }: TraceDifference): boolean {
  const path = 'path' in event ? event.path : undefined
  return (
    matches(rule.op, event.op) &&
    matches(rule.request, requestNameIn(event)) &&
    matches(rule.path, path) &&
    matches(rule.index, index) &&
    matches(rule.expected, expected) &&
    matches(rule.came, came)
  )
}

function matches<T>(wanted: T | undefined, value: T | undefined): boolean {
  return wanted === undefined || wanted === value
}
