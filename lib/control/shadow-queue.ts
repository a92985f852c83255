// The shadow of a control queue: it stands between a guest's control ring and the device's, which lies where no guest reaches. A command is copied, looked at, and
// sent on; what the device said OK to is the state. One command of the guest is with the device at a time.

import { checkFunction, checkInteger, checkObject, checkSignal, typeError } from '../base/checks.js'
import type { Closeable } from '../base/closeable.js'
import { vdpaError } from '../base/errors.js'
import { callUnasked } from '../base/program-calls.js'
import type { Subscription } from '../backend/backend.js'
import type { WriteMarks } from '../memory/write-marks.js'
import { netAck } from '../uapi/virtio-net.js'
import type { RingState } from '../virtqueue/virtqueue.js'
import { checkCommands, type StateCommand } from './control-state.js'
import { GuestRing, type GuestControlRing } from './guest-ring.js'
import { NetControlQueue, type ControlHost } from './net-control-queue.js'
import { ShadowCommands } from './shadow-commands.js'
import type { AuditEvent, ControlPolicy } from './shadow-policy.js'

/** What a shadow needs of an open device; VdpaDevice has it. */
export interface ShadowHost<Space> extends ControlHost<Space> {
  /** While it is, no command is answered, and none is late. */
  readonly isSuspended: boolean
  /** Whether it was started; the same while it was not. Default: it was. */
  readonly isRunning?: boolean
}

/** How a shadow is made. */
export interface ShadowOptions<Space> {
  /** The address space of the device's control queue: one that the guest's memory is not in. */
  readonly space: Space
  /** The guest's queue, where it is there already: attach(). */
  readonly guest?: GuestControlRing
  /** Judges the guest's commands. Default: all that the guest negotiated pass. */
  readonly policy?: ControlPolicy
  /** Is told of every command of the guest, after the guest was answered. */
  readonly onAudit?: (event: AuditEvent) => void
  /** Is told once when the guest broke a rule of its ring, or took its memory away: it is served no more until attach(). */
  readonly onBroken?: (failure: unknown) => void
  /** Milliseconds that the device has for a command, and the policy for a verdict; default 10,000. */
  readonly timeout?: number
  /** Descriptors of the device's ring, 2 or more. */
  readonly size?: number
  /** Addresses of the longest MAC table that the device is asked to take; default: any, since it may refuse. */
  readonly macTableEntries?: number
}

/** A way out of replay(). */
export interface ShadowReplayOptions {
  /** Stops the waiting, not the command: the device may still carry it out. */
  readonly signal?: AbortSignal
}

/** What a shadow counted since it was made. */
export interface ShadowCounters {
  /** Commands taken from the guest's ring. */
  commands: number
  /** Those that were answered with something else than VIRTIO_NET_OK. */
  errors: number
}

/** Commands of a guest in one turn of the event loop. */
const COMMANDS_A_TURN = 32
const TIMEOUT_LAST = 0x7fff_ffff

/** A guest that is being served. */
interface Attached {
  readonly wish: GuestControlRing
  readonly ring: GuestRing
  kicks: Subscription | undefined
  isServing: boolean
  isLeaving: boolean
}

/** What a program wishes of a shadow, whichever queue it will be of. TypeError and RangeError. */
export function checkShadowWishes(
  options: Pick<ShadowOptions<never>, 'timeout' | 'macTableEntries' | 'policy' | 'onAudit' | 'onBroken'>,
): void {
  const { timeout, macTableEntries } = options
  if (timeout !== undefined) checkInteger(timeout, 'timeout', 1, TIMEOUT_LAST)
  if (macTableEntries !== undefined) checkInteger(macTableEntries, 'macTableEntries', 0, 0xffff_ffff)
  for (const name of ['policy', 'onAudit', 'onBroken'] as const)
    if (options[name] !== undefined) checkFunction(options[name], name)
}

/** Serves a guest's control queue by the device's. */
export class ShadowControlQueue<Space = unknown> implements Closeable {
  /** The device's control queue: the program's own commands go here, and wait for one command of the guest at most. */
  readonly control: NetControlQueue
  /** Live. */
  readonly counters: Readonly<ShadowCounters>
  readonly #counters: ShadowCounters
  readonly #host: ShadowHost<Space>
  readonly #commands: ShadowCommands
  readonly #onBroken: ((failure: unknown) => void) | undefined
  readonly #options: ShadowOptions<Space>
  #guest: Attached | undefined
  #failure: unknown
  #serving = Promise.resolve()
  // Under way.
  #replays = 0

  private constructor(host: ShadowHost<Space>, control: NetControlQueue, options: ShadowOptions<Space>) {
    this.#host = host
    this.#options = { ...options }
    this.control = control
    this.#counters = { commands: 0, errors: 0 }
    this.counters = this.#counters
    this.#commands = new ShadowCommands(host, control, {
      timeout: options.timeout ?? 10_000,
      macTableEntries: options.macTableEntries ?? Infinity,
      policy: options.policy,
      onAudit: options.onAudit,
    })
    this.#onBroken = options.onBroken
  }

  /**
   * Makes the device's control queue in `space`, before device.start(), and serves the guest's where one is given. Errors of NetControlQueue.start() and of
   * attach(); after one nothing is left. ERR_VDPA_NOT_SUPPORTED when VIRTIO_NET_F_CTRL_VQ was not negotiated.
   */
  static async start<Space>(
    device: ShadowHost<Space>,
    options: ShadowOptions<Space>,
  ): Promise<ShadowControlQueue<Space>> {
    if (typeof options !== 'object' || options === null) throw typeError('options', 'an object', options)
    checkShadowWishes(options)
    const { space, guest, size, timeout = 10_000 } = options
    const control = await NetControlQueue.start(device, space, { timeout, ...(size !== undefined && { size }) })
    try {
      const shadow = new ShadowControlQueue(device, control, options)
      if (guest !== undefined) shadow.attach(guest)
      return shadow
    } catch (failure) {
      await control.close().catch(() => undefined)
      throw failure
    }
  }

  /** @internal One like this on another control queue; no guest is attached to it. */
  like(host: ShadowHost<Space>, control: NetControlQueue): ShadowControlQueue<Space> {
    return new ShadowControlQueue(host, control, this.#options)
  }

  /** @internal The guest as attach() was given it; undefined where none is attached. */
  get guest(): GuestControlRing | undefined {
    return this.#guest?.wish
  }

  /** True from close() on, or when the device was closed or reset. A guest that is still attached is answered VIRTIO_NET_ERR then. */
  get isClosed(): boolean {
    return this.control.isClosed
  }

  /** Whether a guest is served, broken or not. */
  get isAttached(): boolean {
    return this.#guest !== undefined
  }

  /** Why the guest is served no more; undefined when all is well. */
  get failure(): unknown {
    return this.#failure
  }

  /**
   * Begins to serve a guest's ring; commands that are in it are served at once, also while the guest runs. ERR_VDPA_CLOSED where the device's queue is closed,
   * ERR_VDPA_STATE while a guest is attached or replay() is under way, ERR_VDPA_RING_BROKEN where the ring is not in the guest's memory, TypeError and RangeError for a ring that is none.
   */
  attach(guest: GuestControlRing): void {
    this.#attach(guest, undefined)
  }

  /** @internal attach() of a guest of whom somebody wants to hear what is written to its memory. */
  attachMarking(guest: GuestControlRing, marks: WriteMarks): void {
    this.#attach(guest, marks)
  }

  #attach(guest: GuestControlRing, marks: WriteMarks | undefined): void {
    this.#checkFree()
    const ring = new GuestRing(guest, marks)
    const attached: Attached = { wish: { ...guest }, ring, kicks: undefined, isServing: false, isLeaving: false }
    attached.kicks = guest.kick.onSignal(() => this.#serve(attached))
    try {
      // Who was asked to listen may be the program, and may have closed this, or attached another guest.
      this.#checkFree()
    } catch (failure) {
      attached.kicks.close()
      throw failure
    }
    this.#failure = undefined
    this.#guest = attached
    this.#serve(attached)
  }

  /**
   * Ends serving the guest, after the command under way, and says where its ring stands, for attach() here or elsewhere; undefined where it is broken, or none is attached.
   * A command that the policy is being asked about is put back, and is asked about again by who goes on; while the device is suspended, or was not started, any is, and the device may
   * carry it out twice.
   */
  async detach(): Promise<RingState | undefined> {
    const guest = this.#guest
    if (guest === undefined) return undefined
    guest.isLeaving = true
    guest.kicks?.close()
    this.#commands.giveUp()
    while (guest.isServing) await this.#serving
    if (this.#guest !== guest) return undefined
    this.#guest = undefined
    return this.#failure === undefined ? guest.ring.state() : undefined
  }

  /**
   * What brings a device to where this one is, in the order of sending: what it acknowledged and still counts, to the guest and to the program, with the MAC table that the
   * guest asked for where promiscuous mode stands in its place. Plain data, for replay().
   */
  commands(): StateCommand[] {
    return this.#commands.state()
  }

  /**
   * Commands, of the guest and of the program, of which it is not known whether the device has carried them out: no answer came in time. The guest was answered VIRTIO_NET_ERR; what commands() says of the
   * same thing may not hold. Empty where the state is certain. An answer that comes late settles it, and so does a later command about the same thing.
   */
  uncertain(): StateCommand[] {
    return this.control.uncertain()
  }

  /**
   * Sends what commands() gave, to a device that was started, before a guest is attached (ERR_VDPA_STATE); a MAC table that this device has no room for becomes promiscuous
   * mode here too. No guest is attached until it has ended (ERR_VDPA_STATE). ERR_VDPA_REFUSED names the first that the device does not take; ERR_VDPA_CANCELED where `signal` aborts; TypeError and RangeError for a list
   * that is none.
   */
  async replay(commands: readonly StateCommand[], options: ShadowReplayOptions = {}): Promise<void> {
    checkObject(options, 'options')
    const { signal } = options
    checkSignal(signal)
    if (this.#guest !== undefined) throw this.#refusal('a guest is attached: replay comes before it')
    const checked = checkCommands(commands)
    this.#replays++
    try {
      for (const command of checked) {
        const ack = await this.#commands.send(command, signal)
        if (ack === netAck.VIRTIO_NET_OK) continue
        const text = `the device refused the command (acknowledgement ${ack})`
        throw vdpaError('ERR_VDPA_REFUSED', text, { path: this.#host.path, request: command.name })
      }
    } finally {
      this.#replays--
    }
  }

  /** Closes the device's control queue, and detaches the guest, whose command under way is answered VIRTIO_NET_ERR. ERR_VDPA_STATE while the device runs. */
  async close(): Promise<void> {
    try {
      await this.control.close()
    } finally {
      // Past what the end of the queue met; a close() that was refused changes nothing.
      if (this.isClosed) await this.detach()
    }
  }

  /** Detaches the guest and ends the use of the queue; where the device runs, the queue ends with that. */
  async [Symbol.asyncDispose](): Promise<void> {
    // A device that does not run answers nothing: its queue ends before what is asked of the device next.
    if (this.#host.isRunning !== false) await this.detach()
    try {
      await this.control[Symbol.asyncDispose]()
    } finally {
      await this.detach()
    }
  }

  /** Serves what is there, unless that is being done. */
  #serve(guest: Attached): void {
    if (guest.isServing || guest.isLeaving || guest !== this.#guest || this.#failure !== undefined) return
    guest.isServing = true
    this.#serving = this.#serveAll(guest).catch((failure: unknown) => this.#break(guest, failure))
  }

  async #serveAll(guest: Attached): Promise<void> {
    const { ring } = guest
    // Counted past the last look: a guest on another processor may have the next command there just then, time and again.
    let count = 0
    try {
      do {
        ring.disableKicks()
        while (!guest.isLeaving && (await this.#serveOne(guest)))
          if (++count % COMMANDS_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve))
      } while (!guest.isLeaving && !ring.enableKicks())
    } finally {
      // At once with the last look at the ring: a kick that comes now is not of the past.
      guest.isServing = false
    }
  }

  /** False when there is no command. */
  async #serveOne({ ring }: Attached): Promise<boolean> {
    const taken = ring.take(2 + this.control.maxPayloadBytes)
    if (taken === undefined) return false
    const result = await this.#commands.carryOut(taken, ring.features)
    if (result === undefined) {
      ring.putBack()
      return false
    }
    this.#counters.commands++
    if (result.event.ack !== netAck.VIRTIO_NET_OK) this.#counters.errors++
    ring.answer(result.answer)
    this.#commands.tell(result.event)
    return true
  }

  /** The guest's own doing: its ring is out of use. The state and the program's commands are not touched by it. */
  #break(guest: Attached, failure: unknown): void {
    this.#failure = failure
    guest.kicks?.close()
    const onBroken = this.#onBroken
    if (onBroken !== undefined) callUnasked(() => onBroken(failure))
  }

  #checkFree(): void {
    if (this.isClosed)
      throw vdpaError('ERR_VDPA_CLOSED', 'the control queue is closed: nobody would answer the guest', {
        path: this.#host.path,
      })
    if (this.#guest !== undefined) throw this.#refusal('a guest is attached already: call detach() first')
    if (this.#replays > 0) throw this.#refusal('what was set is being set again: a guest comes after replay()')
  }

  #refusal(text: string): Error {
    return vdpaError('ERR_VDPA_STATE', text, { path: this.#host.path, request: 'the shadow of the control queue' })
  }
}
