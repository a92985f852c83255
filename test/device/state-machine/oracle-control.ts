// The part of the oracle that is about the guest's control queue: who serves it, and what has become of its commands.

import { netAck } from '../../../lib/uapi/virtio-net.js'
import type { Oracle } from './oracle.js'
import type { Judgement, Verb } from './verbs.js'

/** A shadow of the control queue, as the oracle sees it. */
export interface OracleControl {
  /** Whether its queue is the device's still. */
  isOpen: boolean
  /** Ended while the device ran, which has its queue until it is stopped. */
  isDisposed: boolean
}

/** The guest's commands. */
export interface OracleCommands {
  /** What was answered. */
  acks: number[]
  /** What was not. */
  waiting: Judgement[]
  /** Commands may be refused while their queue closes, or be left to who serves it next: how many nobody says. */
  isEnding: boolean
}

const ok = 'ok'
const CLOSED = 'ERR_VDPA_CLOSED'
const STATE = 'ERR_VDPA_STATE'
const { VIRTIO_NET_OK: OK, VIRTIO_NET_ERR: ERR } = netAck
/** The control queue of a device with one pair of queues. */
export const CONTROL = 2

/** A verb of a shadow that was made. */
export type ControlVerb = Extract<Verb, { verb: 'attachControl' | 'detachControl' | 'closeControl' | 'disposeControl' }>

/** The control queue that the device has, by its number. */
export function openControl({ controls }: Oracle): number | undefined {
  const at = controls.findIndex(({ isOpen }) => isOpen)
  return at < 0 ? undefined : at
}

/** What is given to a verb of the device: the last one that the program knows, ended or not. */
export function givenControl(known: number): number | undefined {
  return known === 0 ? undefined : known - 1
}

/** What drives the control queue was given, and nothing where nobody does. */
export function isControlGiven(oracle: Oracle, given: number | undefined): boolean {
  return openControl(oracle) === given
}

/** Another one goes on in its place, with its guest. */
export function replaceControl(oracle: Oracle, before: number | undefined): void {
  const { controls } = oracle
  if (before === undefined) return
  const goesOn = controls[before]?.isOpen === true
  Object.assign(controls[before] as OracleControl, { isOpen: false })
  const isServing = oracle.serving === before
  // What the device had is refused, or asked for again.
  oracle.commands.isEnding = isServing
  if (isServing) oracle.serving = undefined
  if (!goesOn) return
  controls.push({ isOpen: true, isDisposed: false })
  if (isServing) oracle.serving = controls.length - 1
}

/** The device has none of them any more. */
export function endControls({ controls }: Oracle): void {
  for (const control of controls) control.isOpen = false
}

export function onControl(oracle: Oracle, { verb }: ControlVerb, known: number): string {
  const control = oracle.controls[known - 1]
  if (control === undefined) return ok
  const { state, serving, commands } = oracle
  const isServing = serving === known - 1
  const runs = state === 'running' || state === 'suspended'
  switch (verb) {
    case 'attachControl':
      if (!control.isOpen || control.isDisposed) return CLOSED
      if (isServing) return STATE
      oracle.serving = known - 1
      return ok
    case 'detachControl':
      if (isServing) oracle.serving = undefined
      return ok
    case 'closeControl':
      if (control.isOpen && runs) return STATE
      commands.isEnding = isServing
      control.isOpen = false
      if (isServing) oracle.serving = undefined
      return ok
    case 'disposeControl':
      commands.isEnding = isServing && !runs
      control.isDisposed = true
      control.isOpen &&= runs
      if (isServing) oracle.serving = undefined
      return ok
  }
}

/** What becomes of the guest's commands when everything has come to rest. */
export function serve(oracle: Oracle): void {
  const { commands, serving, controls, state } = oracle
  if (serving === undefined) return
  const isOpen = controls[serving]?.isOpen === true
  for (let next = commands.waiting[0]; next !== undefined; next = commands.waiting[0]) {
    const isRefused = !isOpen || next === 'deny' || next === 'throw'
    if (!isRefused && state !== 'running') return
    commands.waiting.shift()
    commands.acks.push(isRefused ? ERR : OK)
  }
}
