// A running device moves to another one: what can be done while it runs is done before the stop. When it fails, the guest goes on where it was: it runs on one side,
// exactly one.

import { checkInteger, checkObject } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { Steps } from '../base/steps.js'
import type { GuestControlRing } from '../control/guest-ring.js'
import { checkDevice } from '../device/check-device.js'
import type { DeviceSnapshot, QueueState, SnapshotOptions, TakenSnapshot } from '../device/snapshot.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { ShadowQueue } from '../shadow/shadow-queue.js'
import type { RingState } from '../virtqueue/virtqueue.js'
import { arriveSteps, later, prepareSteps, type Arrived } from './arrive.js'
import { checkArrival, checkPassengers } from './check-wish.js'
import { giveUp, guestOf, type SavedDriver } from './carried.js'
import { DriverCarry } from './driver-carry.js'
import { MemoryCopy } from './memory-copy.js'
import { checkMovable, checkPositions } from './movable.js'
import type { MoveDeviceOptions, MoveOptions, MoveResult } from './move-options.js'
import { inCopiedMemory, outlineOf, withGuestRings } from './outline.js'
import { checkNew, refuseDifferences } from './restore.js'
import { Stopwatch } from './stopwatch.js'

export type { MoveDeviceOptions, MoveOptions, MoveResult } from './move-options.js'

const ROUNDS = 8
/** A round that copied no more is followed by the stop: the last one will not take long. */
const LITTLE = 1 << 20

/**
 * Moves what runs on `source` to `target`, which was opened and not negotiated. Before the stop: the two are compared, the target is negotiated, everything is mapped for it, and memory
 * that it has for itself is copied. Then the source is suspended, what it was told is told to the target, and the target runs; the source is closed. A failure before the stop is
 * thrown: the source runs on, and the target is closed unless it was never touched. After it the move resolves: where it failed, the source goes on, resumed or restored.
 * Only where that is refused too it is thrown, and neither runs. The target must offer every feature that the source negotiated, those of the platform among them: VIRTIO_F_ORDER_PLATFORM
 * is negotiated with a list of features wherever it is offered, and with a word of bits only where it is in it.
 *
 * A source that cannot be suspended is stopped by a reset where drivers of this package drive its queues; what it had taken and not answered is carried out again, and `lost`
 * says so. ERR_VDPA_NOT_SUPPORTED where somebody else drives one, and where the target differs; ERR_VDPA_STATE where the source does not run, the target is not new, a
 * queue's driver was not given, or one was given that drives no queue of the source. prepareMove() has the same in pieces.
 */
export async function moveDevice<const Wish extends MoveDeviceOptions = MoveDeviceOptions>(
  source: VdpaDevice,
  target: VdpaDevice,
  options?: Wish,
): Promise<MoveResult<Wish>>
export async function moveDevice(
  source: VdpaDevice,
  target: VdpaDevice,
  options: MoveDeviceOptions = {},
): Promise<MoveResult> {
  checkObject(options, 'options')
  const { rounds = ROUNDS, ...wish } = options
  checkInteger(rounds, 'rounds', 0, 0xffff)
  const move = await prepareMove(source, target, wish)
  try {
    if (wish.memory?.log !== undefined) for (let round = 0; round < rounds && (await move.copy()) > LITTLE; round++);
  } catch (failure) {
    await move.abandon().catch(() => undefined)
    throw failure
  }
  return move.finish()
}

/**
 * The part of a move that needs no stop: the two are compared, the target is negotiated, and what the source has mapped is mapped for it. The source runs on. Then copy(), as often as there is
 * much to copy, and finish() or abandon(). Errors as moveDevice(); the target is closed then, unless it was never touched.
 */
export async function prepareMove(
  source: VdpaDevice,
  target: VdpaDevice,
  options: MoveOptions = {},
): Promise<DeviceMove> {
  checkObject(options, 'options')
  checkDevice(source, 'source')
  checkDevice(target, 'target')
  checkPassengers(options)
  checkArrival(options)
  const { shadows = [], eventfds = [] } = options
  const wish = { ...options, shadows: [...shadows], eventfds: eventfds.map((one) => ({ ...one })) }
  const copy = wish.memory === undefined ? undefined : new MemoryCopy(wish.memory)
  const move = await source.changeQueues('prepareMove()', () => {
    checkMovable(source, wish)
    // A device that runs is no target.
    if (target === source) checkNew(target)
    const frame = source.takeSnapshot({ isRunning: true, isInside: true, ...bookOf(wish) })
    const outline = outlineOf(source, frame, wish.shadows)
    const made = new DeviceMove(source, target, wish, { frame, outline, copy })
    return later(() => Promise.resolve(made))
  })
  await move.prepare()
  return move
}

/** A move whose target is prepared: prepareMove() gives it. */
export class DeviceMove {
  readonly #source: VdpaDevice
  readonly #target: VdpaDevice
  readonly #wish: MoveOptions
  readonly #shadows: readonly ShadowQueue[]
  readonly #copy: MemoryCopy | undefined
  readonly #carry: DriverCarry
  readonly #watch = new Stopwatch()
  /** What is done one after another: rounds, and the end. */
  #last: Promise<unknown> = Promise.resolve()
  #isEnding = false
  #isStopped = false
  #isAbandoned = false
  /** The source as it was looked at last, and what is made of that for who goes on. */
  readonly #frame: TakenSnapshot
  #taken: TakenSnapshot
  #prepared: Prepared | undefined
  #saved: SavedDriver | undefined
  /** The guest whose control queue is shadowed, and where its ring stands while nobody serves it. */
  #guest: GuestControlRing | undefined

  /** @internal */
  constructor(
    source: VdpaDevice,
    target: VdpaDevice,
    wish: MoveOptions,
    { frame, outline, copy }: { frame: TakenSnapshot; outline: TakenSnapshot; copy: MemoryCopy | undefined },
  ) {
    this.#source = source
    this.#target = target
    this.#wish = wish
    this.#shadows = wish.shadows ?? []
    this.#frame = frame
    this.#taken = outline
    this.#copy = copy
    this.#carry = new DriverCarry(source.backend, target.backend)
  }

  /** @internal */
  async prepare(): Promise<void> {
    const [target, taken] = [this.#target, this.#taken]
    const there = inCopiedMemory(taken, this.#copy)
    let isTouched = false
    const steps = function* (): Steps<void> {
      checkNew(target)
      refuseDifferences(target, there.snapshot)
      isTouched = true
      yield* prepareSteps(target, there.snapshot, there.memories)
    }
    try {
      await this.#watch.during('prepare', false, () => target.changeQueues('prepareMove()', steps))
      this.#prepared = { spaces: taken.snapshot.spaces, there, versions: versionsOf(target, there) }
    } catch (failure) {
      if (!isTouched) throw failure
      await this.#leaveTarget(failure)
    }
  }

  /**
   * Copies what was written to the guest's memory since the last time, all of it the first time, while the source runs. Returns how many bytes that were; 0 where no memory is copied. What is
   * copied in the stop is what was written since. ERR_VDPA_STATE from finish() or abandon() on.
   */
  async copy(): Promise<number> {
    this.#checkGoing()
    return this.#inTurn(() => this.#watch.during('copy', false, async () => (await this.#copy?.round()) ?? 0))
  }

  /**
   * The stop, and all that follows: see moveDevice(). Once; ERR_VDPA_STATE afterwards. It is a verb of the source from the call on: others of it, those that map memory as well, wait until it has
   * ended, and their twins in `Sync` are refused; so does it wait for a copy() that is under way.
   */
  async finish(): Promise<MoveResult> {
    this.#checkGoing()
    this.#isEnding = true
    const before = this.#last
    const result = this.#finish(before)
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Gives the move up: the target is closed, and the source runs on. From finish() on it only waits for that to end: one of the two runs then. */
  async abandon(): Promise<void> {
    const isFinishing = this.#isEnding && !this.#isAbandoned
    if (isFinishing) return this.#inTurn(() => Promise.resolve())
    this.#isEnding = true
    this.#isAbandoned = true
    return this.#inTurn(() => this.#target.close())
  }

  async #finish(before: Promise<unknown>): Promise<MoveResult> {
    try {
      return await this.#source.changeQueues('finish()', () => this.#finishSteps(before))
    } catch (failure) {
      if (!this.#isStopped) await this.#leaveTarget(failure)
      throw failure
    }
  }

  /** One procedure of the source: what else is asked of it finds it closed, or going on. */
  *#finishSteps(before: Promise<unknown>): Steps<MoveResult> {
    // A round of copying that is under way.
    yield* later(() => before)
    const [source, target, watch] = [this.#source, this.#target, this.#watch]
    const arrived: Arrived = { queues: [] }
    checkMovable(source, this.#wish)
    if (canSuspend(source)) yield* watch.duringSteps('suspend', true, ShadowQueue.holdSteps(source, this.#shadows))
    this.#isStopped = true
    let refused: Refused | undefined
    try {
      yield* watch.duringSteps('take', true, this.#takeSteps())
      const copy = this.#copy
      if (copy !== undefined)
        yield* watch.duringSteps(
          'copy',
          true,
          later(() => copy.round()),
        )
      const there = later(() => target.changeQueues('moveDevice()', () => this.#arriveThereSteps(arrived)))
      refused = yield* watch.duringSteps('arrive', true, there)
    } catch (failure) {
      refused = { failure, hasRun: false }
    }
    if (refused !== undefined) return yield* watch.duringSteps('return', true, this.#goBackSteps(refused))
    let failure: unknown
    try {
      yield* watch.duringSteps('close', false, this.#closeSourceSteps())
    } catch (met) {
      failure = met
    }
    return this.#result({ isMoved: true, failure, device: target, arrived })
  }

  *#closeSourceSteps(): Steps<void> {
    const failures = new Failures()
    yield* failures.attempt(this.#source.endSteps())
    this.#carry.end(true, failures)
    failures.throwMet(`closing ${this.#source.path}, which moved, met failures`)
  }

  /** Takes the books of a device that stands still, or that is stopped by a reset with its driver's. */
  *#takeSteps(): Steps<void> {
    const source = this.#source
    const { driver, shadowControl } = this.#wish
    this.#guest = yield* later(() => guestOf(shadowControl))
    if (source.isSuspended) {
      const frame = source.takeSnapshot({ ...bookOf(this.#wish), previous: this.#frame, isInside: true })
      this.#taken = withGuestRings(frame, this.#shadows)
      checkPositions(source, this.#taken)
    } else {
      const now = { ...bookOf(this.#wish), previous: this.#frame, isRunning: true, isInside: true } as const
      const taken = outlineOf(source, source.takeSnapshot(now), this.#shadows)
      const lost = `${source.path} cannot be suspended: what it had taken and not answered is carried out again`
      this.#taken = { ...taken, snapshot: { ...taken.snapshot, lost: [lost] } }
    }
    if (driver !== undefined) this.#saved = yield* driver.saveSteps(true)
  }

  *#arriveSteps(device: VdpaDevice, arrived: Arrived): Steps<void> {
    const isTarget = device === this.#target
    const { isMapped, ...taken } = isTarget ? this.#there() : { ...this.#taken, isMapped: false }
    const driver = isTarget ? this.#carry.forth(this.#saved) : this.#saved
    const { eventfds, timeout, shadowControl, memory } = this.#wish
    const own = this.#shadows.map(({ index, options }) => ({
      index,
      kick: options.guest.kick,
      call: options.guest.call,
    }))
    const all = [...(eventfds ?? []), ...own]
    yield* arriveSteps(device, { ...taken, isMapped, driver, eventfds: all, timeout, shadowControl }, arrived)
    const guest = this.#guest
    if (guest === undefined) return
    arrived.shadowControl?.attach(isTarget && memory !== undefined ? { ...guest, memory: memory.to } : guest)
    this.#guest = undefined
  }

  /** What the target is told. Where nothing was mapped or unmapped since it was prepared, its mappings are not looked at again: they may be many. */
  #there(): TakenSnapshot & { readonly isMapped: boolean } {
    const [taken, prepared] = [this.#taken, this.#prepared]
    if (prepared === undefined || taken.snapshot.spaces !== prepared.spaces)
      return { ...inCopiedMemory(taken, this.#copy), isMapped: false }
    const { there, versions } = prepared
    // The books of queues have numbers behind those of what is mapped.
    const memories = [...there.memories]
    const books = taken.memories.slice(this.#frame.memories.length)
    const moved = (queue: QueueState): QueueState => {
      if (queue.books === undefined) return queue
      const at = there.memories.length + queue.books.memory - this.#frame.memories.length
      return { ...queue, books: { ...queue.books, memory: at } }
    }
    memories.push(...books)
    const snapshot = {
      ...taken.snapshot,
      spaces: there.snapshot.spaces,
      queues: taken.snapshot.queues.map(moved),
      memories: memories.map(({ length }) => ({ length })),
    }
    const now = versionsOf(this.#target, there)
    const isMapped = versions.every((version, at) => version === now[at])
    return { ...taken, snapshot, memories, isMapped }
  }

  /**
   * The target's part of the stop, as one procedure of it. Where it fails, what was given to the target is taken back before anything else that is asked of it has its turn, and that finds it
   * closed.
   */
  *#arriveThereSteps(arrived: Arrived): Steps<Refused | undefined> {
    const target = this.#target
    try {
      yield* this.#arriveSteps(target, arrived)
      return undefined
    } catch (failure) {
      const hasRun = target.isRunning
      const lost = yield* this.#takeBackSteps(arrived)
      // What that meets, who closes it again is told.
      yield* new Failures().attempt(target.endSteps())
      return { failure, hasRun, ...(lost !== undefined && { lost }) }
    }
  }

  /** Returns what kept it from being taken back, if anything did. */
  *#takeBackSteps(arrived: Arrived): Steps<{ readonly by: unknown } | undefined> {
    try {
      if (this.#target.isRunning) yield* this.#takeGuestsBackSteps(arrived)
      const { driver } = arrived
      if (driver === undefined) return undefined
      this.#saved = yield* driver.saveSteps(true)
      this.#saved = this.#carry.back(this.#saved)
      return undefined
    } catch (by) {
      return { by }
    }
  }

  /** A target that ran has moved the rings of a guest on, and what it wrote counts. */
  *#takeGuestsBackSteps({ shadowControl }: Arrived): Steps<void> {
    const target = this.#target
    const { snapshot } = this.#taken
    if (snapshot.queues.some(({ position }) => position !== null) && canSuspend(target)) {
      yield* target.suspendSteps()
      const now = target.takeSnapshot({ isInside: true }).snapshot.queues
      const queues = snapshot.queues.map((queue) => {
        const position = now.find(({ index }) => index === queue.index)?.position
        return queue.position === null || position === undefined ? queue : { ...queue, position }
      })
      this.#taken = { ...this.#taken, snapshot: { ...snapshot, queues } }
    }
    const guest = yield* later(() => guestOf(shadowControl))
    const memory = this.#wish.shadowControl?.guest?.memory
    if (guest !== undefined) this.#guest = memory === undefined ? guest : { ...guest, memory }
    yield* later(async () => this.#copy?.back())
  }

  /** The source goes on: from where the target got to, if it ran. */
  *#goBackSteps({ failure, hasRun, lost }: Refused): Steps<MoveResult> {
    const [source, target] = [this.#source, this.#target]
    const failures = new Failures()
    failures.keep(failure)
    const refused = { isMoved: false, failure, device: source }
    const back: Arrived = { queues: [] }
    try {
      yield* later(() => target.close().catch((met: unknown) => failures.keep(met)))
      if (lost !== undefined) throw lost.by
      this.#carry.end(false, failures)
      if (!hasRun && this.#saved === undefined && (yield* resumedSteps(source))) {
        ShadowQueue.letGo(this.#shadows)
        const { driver, control, shadowControl } = this.#wish
        if (this.#guest !== undefined) shadowControl?.attach(this.#guest)
        return this.#result({ ...refused, arrived: { driver, control, shadowControl }, shadows: this.#shadows })
      }
      const { driver } = this.#wish
      if (this.#saved === undefined && driver !== undefined) this.#saved = yield* driver.saveSteps(true)
      yield* source.resetSteps()
      const { snapshot, memories } = this.#taken
      yield* prepareSteps(source, snapshot, memories)
      yield* this.#arriveSteps(source, back)
      return this.#result({ ...refused, arrived: back })
    } catch (met) {
      failures.keep(met)
      // Half of what it was told is nothing that anybody goes on with.
      yield* failures.attempt(source.resetSteps())
      if (back.driver === undefined) failures.now(() => giveUp(this.#saved, [source, target]))
    }
    failures.throwMet(`${source.path} did not move to ${target.path}, and could not go on either`)
    throw failure
  }

  #result(end: {
    readonly isMoved: boolean
    readonly failure: unknown
    readonly device: VdpaDevice
    readonly arrived: Omit<Arrived, 'queues'>
    readonly shadows?: readonly ShadowQueue[]
  }): MoveResult {
    const { isMoved, failure, device, arrived } = end
    const { driver, control, shadowControl } = arrived
    const report = this.#watch.report(this.#taken.snapshot.lost)
    const shadows = end.shadows ?? this.#shadows.map((shadow) => this.#shadowOn(device, shadow))
    return { isMoved, failure, device, driver, control, shadowControl, shadows, report }
  }

  /** A queue that was shadowed, and that the device serves by itself now. */
  #shadowOn(device: VdpaDevice, shadow: ShadowQueue): ShadowQueue {
    const { index, options } = shadow
    const state = this.#taken.snapshot.queues.find((queue) => queue.index === index)?.position as RingState
    const { space, descriptorSpace, log: _, ...wish } = options
    const memory = device === this.#target ? this.#wish.memory?.to : undefined
    const there = new ShadowQueue(device, {
      ...wish,
      ...(memory !== undefined && { guest: { ...options.guest, memory } }),
      space: device.addressSpace(space.asid),
      ...(descriptorSpace !== undefined && { descriptorSpace: device.addressSpace(descriptorSpace.asid) }),
    })
    there.noteAttached(state)
    return there
  }

  async #leaveTarget(failure: unknown): Promise<never> {
    const failures = new Failures()
    failures.keep(failure)
    await this.#target.close().catch((met: unknown) => failures.keep(met))
    failures.throwMet(`${this.#source.path} did not move, and closing ${this.#target.path} met failures`)
    throw failure
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work)
    this.#last = result.catch(() => undefined)
    return result
  }

  #checkGoing(): void {
    if (this.#isEnding)
      throw vdpaError('ERR_VDPA_STATE', 'the move has ended, or is ending', { path: this.#source.path })
  }
}

/** A target that does not go on. */
interface Refused {
  readonly failure: unknown
  /** Whether it had DRIVER_OK. */
  readonly hasRun: boolean
  /** What kept it from giving back what it was given: the source cannot go on then. */
  readonly lost?: { readonly by: unknown }
}

/** What was mapped for the target beforehand. */
interface Prepared {
  /** Of the source. */
  readonly spaces: DeviceSnapshot['spaces']
  /** Of the target. */
  readonly there: TakenSnapshot
  readonly versions: readonly number[]
}

function versionsOf(device: VdpaDevice, { snapshot }: TakenSnapshot): number[] {
  return snapshot.spaces.map(({ asid }) => device.addressSpace(asid).version)
}

/** Who knows what the control queue has set. */
function bookOf({ control, shadowControl }: MoveOptions): SnapshotOptions {
  const book = shadowControl ?? control
  return book === undefined ? {} : { control: book }
}

function canSuspend(device: VdpaDevice): boolean {
  return device.backendFeatures.has('VHOST_BACKEND_F_SUSPEND')
}

/** Whether a device that stands still runs again by a mere resume. */
function* resumedSteps(device: VdpaDevice): Steps<boolean> {
  if (!device.isSuspended || !device.backendFeatures.has('VHOST_BACKEND_F_RESUME')) return false
  return yield* new Failures().attempt(device.resumeSteps())
}
