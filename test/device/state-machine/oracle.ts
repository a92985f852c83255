// What a device must be after each verb, in a few lines: the model that the real one is held against. It knows nothing of how anything is done.

import type { DeviceStateName } from '../../../lib/device/device-state.js'
import { SHADOWS, type Verb } from './verbs.js'

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
  mapped: new Set(),
  needsReset: false,
  isDoubtful: false,
})

/** What the verb answers where no call is refused, and what it leaves. The program knows the first `known` queues. */
export function carryOut(oracle: Oracle, verb: Verb, known: number): string {
  if ('queue' in verb) return onQueue(oracle, verb.verb, oracle.queues.slice(0, known).at(-1 - verb.queue))
  if ('shadow' in verb) return closeShadow(oracle, verb.verb, verb.shadow)
  if (verb.verb === 'close') return close(oracle)
  if (oracle.state === 'closed') return 'ERR_VDPA_CLOSED'
  switch (verb.verb) {
    case 'map':
      return oracle.mapped.has(verb.slot) ? 'ERR_VDPA_OVERLAP' : (oracle.mapped.add(verb.slot), ok)
    case 'unmap':
      return oracle.mapped.delete(verb.slot) ? ok : 'ERR_VDPA_NOT_MAPPED'
    case 'negotiate':
      return negotiate(oracle, verb.isOffered)
    case 'createQueue':
      return createQueue(oracle, verb.index)
    case 'beginShadows':
      return beginShadows(oracle, verb.shadows)
    case 'endShadows':
      return endShadows(oracle, verb.shadows)
    case 'recover':
      return recover(oracle)
    case 'start':
    case 'suspend':
    case 'resume':
    case 'reset':
      return verb.isAborted ? 'ERR_VDPA_CANCELED' : move(oracle, verb.verb)
  }
}

function close(oracle: Oracle): string {
  oracle.state = 'closed'
  endQueues(oracle)
  oracle.mapped.clear()
  return ok
}

function endQueues({ queues, shadows }: Oracle): void {
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
  const isTaken = isInUse(oracle, index) || shadow?.isShadowing === true
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
function recover(oracle: Oracle): string {
  const { state, queues, needsReset } = oracle
  if (state === 'lost') {
    move(oracle, 'reset')
    return 'ERR_VDPA_DEVICE_BROKEN'
  }
  if ((state !== 'running' && state !== 'suspended') || needsReset) return STATE
  const open = queues.filter((queue) => queue.isOpen).sort((a, b) => a.index - b.index)
  for (const queue of open) queue.isOpen = false
  queues.push(...open.map(({ index }) => ({ index, isOpen: true })))
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
      return [before]
  }
}
