// What a program says of a move, a restore or a recovery, looked through before anything is touched. Whose it is, is not asked here.

import { checkArray, checkInteger, checkMethods, checkObject } from '../base/checks.js'
import type { QueueEventfds } from './arrive.js'

/** What the options of all three have in common. */
interface Wish {
  readonly driver?: unknown
  readonly control?: unknown
  readonly shadowControl?: unknown
  readonly shadows?: unknown
  readonly eventfds?: unknown
  readonly timeout?: unknown
}

/** What is asked of each: objects of another copy of this package have it as well. */
const passengers = [
  ['driver', 'a NetDriver or a BlockDriver', ['drives', 'saveSteps']],
  ['control', 'a NetControlQueue', ['drives', 'replay']],
  ['shadowControl', 'a ShadowControlQueue', ['detach', 'like']],
] as const

/** TypeError and RangeError for passengers that are none, by their names. */
export function checkPassengers(wish: Wish): void {
  for (const [name, what, methods] of passengers)
    if (wish[name] !== undefined) checkMethods(wish[name], name, what, methods)
  if (wish.shadows === undefined) return
  checkArray(wish.shadows, 'shadows')
  for (const [at, one] of wish.shadows.entries())
    checkMethods(one, `shadows[${at}]`, 'a ShadowQueue', ['giveBackSteps', 'noteAttached'])
}

/** TypeError and RangeError for a timeout or eventfds that are none, by their names. */
export function checkArrival({ timeout, eventfds }: Wish): void {
  if (timeout !== undefined) checkInteger(timeout, 'timeout', 1, 0x7fff_ffff)
  if (eventfds === undefined) return
  checkArray(eventfds, 'eventfds')
  for (const [at, one] of eventfds.entries()) checkEventfds(one, `eventfds[${at}]`)
}

function checkEventfds(one: unknown, name: string): void {
  checkObject(one, name)
  const { index, kick, call, err } = one as { readonly [K in keyof QueueEventfds]: unknown }
  checkInteger(index, `${name}.index`, 0, 0xffff)
  if (kick !== undefined && kick !== null) checkMethods(kick, `${name}.kick`, 'an Eventfd', ['signal'])
  for (const [place, given] of Object.entries({ call, err })) {
    if (given === undefined || given === null) continue
    if (typeof given === 'number') checkInteger(given, `${name}.${place}`, -1, 0x7fff_ffff)
    else checkMethods(given, `${name}.${place}`, 'an Eventfd, a file descriptor, or null', ['signal'])
  }
}
