// Which calls are meant by a planted fault, and whether it is their turn. Counting and matching; what then happens is faulty-backend.ts.

import { checkFunction, checkInteger, checkOneOf, rangeError } from '../base/checks.js'
import { requests } from '../uapi/vhost.js'
import { iotlbMessageTypes } from '../uapi/vhost-types.js'
import { pathOf, type ShownCall } from './call.js'
import { requestNameOf } from './local-fields.js'

/** Verbs that a fault can be planted in: what can be refused. */
export const faultyOps = [
  'open',
  'openFd',
  'allocate',
  'adopt',
  'eventfd',
  'netlink',
  'mapDoorbell',
  'ioctl',
  'write',
  'writeEach',
  'read',
  'pread',
  'pwrite',
  'signal',
  'take',
  'send',
  'receive',
  'addMembership',
  'listen',
  'connect',
  'accept',
  'socketPair',
  'socketOf',
  'streamOf',
  'sendmsg',
  'recvmsg',
  'streamWrite',
  'streamRead',
  'close',
] as const satisfies readonly ShownCall['op'][]

/** A verb that a fault can be planted in. */
export type FaultyOp = (typeof faultyOps)[number]

/**
 * Which calls are meant: those that all given parts match. Each record of a writeEach counts as a call of its own. Without any part, every call is meant.
 */
export interface CallMatch {
  /** The call: `'ioctl'`, `'write'`, `'writeEach'`, `'open'` … Synchronous and asynchronous forms are the same call. Default: any. */
  readonly op?: FaultyOp
  /** The kernel's name of an ioctl (`'VHOST_VDPA_SUSPEND'`) or of an IOTLB message that is written (`'VHOST_IOTLB_UPDATE'`). */
  readonly request?: string
  /** The node's path, or that of a socket. */
  readonly path?: string
  /** Whatever else there is to ask; `call.bytes` or `call.argument` are the caller's own, and one record for a writeEach. */
  readonly when?: (call: ShownCall) => boolean
  /** The first meant call that is hit, counted from 1. Default 1. */
  readonly nth?: number
  /** How many are hit from then on; Infinity for all. Default 1. */
  readonly times?: number
}

/** Counts the calls that a fault means, and knows whose turn it is. */
export class Turn {
  readonly #match: CallMatch
  readonly #first: number
  readonly #last: number
  #met = 0
  #hits = 0

  constructor(match: CallMatch) {
    const { op, request, path, when, nth = 1, times = 1 } = match
    if (op !== undefined) checkOneOf(op, 'op', faultyOps)
    if (request !== undefined && !Object.hasOwn(requests, request) && !Object.hasOwn(iotlbMessageTypes, request)) {
      throw rangeError('request', 'the name of a request or of an IOTLB message', request)
    }
    if (when !== undefined) checkFunction(when, 'when')
    if (path !== undefined && typeof path !== 'string') throw rangeError('path', 'a string', path)
    checkInteger(nth, 'nth', 1, Number.MAX_SAFE_INTEGER)
    if (times !== Infinity) checkInteger(times, 'times', 1, Number.MAX_SAFE_INTEGER)
    this.#match = { ...match }
    this.#first = nth
    this.#last = nth + times - 1
  }

  /** Calls that were hit so far. */
  get hits(): number {
    return this.#hits
  }

  /** Whether this call is hit. Counts it, if it is meant. */
  meets(call: ShownCall): boolean {
    const { op, request, path, when } = this.#match
    if (!(faultyOps as readonly ShownCall['op'][]).includes(call.op)) return false
    if (op !== undefined && op !== call.op) return false
    if (request !== undefined && request !== requestNameOf(call)) return false
    if (path !== undefined && path !== pathOf(call)) return false
    if (when !== undefined && !when(call)) return false
    this.#met++
    const isHit = this.#met >= this.#first && this.#met <= this.#last
    if (isHit) this.#hits++
    return isHit
  }
}
