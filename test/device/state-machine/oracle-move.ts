// The part of the oracle that is about a move of the device to another one.

import { givenControl, isControlGiven, replaceControl } from './oracle-control.js'
import type { Oracle } from './oracle.js'
import type { Verb } from './verbs.js'

/** A move, as the oracle sees it. */
export interface OracleMove {
  /** The shadow of the control queue that was given to it, by its number. */
  readonly control: number | undefined
  isEnding: boolean
}

/** The device that it goes to. */
export type OracleTarget = 'none' | 'new' | 'used' | 'closed'

export type MoveVerb = Extract<Verb, { verb: 'prepareMove' | 'copy' | 'finish' | 'abandon' }>

const ok = 'ok'
const STATE = 'ERR_VDPA_STATE'

export function prepareMove(oracle: Oracle, known: number): string {
  const { state, target, queues } = oracle
  if (state === 'closed' || oracle.hasMoved) return 'ERR_VDPA_CLOSED'
  const control = givenControl(known)
  if (state !== 'running' || !isControlGiven(oracle, control) || queues.some(({ isOpen }) => isOpen)) return STATE
  if (target === 'closed') return 'ERR_VDPA_CLOSED'
  if (target !== 'new') return STATE
  oracle.target = 'used'
  oracle.moves.push({ control, isEnding: false })
  return ok
}

export function onMove(oracle: Oracle, verb: 'copy' | 'finish' | 'abandon', move: OracleMove | undefined): string {
  if (move === undefined) return ok
  if (verb === 'copy') return move.isEnding ? STATE : ok
  if (verb === 'finish') return move.isEnding ? STATE : finish(oracle, move)
  if (!move.isEnding) oracle.target = 'closed'
  move.isEnding = true
  return ok
}

function finish(oracle: Oracle, move: OracleMove): string {
  const { state, queues, shadows } = oracle
  move.isEnding = true
  oracle.target = 'closed'
  if (state === 'closed') return 'ERR_VDPA_CLOSED'
  if (state !== 'running' || !isControlGiven(oracle, move.control) || queues.some(({ isOpen }) => isOpen)) return STATE
  replaceControl(oracle, move.control)
  for (const shadow of shadows)
    Object.assign(shadow, { isShadowing: false, isServed: shadow.isServed || shadow.isShadowing, isClosed: false })
  oracle.hasMoved = true
  return ok
}
