// A device that broke down, or was reset behind our back, is reset and told everything again: what was in flight is what the drivers' books say, whatever the device says.

import { checkObject } from '../base/checks.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { NetControlQueue } from '../control/net-control-queue.js'
import type { ShadowControlQueue } from '../control/shadow-queue.js'
import { checkDevice } from '../device/check-device.js'
import type { AddressSpace } from '../device/address-space.js'
import {
  carriedOutAgain,
  usedIndex,
  type DeviceSnapshot,
  type QueueBooks,
  type QueueState,
  type TakenSnapshot,
} from '../device/snapshot.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { BlockDriver } from '../drivers/block-driver.js'
import type { NetDriver } from '../drivers/net-driver.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { ShadowQueue } from '../shadow/shadow-queue.js'
import { arriveSteps, laterOnly, prepareSteps, type Arrived, type QueueEventfds } from './arrive.js'
import { checkArrival, checkPassengers } from './check-wish.js'
import { checkGiven, giveUp, guestOf, looseQueues, type DriverToGoOn } from './carried.js'
import { restored, type Restored } from './restore.js'

/** VIRTIO_F_RING_PACKED */
const RING_PACKED = 34n

/** What goes on with a device that recovers. */
export interface RecoverOptions {
  /** The driver of its data queues; it is ended, and in the answer another goes on in its place. */
  readonly driver?: NetDriver | BlockDriver
  /** The control queue, where it is driven from here; likewise. What it had set is set again. */
  readonly control?: NetControlQueue
  /**
   * The shadow of a guest's control queue, in place of `control`: the guest is served by another like it. A command of the guest that the device had not answered is answered
   * VIRTIO_NET_ERR.
   */
  readonly shadowControl?: ShadowControlQueue<AddressSpace>
  /** The eventfds of queues that somebody else drives. */
  readonly eventfds?: readonly QueueEventfds[]
  /** Milliseconds that the device has for a command of the control queue; default 10,000. */
  readonly timeout?: number
}

/**
 * Has a device that runs, or ran until it broke down (NEEDS_RESET, ERR_VDPA_DEVICE_BROKEN), start anew and go on where its drivers' books say: it is reset, and told its features, groups,
 * mappings (unless IOTLB_PERSIST was acknowledged), its control queue, what that had set, and its data queues, which are enabled last where ENABLE_AFTER_DRIVER_OK was acknowledged. What the
 * device did not answer is given to it again, and nothing else; whether it had carried that out nobody can tell. Shadows of a guest's data queues go on by their own books; a queue of theirs whose
 * ring is broken ends, which `lost` says. A split ring that somebody else drives goes on behind its last used entry.
 *
 * One procedure of the device. ERR_VDPA_STATE where the device does not run, a queue of it was saved, a queue's driver was not given, or one was given that drives none of its queues; ERR_VDPA_NOT_SUPPORTED where nobody can tell where a
 * queue stands: nothing has changed then. After any other failure the device is reset, its queues are closed, and who waits is told ERR_VDPA_CANCELED; a device that refuses even that is
 * lost. One that is lost already is reset only, and ERR_VDPA_DEVICE_BROKEN says so. A block driver begins with empty queues where its requests were rejected when the device broke down:
 * see BlockDriverOptions.waitsForRecovery.
 */
export async function recoverDevice(device: VdpaDevice, options: RecoverOptions = {}): Promise<Restored> {
  checkDevice(device, 'device')
  checkObject(options, 'options')
  checkPassengers(options)
  checkArrival(options)
  const wish = { ...options, eventfds: (options.eventfds ?? []).map((one) => ({ ...one })) }
  return device.changeQueues('recoverDevice()', () => recoverSteps(device, wish))
}

function* recoverSteps(device: VdpaDevice, wish: RecoverOptions): Steps<Restored> {
  if (device.phase === 'lost') yield* resetLost(device)
  checkRecoverable(device, wish)
  const book = wish.shadowControl ?? wish.control
  // What is mapped stays the address spaces' own, which a reset maps again where that is needed.
  const wanted = { isRunning: true, isInside: true, isBroken: true, hasSpaces: false } as const
  const outline = device.takeSnapshot({ ...wanted, ...(book !== undefined && { control: book }) })
  const recovery = new Recovery(device, wish, outline)
  recovery.checkGuests()
  try {
    return yield* recovery.steps()
  } catch (failure) {
    const failures = new Failures()
    failures.keep(failure)
    yield* failures.attempt(device.resetSteps())
    recovery.giveUp(failures)
    failures.throwMet(`${device.path} did not recover, and its reset met failures`)
    throw failure
  }
}

/** Nothing is known any more of what it was told: who waits is told, and it may be negotiated anew. */
function* resetLost(device: VdpaDevice): Steps<never> {
  yield* device.resetSteps()
  const text = 'the device was lost, and with it what its queues held: it was reset, and is to be negotiated again'
  throw vdpaError('ERR_VDPA_DEVICE_BROKEN', text, { path: device.path })
}

function checkRecoverable(device: VdpaDevice, wish: RecoverOptions): void {
  if (!device.isRunning)
    throw vdpaError('ERR_VDPA_STATE', `a device that ran recovers, and this one is ${device.phase}`, {
      path: device.path,
    })
  device.checkNoResetDue()
  checkGiven(device, wish)
}

class Recovery {
  readonly #device: VdpaDevice
  readonly #wish: RecoverOptions
  readonly #memories: MemoryRegion[]
  readonly #lost: string[] = []
  readonly #arrived: Arrived = { queues: [] }
  /** The queues that were driven from here. */
  readonly #driven: ReadonlySet<number>
  readonly #loose: readonly DeviceQueue[]
  /** Shadows of a guest's data queues. */
  readonly #shadows: readonly ShadowQueue[]
  #snapshot: DeviceSnapshot
  #driver: DriverToGoOn | undefined

  constructor(device: VdpaDevice, wish: RecoverOptions, { snapshot, memories }: TakenSnapshot) {
    this.#device = device
    this.#wish = wish
    this.#snapshot = snapshot
    this.#memories = [...memories]
    this.#driven = new Set(device.drivenQueues.map(({ index }) => index))
    const ofShadows = device.drivenQueues.map((queue) => ShadowQueue.of(queue))
    this.#shadows = ofShadows.filter((shadow) => shadow !== undefined)
    this.#loose = looseQueues(device).filter((queue) => ShadowQueue.of(queue) === undefined)
  }

  /** ERR_VDPA_NOT_SUPPORTED where nobody can tell where a queue stands that somebody else drives. */
  checkGuests(): void {
    for (const queue of this.#snapshot.queues) {
      if (this.#driven.has(queue.index) || this.#usedIndex(queue) !== undefined) continue
      const text = `nobody can tell where queue ${queue.index} stands: its ring does not show it, and a device that broke down is not asked`
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path: this.#device.path })
    }
  }

  *steps(): Steps<Restored> {
    const device = this.#device
    yield* device.haltSteps()
    yield* this.#takeDriver()
    yield* this.#takeQueues()
    yield* this.#takeShadows()
    yield* device.resetSteps()
    const { eventfds, timeout, shadowControl } = this.#wish
    // The control queue is closed, and so a command that the device had is answered.
    const guest = yield* sleeping({ now: laterOnly, later: () => guestOf(shadowControl) })
    const [snapshot, memories, driver] = [this.#snapshot, this.#memories, this.#driver]
    yield* prepareSteps(device, snapshot, memories)
    const from = { snapshot, memories, driver, eventfds, timeout, shadowControl, shadows: this.#inPlaces() }
    yield* arriveSteps(device, from, this.#arrived)
    if (guest !== undefined) this.#arrived.shadowControl?.attach(guest)
    return restored(device, this.#arrived, { ...snapshot, lost: this.#lost })
  }

  /** Nobody goes on with what was taken: who waits is told, and the memory is freed. */
  giveUp(failures: Failures): void {
    const [device, driver] = [this.#device, this.#driver]
    if (driver !== undefined && 'queues' in driver && this.#arrived.driver === undefined)
      failures.now(() => giveUp(driver, [device]))
    for (const { place, hasEnded } of this.#loose)
      if (hasEnded && !place.memory.isClosed && !device.takesOver(place.memory))
        failures.now(() => place.memory.close())
    for (const shadow of this.#shadows) failures.now(() => shadow.recovery.giveUp())
  }

  /** The driver's books. One that has none any more, because its requests were told of the breakdown or a ring is broken, begins anew. */
  *#takeDriver(): Steps<void> {
    const { driver } = this.#wish
    if (driver === undefined) return
    try {
      this.#driver = yield* driver.saveSteps(true)
    } catch (failure) {
      const isOfBooks =
        isVdpaError(failure) && ['ERR_VDPA_DEVICE_BROKEN', 'ERR_VDPA_RING_BROKEN'].includes(failure.code)
      if (!isOfBooks) throw failure
      this.#driver = driver.anew()
      this.#lost.push(`the driver begins with empty queues: ${failure.message}`)
    }
  }

  /** The books of queues that no driver has, and where those stand that somebody else drives, now that nothing moves. */
  *#takeQueues(): Steps<void> {
    const books = new Map(this.#loose.map((queue) => [queue.index, this.#booksOf(queue)]))
    const queues = this.#snapshot.queues.map((queue): QueueState => {
      const own = books.get(queue.index)
      if (own !== undefined) return { ...queue, books: own }
      if (this.#driven.has(queue.index)) return queue
      const used = this.#usedIndex(queue) ?? 0
      this.#lost.push(carriedOutAgain(queue.index))
      return { ...queue, position: { available: used, used } }
    })
    this.#snapshot = { ...this.#snapshot, queues }
    for (const queue of this.#loose) yield* queue.partSteps()
  }

  /** What the device used of the shadows' rings is the guests'; the rest is in their books, which they keep. A ring that was broken is not made again. */
  *#takeShadows(): Steps<void> {
    const ended = new Set<number>()
    for (const shadow of this.#shadows) {
      if (yield* shadow.recovery.partSteps()) continue
      ended.add(shadow.index)
      this.#lost.push(`queue ${shadow.index} of the guest is served no more: its ring, or the shadow's, was broken`)
    }
    const queues = this.#snapshot.queues.map((queue) =>
      ended.has(queue.index) ? { ...queue, isEnabled: false } : queue,
    )
    this.#snapshot = { ...this.#snapshot, queues }
  }

  /** Rings that come back to their places are made before those that are begun anew, wherever there is room. */
  #inPlaces(): ShadowQueue[] {
    const isPlaced = (shadow: ShadowQueue) => shadow.recovery.savedPlace !== undefined
    return [...this.#shadows.filter(isPlaced), ...this.#shadows.filter((shadow) => !isPlaced(shadow))]
  }

  #booksOf(queue: DeviceQueue): QueueBooks {
    const { memory, iova, ...books } = queue.snapshot()
    return { ...books, iova: `0x${iova.toString(16)}`, memory: this.#memories.push(memory) - 1 }
  }

  /** Where the ring of a queue shows that the device got to. */
  #usedIndex({ asid, descriptorAsid = asid, addresses }: QueueState): number | undefined {
    if ((BigInt(this.#snapshot.features) >> RING_PACKED) & 1n) return undefined
    return usedIndex(this.#device.addressSpace(descriptorAsid), BigInt(addresses.device))
  }
}
