// One run of a bridged device, from its negotiation to its reset: the queues that it has, their wires, and the control queue's shadow. It knows no message.

import { Failures } from '../base/failures.js'
import { bit } from '../base/bits.js'
import type { StateCommand } from '../control/control-state.js'
import { ShadowControlQueue, type ShadowOptions } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { decodeBase, encodeBase } from '../device/vring.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import type { MemoryTable } from '../vhost-user/memory-table.js'
import type { Vring } from '../vhost-user/vring.js'
import type { RingFormat } from '../virtqueue/virtqueue.js'
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
  readonly shadow: Omit<ShadowOptions<AddressSpace>, 'space' | 'guest'>
  /** After each interrupt that went through this process. */
  readonly onInterrupt: () => void
}

/** Where the device's control queue lies: alone where it can be, and with the guest's memory where that was allowed. */
function controlSpace(device: VdpaDevice): AddressSpace {
  const verdict = device.groups.isolation(device.controlQueueIndex)
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
  #attached: { readonly vring: Vring; readonly kick: unknown } | undefined
  #pairs = 0

  private constructor(
    host: RunHost,
    plan: RunPlan,
    wires: ReadonlyMap<Vring, QueueWires>,
    shadow: ShadowControlQueue<AddressSpace> | undefined,
  ) {
    this.#host = host
    this.plan = plan
    this.#wires = wires
    this.shadow = shadow
  }

  /** Brings a reset device up. After a failure it is reset. */
  static async start(host: RunHost, plan: RunPlan, kept: readonly StateCommand[]): Promise<Run> {
    const { device } = host
    const wires = new Map<Vring, QueueWires>()
    let shadow: ShadowControlQueue<AddressSpace> | undefined
    try {
      await device.negotiate(plan.features)
      if ((plan.features & CONTROL_QUEUE) !== 0n && device.controlQueueIndex !== undefined) {
        shadow = await ShadowControlQueue.start(device, { ...host.shadow, space: controlSpace(device) })
      }
      for (const queue of plan.queues) {
        const wire = new QueueWires(queue.vring, device.backend, host.onInterrupt)
        wires.set(queue.vring, wire)
        const vring = device.vring(queue.vring.index)
        const { size, addresses, base } = queue
        vring.setUp({ size, addresses, state: decodeBase(plan.format, base), ...wire.connect() })
        vring.enable()
      }
      await device.start()
      const run = new Run(host, plan, wires, shadow)
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

  /** Gives the device what the front end exchanged, and serves or leaves the guest's control queue: `control` is it while it runs. */
  async refresh(control: QueuePlan | undefined, enabledPairs: number): Promise<void> {
    const { device } = this.#host
    for (const [vring, wires] of this.#wires) wires.refresh(device.vring(vring.index))
    await this.#attend(control)
    if (!this.plan.isShadowing) await this.#setPairs(enabledPairs)
  }

  /**
   * Stops the device where it stands, writes down where its queues are, and resets it. Resolves with what sets its control state again. Past failures it goes
   * on, and throws them when all is over.
   */
  async stop(): Promise<readonly StateCommand[]> {
    const { device } = this.#host
    const failures = new Failures()
    const attempt = async (work: () => Promise<unknown>) => work().catch((failure: unknown) => failures.keep(failure))
    await attempt(() => this.#attend(undefined))
    const kept = this.shadow?.commands() ?? []
    if (device.isRunning && !device.isClosed) await attempt(() => this.#saveBases())
    for (const { vring } of this.plan.queues) vring.isLive = false
    if (!device.isClosed) await attempt(() => device.reset())
    const { shadow } = this
    if (shadow !== undefined) await attempt(() => shadow[Symbol.asyncDispose]())
    for (const wires of this.#wires.values()) failures.now(() => wires.close())
    failures.throwMet(`stopping ${device.path} met failures`)
    return kept
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
    shadow.attach({ memory: this.#host.table, features: taken, size, addresses, state, kick, call })
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

  async #saveBases(): Promise<void> {
    const { device } = this.#host
    const { format, queues } = this.plan
    if (device.backendFeatures.has('VHOST_BACKEND_F_SUSPEND')) {
      await device.suspend()
      for (const { vring } of queues) vring.base = encodeBase(format, device.vring(vring.index).state())
      return
    }
    // A device that cannot stand still: what it has not answered is done again, which is what its guest's driver may expect of one that was reset.
    for (const { vring, addresses } of queues) vring.base = this.#usedIndex(addresses.device) ?? vring.base
  }

  /** Undefined where the guest has no such memory any more: its front end left, or took it away, and nobody goes on there. */
  #usedIndex(address: bigint): number | undefined {
    const slices = this.#host.table.find(address + BigInt(USED_INDEX_AT), 2)
    const [slice] = slices ?? []
    return slice && new DataView(slice.region.view(slice.offset, 2).slice().buffer).getUint16(0, true)
  }
}
