// What a device must be after each verb, in a few lines: the model that the real one is held against. It knows nothing of how anything is done.

import type { DeviceStateName } from '../../../lib/device/device-state.js'
import {
  CONTROL,
  endControls,
  givenControl,
  isControlGiven,
  onControl,
  openControl,
  replaceControl,
  type OracleCommands,
  type ControlVerb,
  type OracleControl,
} from './oracle-control.js'
import { onMove, prepareMove, type MoveVerb, type OracleMove, type OracleTarget } from './oracle-move.js'
import { COMMANDS, SHADOWS, type Judgement, type Verb } from './verbs.js'

/** A queue of the program's, as the oracle sees it. */
export interface OracleQueue {
  readonly index: number
  isOpen: boolean
}

/** A queue of the guest's, as the oracle sees it. */
export interface OracleShadow {
  isShadowing: boolean
  /** Whether the device has the guest's ring, and serves it by itself. */
  isServed: boolean
  isClosed: boolean
}

const ok = 'ok'
const STATE = 'ERR_VDPA_STATE'

export interface Oracle {
  /** Whether the device has all backend features, and not only those that it needs to be suspended. */
  readonly persists: boolean
  state: DeviceStateName
  shadows: OracleShadow[]
  queues: OracleQueue[]
  controls: OracleControl[]
  /** Which of them serves the guest. */
  serving: number | undefined
  commands: OracleCommands
  moves: OracleMove[]
  target: OracleTarget
  /** The device has moved, and the program knows only the one that it moved from. */
  hasMoved: boolean
  mapped: Set<number>
  /** A queue was saved while the device was suspended, or given up where that could not be taken back. */
  needsReset: boolean
  /** Calls were refused since the last reset: how much is left of the device is not to be seen from here, and only what always holds is expected. */
  isDoubtful: boolean
}

export const newOracle = (persists: boolean): Oracle => ({
  persists,
  shadows: Array.from({ length: SHADOWS }, () => ({ isShadowing: false, isServed: false, isClosed: false })),
  state: 'claimed',
  queues: [],
  controls: [],
  serving: undefined,
  commands: { acks: [], waiting: [], isEnding: false },
  moves: [],
  target: 'none',
  hasMoved: false,
  mapped: new Set(),
  needsReset: false,
  isDoubtful: false,
})

/** What the program knows when it calls: how many of each were made. */
export interface OracleKnown {
  readonly queues: number
  readonly controls: number
  readonly moves: number
}

/** What the verb answers where no call is refused, and what it leaves. */
export function carryOut(oracle: Oracle, verb: Verb, known: OracleKnown): string {
  if ('queue' in verb) return onQueue(oracle, verb.verb, oracle.queues.slice(0, known.queues).at(-1 - verb.queue))
  if ('judgement' in verb) return sendCommand(oracle, verb.judgement)
  switch (verb.verb) {
    case 'attachControl':
    case 'detachControl':
    case 'closeControl':
    case 'disposeControl':
      return onControl(oracle, verb, known.controls)
    case 'prepareMove':
      return oracle.target === 'none' ? ok : prepareMove(oracle, known.controls)
    case 'copy':
    case 'finish':
    case 'abandon':
      return onMove(oracle, verb.verb, oracle.moves[known.moves - 1])
    case 'closeShadow':
    case 'disposeShadow':
      return oracle.hasMoved ? ok : closeShadow(oracle, verb.verb, verb.shadow)
    case 'close':
      return oracle.hasMoved ? ok : close(oracle)
    case 'map':
    case 'unmap':
    case 'negotiate':
    case 'createQueue':
    case 'startControl':
    case 'beginShadows':
    case 'endShadows':
    case 'recover':
    case 'start':
    case 'suspend':
    case 'resume':
    case 'reset':
      return oracle.hasMoved || oracle.state === 'closed' ? 'ERR_VDPA_CLOSED' : onDevice(oracle, verb, known)
  }
}

type DeviceVerb = Exclude<
  Verb,
  { queue: number } | { shadow: number } | { judgement: Judgement } | MoveVerb | ControlVerb | { verb: 'close' }
>

function onDevice(oracle: Oracle, verb: DeviceVerb, known: OracleKnown): string {
  switch (verb.verb) {
    case 'map':
      return oracle.mapped.has(verb.slot) ? 'ERR_VDPA_OVERLAP' : (oracle.mapped.add(verb.slot), ok)
    case 'unmap':
      return oracle.mapped.delete(verb.slot) ? ok : 'ERR_VDPA_NOT_MAPPED'
    case 'negotiate':
      return negotiate(oracle, verb.isOffered)
    case 'createQueue':
      return createQueue(oracle, verb.index)
    case 'startControl':
      return startControl(oracle)
    case 'beginShadows':
      return beginShadows(oracle, verb.shadows)
    case 'endShadows':
      return endShadows(oracle, verb.shadows)
    case 'recover':
      return recover(oracle, givenControl(known.controls))
    case 'start':
    case 'suspend':
    case 'resume':
    case 'reset':
      return verb.isAborted ? 'ERR_VDPA_CANCELED' : move(oracle, verb.verb)
  }
}

/** A ring without room is left alone. */
function sendCommand({ commands }: Oracle, judgement: Judgement): string {
  if (commands.waiting.length < COMMANDS) commands.waiting.push(judgement)
  return ok
}

function startControl(oracle: Oracle): string {
  const { length } = oracle.queues
  const answer = createQueue(oracle, CONTROL)
  oracle.queues.length = length
  if (answer === ok) oracle.controls.push({ isOpen: true, isDisposed: false })
  return answer
}

function close(oracle: Oracle): string {
  oracle.state = 'closed'
  endQueues(oracle)
  oracle.mapped.clear()
  return ok
}

function endQueues(oracle: Oracle): void {
  const { queues, shadows } = oracle
  endControls(oracle)
  for (const queue of queues) queue.isOpen = false
  for (const shadow of shadows) Object.assign(shadow, { isShadowing: false, isServed: false })
}

function negotiate(oracle: Oracle, isOffered: boolean): string {
  if (oracle.state === 'lost') return 'ERR_VDPA_DEVICE_BROKEN'
  if (oracle.state !== 'claimed') return STATE
  if (!isOffered) return 'ERR_VDPA_FEATURES'
  oracle.state = 'negotiated'
  return ok
}

function createQueue(oracle: Oracle, index: number): string {
  if (oracle.state === 'lost') return 'ERR_VDPA_DEVICE_BROKEN'
  const shadow = oracle.shadows[index]
  const isTaken =
    isInUse(oracle, index) || shadow?.isShadowing === true || (index === CONTROL && openControl(oracle) !== undefined)
  if (oracle.state !== 'negotiated' || oracle.needsReset || isTaken) return STATE
  if (shadow !== undefined) shadow.isServed = false
  oracle.queues.push({ index, isOpen: true })
  return ok
}

function isInUse({ queues }: Oracle, index: number): boolean {
  return queues.some((queue) => queue.isOpen && queue.index === index)
}

/** All of them, or none. */
function beginShadows(oracle: Oracle, wanted: readonly number[]): string {
  const { state, needsReset, persists } = oracle
  const shadows = wanted.map((index) => ({ index, shadow: oracle.shadows[index] as OracleShadow }))
  if (shadows.some(({ shadow }) => shadow.isClosed)) return 'ERR_VDPA_CLOSED'
  const hasDriverOk = state === 'running' || state === 'suspended'
  if (hasDriverOk && !persists) return 'ERR_VDPA_NOT_SUPPORTED'
  if (state === 'lost') return 'ERR_VDPA_DEVICE_BROKEN'
  if (state === 'claimed' || needsReset) return STATE
  if (shadows.some(({ index, shadow }) => shadow.isShadowing || isInUse(oracle, index))) return STATE
  for (const { shadow } of shadows) Object.assign(shadow, { isShadowing: true, isServed: false })
  return ok
}

/** Those of them that are shadowed are the device's again. */
function endShadows(oracle: Oracle, wanted: readonly number[]): string {
  const { state, persists } = oracle
  const shadows = wanted.map((index) => oracle.shadows[index] as OracleShadow).filter((one) => one.isShadowing)
  const hasDriverOk = state === 'running' || state === 'suspended'
  if (shadows.length > 0 && hasDriverOk && !persists) return 'ERR_VDPA_NOT_SUPPORTED'
  for (const shadow of shadows) Object.assign(shadow, { isShadowing: false, isServed: true })
  return ok
}

function closeShadow({ state, shadows }: Oracle, verb: 'closeShadow' | 'disposeShadow', index: number): string {
  const shadow = shadows[index] as OracleShadow
  const isBusy = shadow.isShadowing && (state === 'running' || state === 'suspended')
  if (isBusy) return verb === 'closeShadow' ? STATE : ok
  Object.assign(shadow, { isShadowing: false, isClosed: true })
  return ok
}

function onQueue(
  oracle: Oracle,
  verb: 'closeQueue' | 'disposeQueue' | 'saveQueue',
  queue: OracleQueue | undefined,
): string {
  if (queue === undefined) return ok
  const { state } = oracle
  if (verb === 'saveQueue') {
    if (state === 'closed' || !queue.isOpen) return 'ERR_VDPA_CLOSED'
    if (state === 'running') return STATE
    if (state === 'suspended') oracle.needsReset = true
    queue.isOpen = false
    return ok
  }
  if (!queue.isOpen) return ok
  if (state === 'running' || state === 'suspended') return verb === 'disposeQueue' ? ok : STATE
  queue.isOpen = false
  return ok
}

function move(oracle: Oracle, verb: 'start' | 'suspend' | 'resume' | 'reset'): string {
  const { state, needsReset } = oracle
  if (verb === 'reset') {
    oracle.state = 'claimed'
    oracle.needsReset = false
    oracle.isDoubtful = false
    endQueues(oracle)
    return ok
  }
  if (state === 'lost') return 'ERR_VDPA_DEVICE_BROKEN'
  const hasDriverOk = state === 'running' || state === 'suspended'
  if (verb === 'start') {
    if (state !== 'negotiated' || needsReset) return STATE
    oracle.state = 'running'
    return ok
  }
  if (!hasDriverOk || (verb === 'resume' && needsReset)) return STATE
  oracle.state = verb === 'suspend' ? 'suspended' : 'running'
  return ok
}

/** All queues go on in new ones. */
function recover(oracle: Oracle, control: number | undefined): string {
  const { state, queues, needsReset } = oracle
  if (state === 'lost') {
    move(oracle, 'reset')
    return 'ERR_VDPA_DEVICE_BROKEN'
  }
  if ((state !== 'running' && state !== 'suspended') || needsReset) return STATE
  if (!isControlGiven(oracle, control)) return STATE
  const open = queues.filter((queue) => queue.isOpen).sort((a, b) => a.index - b.index)
  for (const queue of open) queue.isOpen = false
  queues.push(...open.map(({ index }) => ({ index, isOpen: true })))
  replaceControl(oracle, control)
  oracle.state = 'running'
  return ok
}

/** Where a verb may leave a device that was in `before` when one of its calls was refused. */
export function mayBeAfterRefusal(before: DeviceStateName, { verb }: Verb): readonly DeviceStateName[] {
  switch (verb) {
    case 'negotiate':
    case 'reset':
      return [before, 'claimed', 'lost']
    case 'start':
      return [before, 'claimed', 'lost']
    case 'suspend':
    case 'resume':
    case 'createQueue':
    case 'startControl':
      return [before, 'lost']
    case 'recover':
      return [before, 'running', 'claimed', 'lost']
    case 'beginShadows':
    case 'endShadows':
      return [before, 'claimed', 'lost']
    case 'close':
      return ['closed']
    case 'closeQueue':
    case 'disposeQueue':
    case 'saveQueue':
    case 'map':
    case 'unmap':
    case 'closeShadow':
    case 'disposeShadow':
    case 'attachControl':
    case 'detachControl':
    case 'closeControl':
    case 'disposeControl':
    case 'sendCommand':
    case 'prepareMove':
    case 'copy':
    case 'abandon':
      return [before]
    case 'finish':
      return [before, 'running', 'claimed', 'lost']
  }
}
