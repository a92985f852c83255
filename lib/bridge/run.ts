// One run of a bridged device, from its negotiation to its reset: the queues that it has, their wires, and the control queue's shadow. It knows no message.

import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { bit } from '../base/bits.js'
import type { StateCommand } from '../control/control-state.js'
import { ShadowControlQueue, type ShadowOptions } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { decodeBase, encodeBase } from '../device/vring.js'
import type { WriteMarks } from '../memory/write-marks.js'
import { ShadowQueue } from '../shadow/shadow-queue.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import type { MemoryTable } from '../vhost-user/memory-table.js'
import type { Vring } from '../vhost-user/vring.js'
import type { WriteLog } from '../vhost-user/write-log.js'
import { areaSizes } from '../virtqueue/layout.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
import type { GuestMappings } from './guest-mappings.js'
import { QueueWires } from './queue-wires.js'

const PAIRS = bit(netFeatureBits.VIRTIO_NET_F_MQ)
const FILTERS = bit(netFeatureBits.VIRTIO_NET_F_CTRL_RX)
const CONTROL_QUEUE = bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)
/** Where the index of a split ring's device area is. */
const USED_INDEX_AT = 2

/** A queue as the device is to have it. */
export interface QueuePlan {
  readonly vring: Vring
  /** Descriptors. */
  readonly size: number
  /** Guest addresses. */
  readonly addresses: { readonly descriptor: bigint; readonly driver: bigint; readonly device: bigint }
  /** The word of SET_VRING_BASE. */
  readonly base: number
}

/** What a run is made of. */
export interface RunPlan {
  /** As the guest's driver took them. */
  readonly taken: bigint
  /** As the device is told. */
  readonly features: bigint
  readonly format: RingFormat
  readonly queues: readonly QueuePlan[]
  /** Whether the guest's control queue comes through the front end. */
  readonly isShadowing: boolean
}

/** What a run needs of its surroundings. */
export interface RunHost {
  readonly device: VdpaDevice
  readonly table: MemoryTable
  /** The table's memory as the device reaches it. */
  readonly mappings: GuestMappings
  readonly writeLog: WriteLog
  /** The device's control queue is never with the guest's memory. */
  readonly isControlAlone: boolean
  /** A guest, or the device, broke a rule of a data queue that is shadowed. */
  readonly onBroken: () => void
  readonly shadow: Omit<ShadowOptions<AddressSpace>, 'space' | 'guest'>
  /** After each interrupt that went through this process. */
  readonly onInterrupt: () => void
}

/** Where the device's control queue lies: alone where it can be, and with the guest's memory where that was allowed. */
function controlSpace({ device, isControlAlone }: RunHost): AddressSpace {
  const verdict = device.groups.isolation(device.controlQueueIndex)
  if (!verdict.isolated && isControlAlone)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the control queue cannot be isolated: ${verdict.reason}`, {
      path: device.path,
    })
  if (!verdict.isolated) return device.addressSpace(0)
  const own = device.addressSpace(1)
  device.groups.assign(verdict, own)
  return own
}

/** A device that runs for a front end. */
export class Run {
  readonly plan: RunPlan
  /** Where the guest's commands go; undefined on devices without a control queue. */
  readonly shadow: ShadowControlQueue<AddressSpace> | undefined
  readonly #host: RunHost
  readonly #wires: ReadonlyMap<Vring, QueueWires>
  /** Of the data queues, while writes to the guest's memory are logged. */
  #logging: readonly ShadowQueue[]
  #attached: { readonly vring: Vring; readonly kick: unknown } | undefined
  #pairs = 0
  #kept: readonly StateCommand[] = []

  private constructor(
    host: RunHost,
    plan: RunPlan,
    wires: ReadonlyMap<Vring, QueueWires>,
    shadow: ShadowControlQueue<AddressSpace> | undefined,
    logging: readonly ShadowQueue[],
  ) {
    this.#host = host
    this.#logging = logging
    this.plan = plan
    this.#wires = wires
    this.shadow = shadow
  }

  /** Brings a reset device up, its data queues shadowed where writes are to be logged. After a failure it is reset. */
  static async start(host: RunHost, plan: RunPlan, kept: readonly StateCommand[]): Promise<Run> {
    const { device } = host
    const wires = new Map<Vring, QueueWires>()
    let shadow: ShadowControlQueue<AddressSpace> | undefined
    let logging: readonly ShadowQueue[] = []
    const isLogged = host.writeLog.isWanted
    try {
      await device.negotiate(plan.features)
      if ((plan.features & CONTROL_QUEUE) !== 0n && device.controlQueueIndex !== undefined) {
        shadow = await ShadowControlQueue.start(device, { ...host.shadow, space: controlSpace(host) })
      }
      for (const queue of plan.queues) {
        const wire = new QueueWires(queue.vring, device.backend, host.onInterrupt)
        wires.set(queue.vring, wire)
        const vring = device.vring(queue.vring.index)
        const { size, addresses, base } = queue
        const ends = wire.connect()
        if (isLogged) continue
        vring.setUp({ size, addresses, state: decodeBase(plan.format, base), ...ends })
        vring.enable()
      }
      // Before the device runs: no write is to go by unlogged.
      if (isLogged) await ShadowQueue.beginAll((logging = shadowsOf(host, plan, wires)))
      await device.start()
      const run = new Run(host, plan, wires, shadow, logging)
      await run.#begin(kept)
      return run
    } catch (failure) {
      const failures = new Failures()
      failures.keep(failure)
      for (const { vring } of plan.queues) vring.isLive = false
      for (const wire of wires.values()) failures.now(() => wire.close())
      await device.reset().catch((met: unknown) => failures.keep(met))
      await shadow?.[Symbol.asyncDispose]().catch((met: unknown) => failures.keep(met))
      throw failure
    }
  }

  /** Whether a device that has this plan has that one. */
  isLike({ taken, queues }: RunPlan): boolean {
    const ours = this.plan.queues
    return (
      taken === this.plan.taken &&
      ours.length === queues.length &&
      ours.every((one, at) => {
        const other = queues[at]
        const [a, b] = [one.addresses, other?.addresses]
        return (
          one.vring === other?.vring &&
          one.size === other.size &&
          a.descriptor === b?.descriptor &&
          a.driver === b.driver &&
          a.device === b.device
        )
      })
    )
  }

  /** Whether what is written to the guest's memory is logged: its data queues are shadowed. */
  get isLogged(): boolean {
    return this.#logging.length > 0
  }

  /** Has data queues shadowed, or not any more, while guest and device run: all of them or none. What it throws leaves them as they were, or the device reset. */
  async setLogged(isLogged: boolean): Promise<void> {
    const before = this.#logging
    if (!isLogged) await ShadowQueue.endAll(before)
    this.#logging = isLogged ? shadowsOf(this.#host, this.plan, this.#wires) : []
    if (!isLogged) return
    try {
      await ShadowQueue.beginAll(this.#logging)
    } catch (failure) {
      // Of a device that was reset they know where its queues stood.
      if (this.#host.device.isRunning) this.#logging = before
      throw failure
    }
  }

  /** Gives the device what the front end exchanged, and serves or leaves the guest's control queue: `control` is it while it runs. */
  async refresh(control: QueuePlan | undefined, enabledPairs: number): Promise<void> {
    const { device } = this.#host
    for (const [vring, wires] of this.#wires) wires.refresh(device.vring(vring.index))
    await this.#attend(control)
    if (!this.plan.isShadowing) await this.#setPairs(enabledPairs)
  }

  /** What sets the control state of a run again that was stopped, whatever failed on the way. */
  get kept(): readonly StateCommand[] {
    return this.#kept
  }

  /**
   * Stops the device where it stands, writes down where its queues are, and resets it. Past failures it goes on, and throws them when all is over. Where a device that did not stand still
   * had come to is found once it was reset.
   */
  async stop(): Promise<void> {
    const { device } = this.#host
    const failures = new Failures()
    const attempt = async (work: () => Promise<unknown>) => work().catch((failure: unknown) => failures.keep(failure))
    await attempt(() => this.#attend(undefined))
    this.#kept = this.shadow?.commands() ?? []
    let areSaved = false
    if (device.isRunning) await attempt(async () => (areSaved = await this.#saveBases()))
    for (const { vring } of this.plan.queues) vring.isLive = false
    if (!device.isClosed) await attempt(() => device.reset())
    if (!areSaved && !device.isClosed) await attempt(() => this.#findBases())
    const { shadow } = this
    if (shadow !== undefined) await attempt(() => shadow[Symbol.asyncDispose]())
    for (const wires of this.#wires.values()) failures.now(() => wires.close())
    failures.throwMet(`stopping ${device.path} met failures`)
  }

  async #begin(kept: readonly StateCommand[]): Promise<void> {
    const { shadow, plan } = this
    if (shadow !== undefined) {
      if (!plan.isShadowing && (plan.features & FILTERS) !== 0n) await shadow.control.setPromiscuous(true)
      await shadow.replay(kept)
    }
    for (const { vring } of plan.queues) vring.isLive = true
    // A receive queue is kicked once, and then maybe never; that kick may have been before.
    for (const wires of this.#wires.values()) wires.kick()
    // An interrupt of the device as it was before may be lost, too.
    for (const { vring } of plan.queues) vring.call?.signal()
  }

  async #attend(control: QueuePlan | undefined): Promise<void> {
    const { shadow } = this
    const { format, taken } = this.plan
    if (shadow === undefined || !this.plan.isShadowing) return
    const attached = this.#attached
    if (attached !== undefined && (attached.vring !== control?.vring || attached.kick !== control.vring.kick)) {
      const state = await shadow.detach()
      attached.vring.isLive = false
      if (state !== undefined) attached.vring.base = encodeBase(format, state)
      this.#attached = undefined
    }
    if (control === undefined || this.#attached !== undefined) return
    const { vring, size, addresses } = control
    const { kick } = vring
    if (kick === undefined) return
    const base = attached === undefined ? control.base : (vring.base ?? control.base)
    const call = { signal: () => vring.call?.signal() }
    const state = decodeBase(format, base)
    const guest = { memory: this.#host.table, features: taken, size, addresses, state, kick, call }
    shadow.attachMarking(guest, marksOf(this.#host, { format, queue: control }))
    vring.isLive = true
    this.#attached = { vring, kick }
  }

  /** Where the front end keeps the control queue, what it enables is what its guest asked for. */
  async #setPairs(pairs: number): Promise<void> {
    const { shadow } = this
    if (shadow === undefined || pairs === 0 || pairs === this.#pairs || (this.plan.features & PAIRS) === 0n) return
    await shadow.control.setQueuePairs(pairs)
    this.#pairs = pairs
  }

  /** False where the queues' shadows know it, and say it afterwards. */
  async #saveBases(): Promise<boolean> {
    const { device, table } = this.#host
    const { format, queues } = this.plan
    const logging = this.#logging
    if (logging.length > 0) {
      // Of a front end that left nobody goes on.
      if (table.regions.length > 0)
        await device.changeQueues('the end of a run', () => ShadowQueue.holdSteps(device, logging))
      return false
    }
    if (device.backendFeatures.has('VHOST_BACKEND_F_SUSPEND')) {
      await device.suspend()
      for (const { vring } of queues) vring.base = encodeBase(format, device.vring(vring.index).state())
      return true
    }
    // A device that cannot stand still: what it has not answered is done again, which is what its guest's driver may expect of one that was reset.
    for (const { vring, addresses } of queues) vring.base = this.#usedIndex(addresses.device) ?? vring.base
    return true
  }

  /**
   * Where the queues of a device stand that a shadow holds, or that was reset under its guest: a shadow says it, or the used index of a split ring. Nobody goes on with another one before its front end
   * says where it begins.
   */
  #findBases(): Promise<void> {
    const { format, queues } = this.plan
    const lost = queues.filter(({ vring, addresses }) => {
      const shadow = this.#logging.find(({ index }) => index === vring.index)
      const state = shadow?.state
      // A shadow that forwarded and does not say it saw answers out of order.
      const isTold = format === 'split' && (shadow?.counters.forwarded ?? 0) === 0
      const used = isTold ? this.#usedIndex(addresses.device) : undefined
      const base = state === undefined ? used : encodeBase(format, state)
      if (base === undefined) vring.stop()
      else vring.base = base
      return base === undefined
    })
    const which = lost.map(({ vring }) => vring.index).join(', ')
    if (lost.length === 0 || this.#host.table.regions.length === 0) return Promise.resolve()
    const text = `the device was reset, and nobody knows where queue ${which} stood: its front end is to set it up anew`
    return Promise.reject(vdpaError('ERR_VDPA_DEVICE_BROKEN', text, { path: this.#host.device.path }))
  }

  /** Undefined where the guest has no such memory any more: its front end left, or took it away, and nobody goes on there. */
  #usedIndex(address: bigint): number | undefined {
    return this.#host.table.wordAt(address + BigInt(USED_INDEX_AT))
  }
}

/** Where what is written for a queue is told. */
function marksOf(
  { writeLog }: RunHost,
  { format, queue }: { readonly format: RingFormat; readonly queue: QueuePlan },
): WriteMarks {
  const { vring, size, addresses } = queue
  return writeLog.ofQueue(vring, { at: Number(addresses.device), bytes: areaSizes(format, size).device })
}

/** A shadow for each data queue, of which nothing has begun. */
function shadowsOf(host: RunHost, { format, queues }: RunPlan, wires: ReadonlyMap<Vring, QueueWires>): ShadowQueue[] {
  const { device, mappings: memory } = host
  return queues.flatMap((queue) => {
    const { vring, size, addresses, base } = queue
    const wire = wires.get(vring)
    if (wire === undefined) return []
    const state = decodeBase(format, base)
    const guest = { memory, size, addresses, kick: wire.kickEnd, call: wire.callEnd, state }
    const onBroken = () => host.onBroken()
    const options = { index: vring.index, guest, space: device.addressSpace(0), onBroken }
    return [ShadowQueue.marking(device, options, marksOf(host, { format, queue }))]
  })
}
