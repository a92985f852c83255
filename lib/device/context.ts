// What the parts of one open device share: the transport, the device's own facts, where it stands, and the order of what is done to it. Not public.

import type { Range } from '../base/ranges.js'
import { vdpaError, type VdpaError, type VdpaErrorCode } from '../base/errors.js'
import type { Fifo } from '../base/fifo.js'
import type { Serial } from '../base/serial.js'
import type { Steps } from '../base/steps.js'
import type { Backend } from '../backend/backend.js'
import type { VhostVdpaTransport } from '../transport/vhost-vdpa.js'
import type { AddressSpace } from './address-space.js'
import type { DeviceState } from './device-state.js'
import type { FeatureSet } from './feature-set.js'
import type { QueueBook } from './queue-book.js'
import type { Vring } from './vring.js'

/** Facts that do not change while the device is open. */
export interface DeviceFacts {
  readonly path: string
  readonly deviceId: number
  /** Virtqueues; undefined where the kernel is older than VHOST_VDPA_GET_VQS_COUNT (5.18). */
  readonly queueCount: number | undefined
  /** The largest ring size of any queue. */
  readonly maxQueueSize: number
  readonly iovaRange: Range
  /** 1 where the kernel does not say. */
  readonly groupCount: number
  readonly addressSpaceCount: number
  readonly pageSize: number
  /** VDUSE: a mapping is told to a program, which answers. */
  readonly isServedByProgram: boolean
}

export interface DeviceContext {
  readonly backend: Backend
  readonly transport: VhostVdpaTransport
  readonly facts: DeviceFacts
  readonly backendFeatures: FeatureSet
  /** Keeps procedures on this device in order. */
  readonly serial: Serial
  /** Where the device stands. */
  readonly state: DeviceState
  /** Procedures that change where the device stands, or its queues, and have not ended: their verbs, in the order they were asked for. */
  readonly changes: Fifo<{ readonly verb: string }>
  /** Whether the parent pins what is mapped; undefined until something was mapped. */
  doesPin: boolean | undefined
  /** The address space of each group, by group. */
  readonly asidOfGroup: Map<number, number>
  /** What was written to the configuration space since the device was reset, by offset: what it was told, whatever it says of itself. */
  readonly writtenConfig: Map<number, number>
  /** Address spaces that were asked for, by number. */
  readonly spaces: Map<number, AddressSpace>
  /** Vrings that were asked for, by index. */
  readonly vrings: Map<number, Vring>
  /** The queues that this process drives. */
  readonly queues: QueueBook
}

export function refusal(context: DeviceContext, code: VdpaErrorCode, text: string, request?: string): VdpaError {
  const { path } = context.facts
  return vdpaError(code, text, request === undefined ? { path } : { path, request })
}

/** Throws ERR_VDPA_CLOSED from close() on. For verbs at the call; what was asked for before close() goes on. */
export function checkOpen(context: DeviceContext): void {
  if (context.state.isEnding) throw refusal(context, 'ERR_VDPA_CLOSED', 'the device is closed')
}

/** The same for questions: a procedure that was asked for before close() may still put them. */
export function checkThere(context: DeviceContext): void {
  const { state, serial } = context
  if (state.isClosed || !serial.isInside) checkOpen(context)
}

/** Whether DRIVER_OK stands, also while the device is suspended. */
export function isRunning(context: DeviceContext): boolean {
  return context.state.hasDriverOk
}

/** The negotiated features. ERR_VDPA_STATE before negotiate() and where only a reset may follow, ERR_VDPA_DEVICE_BROKEN where the device is lost. */
export function checkNegotiated(context: DeviceContext, what: string): FeatureSet {
  const { state } = context
  if (state.isClosed) throw refusal(context, 'ERR_VDPA_CLOSED', 'the device is closed')
  if (state.phase === 'lost') throw lostError(context)
  if (state.features === undefined)
    throw refusal(context, 'ERR_VDPA_STATE', `${what} needs negotiated features: call negotiate() first`)
  return state.features
}

/** Throws ERR_VDPA_STATE where something was done that only a reset takes back. */
export function checkNoResetDue(context: DeviceContext): void {
  const reason = context.state.resetReason
  if (reason !== undefined) throw refusal(context, 'ERR_VDPA_STATE', `${reason}: call reset() first`)
}

/** That the device was taken away, or does not take its reset. */
export function lostError(context: DeviceContext, cause: unknown = context.state.lostBy): VdpaError {
  const code = (context.state.lostBy as { readonly code?: unknown } | undefined)?.code
  return vdpaError('ERR_VDPA_DEVICE_BROKEN', `the device is gone, or answers no more (${String(code)})`, {
    path: context.facts.path,
    hint: 'close it, or try reset()',
    cause,
  })
}

/** Carries a procedure out in the device's order. ERR_VDPA_CLOSED from close() on, which is decided at the call, and where a procedure before it closed the device. */
export async function inOrder<T>(context: DeviceContext, start: () => Steps<T>, signal?: AbortSignal): Promise<T> {
  checkOpen(context)
  return context.serial.run(() => startOpen(context, start), signal)
}

function startOpen<T>(context: DeviceContext, start: () => Steps<T>): Steps<T> {
  if (context.state.isClosed) checkOpen(context)
  return start()
}

/** The same on the calling thread. ERR_VDPA_STATE while an asynchronous procedure is under way. */
export function onTheSpot<T>(context: DeviceContext, start: () => Steps<T>): T {
  checkOpen(context)
  return context.serial.runSync(start)
}

/** inOrder() for what changes where the device stands, or its queues: until it has ended, verbs that cannot wait for it are refused. */
export async function change<T>(
  context: DeviceContext,
  verb: string,
  start: () => Steps<T>,
  signal?: AbortSignal,
): Promise<T> {
  return changeOrEnd(context, verb, () => startOpen(context, start), signal)
}

/** change() for the end of a part of the device, which a procedure before it may have brought with the device's own: `start` is called then as well. */
export async function changeOrEnd<T>(
  context: DeviceContext,
  verb: string,
  start: () => Steps<T>,
  signal?: AbortSignal,
): Promise<T> {
  checkOpen(context)
  const { changes } = context
  const entry = { verb }
  changes.push(entry)
  try {
    return await context.serial.run(start, signal)
  } finally {
    changes.delete(entry)
  }
}

/** For verbs that change rings or groups on the spot: they may not overtake a change of the device that is under way. */
export function checkUnchanging(context: DeviceContext, what: string): void {
  checkOpen(context)
  const verb = context.changes.first?.verb
  if (verb !== undefined)
    throw refusal(context, 'ERR_VDPA_STATE', `${what} may not overtake ${verb}, which is under way: await it`)
}
