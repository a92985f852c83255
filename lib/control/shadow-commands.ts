// What becomes of one command of a guest: it is checked, judged by the program's policy, sent to the device or answered here. The guest's ring is not known here.

import { onAbort } from '../base/abort-listeners.js'
import { callUnasked } from '../base/program-calls.js'
import { netAck } from '../uapi/virtio-net.js'
import {
  netCommandOf,
  netCommands,
  netFeatureBit,
  netGuestOffloads,
  type NetCommand,
  type NetCommandName,
} from '../uapi/virtio-net-commands.js'
import type { MacTable } from '../uapi/virtio-net-payloads.js'
import { bit } from '../base/bits.js'
import type { CheckedCommand, StateCommand } from './control-state.js'
import type { TakenCommand } from './guest-ring.js'
import type { NetControlQueue } from './net-control-queue.js'
import { answerRoom } from './net-limits.js'
import { ShadowFilters } from './shadow-filters.js'
import { askPolicy, type AuditEvent, type ControlPolicy, type GuestCommand } from './shadow-policy.js'

/** What the commands are carried out with. */
export interface ShadowCommandOptions {
  /** Milliseconds. */
  readonly timeout: number
  readonly macTableEntries: number
  readonly policy: ControlPolicy | undefined
  readonly onAudit: ((event: AuditEvent) => void) | undefined
}

/** What the guest gets, and what the program is told when it has. */
export interface CarriedOut {
  /** The acknowledgement, and the answer behind it. */
  readonly answer: Uint8Array
  readonly event: AuditEvent
}

const HEAD_BYTES = 2
const TIMEOUT_LAST = 0x7fff_ffff
const { VIRTIO_NET_OK: OK, VIRTIO_NET_ERR: ERR } = netAck
const nothing = new Uint8Array(0)

type Entry = NetCommand<unknown, unknown>
interface Answered {
  readonly ack: number
  readonly answer: Uint8Array
  readonly outcome: AuditEvent['outcome']
  readonly reason?: string
}

const refused = (reason: string): Answered => ({ ack: ERR, answer: nothing, outcome: 'refused', reason })

/** How a command goes to the device. */
interface Way {
  /** Bytes that the guest has for the acknowledgement and the answer. */
  readonly room: number
  /** Whether the device may be made promiscuous in place of a MAC table. */
  readonly mayBePromiscuous: () => Promise<boolean>
  readonly signal: AbortSignal | undefined
}

interface ExchangeWish {
  readonly answerBytes: number
  readonly signal: AbortSignal | undefined
}

/** What is asked of the device beside its control queue. */
interface CommandHost {
  readonly isSuspended: boolean
  readonly isRunning?: boolean
  readonly features: { has(feature: number): boolean } | undefined
}

/** Carries commands out, one at a time. */
export class ShadowCommands {
  readonly #host: CommandHost
  readonly #control: NetControlQueue
  readonly #options: ShadowCommandOptions
  readonly #filters: ShadowFilters
  #underWay: AbortController | undefined
  // A command of the guest is in hand.
  #isCarrying = false
  #isGivenUp = false
  #stopAsking: ((verdict: 'deny') => void) | undefined

  constructor(host: CommandHost, control: NetControlQueue, options: ShadowCommandOptions) {
    this.#host = host
    this.#control = control
    this.#options = options
    this.#filters = new ShadowFilters(options.macTableEntries)
  }

  /** What was acknowledged, as the guest asked for it. */
  state(): StateCommand[] {
    return this.#filters.asWished(this.#control.commands())
  }

  /**
   * Ends the wait for the policy, and for a device that stands still: carryOut() resolves with undefined, as if the command had not been looked at. A device that runs is
   * waited for. Does nothing where no command is being carried out.
   */
  giveUp(): void {
    if (!this.#isCarrying) return
    if (this.#stopAsking === undefined && !this.#standsStill) return
    this.#isGivenUp = true
    this.#stopAsking?.('deny')
    this.#underWay?.abort()
  }

  /** Whether the device answers nothing. */
  get #standsStill(): boolean {
    const { isSuspended, isRunning = true } = this.#host
    return isSuspended || !isRunning
  }

  /** Tells the program of a command that is done. */
  tell(event: AuditEvent): void {
    const { onAudit } = this.#options
    if (onAudit !== undefined) callUnasked(() => onAudit(event))
  }

  /** Sends a command of the program's, by the way of the guest's, without the policy. ERR_VDPA_CANCELED when `signal` aborts. */
  async send({ name, value, payload }: CheckedCommand, signal: AbortSignal | undefined): Promise<number> {
    const mayBePromiscuous = () => Promise.resolve(true)
    const way = { room: 1, mayBePromiscuous, signal }
    return (await this.#perform(netCommands[name], value, payload, way)).ack
  }

  /** Carries out what the guest asks for. Undefined when it was given up for. */
  async carryOut(taken: TakenCommand, features: bigint): Promise<CarriedOut | undefined> {
    this.#isCarrying = true
    this.#isGivenUp = false
    try {
      const done = await this.#carryOut(taken, features)
      return this.#isGivenUp ? undefined : done
    } finally {
      this.#isCarrying = this.#isGivenUp = false
    }
  }

  async #carryOut(taken: TakenCommand, features: bigint): Promise<CarriedOut> {
    const { bytes } = taken
    const [commandClass, number] = bytes ?? nothing
    const entry = netCommandOf(commandClass ?? -1, number ?? -1)
    let payload: Uint8Array = bytes?.slice(HEAD_BYTES) ?? nothing
    let done: Answered
    if (taken.room === 0) done = refused('it has no place for the acknowledgement')
    else if (bytes === undefined) done = refused('it does not lie in the memory of the guest')
    else if (bytes.length < HEAD_BYTES) done = refused('it is shorter than its head')
    else if (entry === undefined) done = refused('no such command is known')
    else {
      const judged = await this.#judge(entry, payload, taken, features)
      done = judged
      payload = judged.payload
    }
    const event: AuditEvent = {
      class: commandClass,
      command: number,
      name: entry?.name as NetCommandName | undefined,
      payload: payload.slice(),
      outcome: done.outcome,
      reason: done.reason,
      ack: done.ack,
    }
    const answer = new Uint8Array(1 + done.answer.length)
    answer[0] = done.ack
    answer.set(done.answer, 1)
    return { answer, event }
  }

  async #judge(
    entry: Entry,
    payload: Uint8Array,
    taken: TakenCommand,
    features: bigint,
  ): Promise<Answered & { readonly payload: Uint8Array }> {
    const name = entry.name as NetCommandName
    const isWhole = taken.length === HEAD_BYTES + payload.length
    let value: unknown
    try {
      // The count of a table that is longer than any command may be is all that is known of it.
      if (isWhole) value = entry.decode(payload)
      else if (name !== 'VIRTIO_NET_CTRL_MAC_TABLE_SET') return { ...refused('it is too long'), payload }
    } catch (failure) {
      return { ...refused((failure as Error).message), payload }
    }
    const missing = this.#missing(entry, value, features)
    if (missing !== undefined) return { ...refused(missing), payload }
    // The program gets copies: what it does to them changes nothing.
    const shown = isWhole ? entry.decode(payload) : undefined
    const verdict = await this.#ask({ name, value: shown, payload, isFallback: false })
    if (verdict === 'deny')
      return { ack: ERR, answer: nothing, outcome: 'denied', reason: 'the policy denies it', payload }
    if (verdict === 'allow') return { ...(await this.#try(entry, value, payload, taken.room)), payload }
    return this.#rewritten(entry, verdict.payload.slice(), taken, features)
  }

  /** What the policy put in its place is checked as if the guest had sent it. */
  async #rewritten(
    entry: Entry,
    payload: Uint8Array,
    { room }: TakenCommand,
    features: bigint,
  ): Promise<Answered & { readonly payload: Uint8Array }> {
    let value: unknown
    try {
      value = entry.decode(payload)
    } catch (failure) {
      return { ...refused(`what the policy put in its place is none: ${(failure as Error).message}`), payload }
    }
    const missing = this.#missing(entry, value, features)
    if (missing !== undefined) return { ...refused(missing), payload }
    const done = await this.#try(entry, value, payload, room)
    return { ...done, outcome: done.outcome === 'forwarded' ? 'rewritten' : done.outcome, payload }
  }

  /** The feature that guest or device lacks for it, in a sentence. */
  #missing(entry: Entry, value: unknown, features: bigint): string | undefined {
    const needs = [entry.feature]
    if (entry.name === 'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET') {
      let left = value as bigint
      for (const [number, feature] of netGuestOffloads) {
        if ((left & bit(number)) !== 0n) needs.push(feature)
        left &= ~bit(number)
      }
      if (left !== 0n) return 'it asks for offloads that nobody knows'
    }
    for (const feature of needs) {
      const number = netFeatureBit(feature)
      if (number > 63 || (features & bit(number)) === 0n) return `the guest did not negotiate ${feature}`
      const isAnsweredHere = entry.name === 'VIRTIO_NET_CTRL_ANNOUNCE_ACK'
      if (!isAnsweredHere && this.#host.features?.has(number) !== true) return `the device has not ${feature}`
    }
    return undefined
  }

  /** A policy may wait for the very verb that detaches the guest: who gives up does not wait for it. */
  async #ask(command: GuestCommand): ReturnType<typeof askPolicy> {
    if (this.#isGivenUp) return 'deny'
    const stopped = new Promise<'deny'>((resolve) => (this.#stopAsking = resolve))
    try {
      return await Promise.race([askPolicy(this.#options.policy, command, this.#options.timeout), stopped])
    } finally {
      this.#stopAsking = undefined
    }
  }

  /** A device that does not answer, or is closed, is no reason to let the guest wait. */
  async #try(entry: Entry, value: unknown, payload: Uint8Array, room: number): Promise<Answered> {
    const mayBePromiscuous = async () => {
      const command: GuestCommand = {
        name: 'VIRTIO_NET_CTRL_RX_PROMISC',
        value: true,
        payload: Uint8Array.of(1),
        isFallback: true,
      }
      return (await this.#ask(command)) === 'allow'
    }
    try {
      return await this.#perform(entry, value, payload, { room, mayBePromiscuous, signal: undefined })
    } catch (failure) {
      const { message } = failure as Error
      const isKnown = !this.#control.uncertain().some(({ name }) => name === entry.name)
      const reason = isKnown ? message : `${message}: whether the device has carried it out is not known`
      return { ack: ERR, answer: nothing, outcome: 'forwarded', reason }
    }
  }

  async #perform(entry: Entry, value: unknown, payload: Uint8Array, way: Way): Promise<Answered> {
    const { room, mayBePromiscuous, signal } = way
    const forward = async (name: NetCommandName, bytes: Uint8Array) =>
      (await this.#exchange(netCommands[name], bytes, { answerBytes: 0, signal })).ack
    switch (entry.name) {
      // The device's own announcement, if there is one, is the program's affair, and the guest's the program's asking.
      case 'VIRTIO_NET_CTRL_ANNOUNCE_ACK':
        return { ack: OK, answer: nothing, outcome: 'answered' }
      case 'VIRTIO_NET_CTRL_RX_PROMISC': {
        const isFallback = this.#filters.isFallback
        const ack = await this.#filters.setPromiscuous(value as boolean, forward)
        if (!isFallback) return { ack, answer: nothing, outcome: 'forwarded' }
        const reason = 'the device is promiscuous in place of a MAC table'
        return { ack, answer: nothing, outcome: 'answered', reason }
      }
      case 'VIRTIO_NET_CTRL_MAC_TABLE_SET': {
        const ack = await this.#filters.setTable(value as MacTable | undefined, payload, forward, mayBePromiscuous)
        const reason = 'the device has no room for the MAC table: promiscuous mode stands in its place'
        const isFallback = ack === OK && this.#filters.isFallback
        return { ack, answer: nothing, outcome: 'forwarded', ...(isFallback && { reason }) }
      }
      default: {
        const most = this.#control.maxPayloadBytes - payload.length
        const answerBytes = Math.min(answerRoom(entry.answer, value, most), room - 1, most)
        return { ...(await this.#exchange(entry, payload, { answerBytes, signal })), outcome: 'forwarded' }
      }
    }
  }

  /** To the device and back, before the deadline: time in which the device stands still does not count. */
  async #exchange(entry: Entry, payload: Uint8Array, { answerBytes, signal }: ExchangeWish) {
    if (this.#isGivenUp) throw new Error('the guest is being detached')
    const { timeout } = this.#options
    const underWay = new AbortController()
    this.#underWay = underWay
    const takeOff = signal && onAbort(signal, () => underWay.abort(signal.reason))
    if (signal?.aborted === true) underWay.abort(signal.reason)
    const late = () => {
      if (this.#standsStill) timer = setTimeout(late, timeout)
      else underWay.abort(new Error(`no acknowledgement within ${timeout} ms`))
    }
    let timer = setTimeout(late, timeout)
    try {
      return await this.#control.sendRaw(entry.class, entry.command, payload, {
        answerBytes,
        signal: underWay.signal,
        timeout: TIMEOUT_LAST,
      })
    } finally {
      clearTimeout(timer)
      takeOff?.()
      this.#underWay = undefined
    }
  }
}
