// A running device moves to another one: what can be done while it runs is done before the stop. When it fails, the guest goes on where it was: it runs on one side,
// exactly one.

import { checkObject } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { Failures } from '../base/failures.js'
import type { NetControlQueue } from '../control/net-control-queue.js'
import type { DeviceSnapshot, TakenSnapshot } from '../device/snapshot.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { BlockDriver } from '../drivers/block-driver.js'
import type { NetDriver } from '../drivers/net-driver.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { initialState } from '../virtqueue/layout.js'
import { arriveSteps, prepareSteps, type Arrived, type QueueEventfds } from './arrive.js'
import { checkGiven, giveUp, looseQueues, type SavedDriver } from './carried.js'
import { checkNew, refuseDifferences } from './restore.js'
import { Stopwatch, type MoveReport } from './stopwatch.js'

/** What moves with a device. */
export interface MoveOptions {
  /** The driver of its data queues; ended by the move, and in the answer another goes on in its place. */
  readonly driver?: NetDriver | BlockDriver
  /** The control queue, where it is driven from here; likewise. */
  readonly control?: NetControlQueue
  /** The eventfds of queues that somebody else drives. */
  readonly eventfds?: readonly QueueEventfds[]
  /** Milliseconds that the device has for a command of the control queue; default 10,000. */
  readonly timeout?: number
}

/** Where the guest runs now, and what goes on in place of what was given. */
export interface MoveResult {
  /** Whether it runs on the target. Otherwise it goes on where it was, and `failure` says why. */
  readonly isMoved: boolean
  /** What failed once the source was stopped; the failure of closing the source where it was moved all the same. */
  readonly failure: unknown
  /** The device that runs. */
  readonly device: VdpaDevice
  /** The driver that goes on; the one that was given where nothing but a resume was needed. */
  readonly driver: NetDriver | BlockDriver | undefined
  /** The control queue; likewise. */
  readonly control: NetControlQueue | undefined
  /** How long each step took. */
  readonly report: MoveReport
}

/**
 * Moves what runs on `source` to `target`, which was opened and not negotiated, in memory that both reach. Before the stop: the two are compared, the target is negotiated, and
 * everything is mapped for it. Then the source is suspended, what it was told is told to the target, and the target runs; the source is closed. A failure before the stop is
 * thrown: the source runs on, and the target is closed unless it was never touched. After it the move resolves: where it failed, the source goes on, resumed or restored.
 * Only where that is refused too it is thrown, and neither runs.
 *
 * A source that cannot be suspended is stopped by a reset where drivers of this package drive its queues; what it had taken and not answered is carried out again, and `lost`
 * says so. ERR_VDPA_NOT_SUPPORTED where somebody else drives one, and where the target differs; ERR_VDPA_STATE where the source does not run, the target is not new, or a
 * queue's driver was not given.
 */
export async function moveDevice(
  source: VdpaDevice,
  target: VdpaDevice,
  options: MoveOptions = {},
): Promise<MoveResult> {
  checkObject(options, 'options')
  const wish = { ...options }
  checkMovable(source, wish)
  checkNew(target)
  const { control } = wish
  const frame = source.takeSnapshot({ isRunning: true, ...(control !== undefined && { control }) })
  const outline = outlineOf(source, frame.snapshot)
  refuseDifferences(target, outline)
  const move = new Move(source, target, wish, frame)
  return move.run(outline)
}

class Move {
  readonly #source: VdpaDevice
  readonly #target: VdpaDevice
  readonly #wish: MoveOptions
  readonly #watch = new Stopwatch()
  #snapshot: DeviceSnapshot
  #memories: readonly MemoryRegion[]
  #saved: SavedDriver | undefined

  constructor(source: VdpaDevice, target: VdpaDevice, wish: MoveOptions, frame: TakenSnapshot) {
    this.#source = source
    this.#target = target
    this.#wish = wish
    this.#snapshot = frame.snapshot
    this.#memories = frame.memories
  }

  async run(outline: DeviceSnapshot): Promise<MoveResult> {
    const [source, target, watch] = [this.#source, this.#target, this.#watch]
    const arrived: Arrived = { queues: [] }
    try {
      await watch.during('prepare', false, () => this.#prepare(target, outline))
      if (canSuspend(source)) await watch.during('suspend', true, () => source.suspend())
    } catch (failure) {
      const failures = new Failures()
      failures.keep(failure)
      await target.close().catch((met: unknown) => failures.keep(met))
      failures.throwMet(`${source.path} did not move, and closing ${target.path} met failures`)
    }
    try {
      await watch.during('take', true, () => this.#take())
      await watch.during('arrive', true, () => this.#arrive(target, arrived))
    } catch (failure) {
      return await watch.during('return', true, () => this.#goBack(failure, arrived))
    }
    let failure: unknown
    await watch.during('close', false, () => source.close()).catch((met: unknown) => (failure = met))
    return this.#result(true, failure, target, arrived)
  }

  /** Takes the books of a device that stands still, or that is stopped by a reset with its driver's. */
  async #take(): Promise<void> {
    const source = this.#source
    const { control, driver } = this.#wish
    if (source.isSuspended) {
      const taken = source.takeSnapshot(control === undefined ? {} : { control })
      this.#snapshot = taken.snapshot
      this.#memories = taken.memories
    } else {
      const lost = `${source.path} cannot be suspended: what it had taken and not answered is carried out again`
      this.#snapshot = { ...this.#snapshot, lost: [lost] }
    }
    this.#saved = await driver?.save({ byReset: true })
  }

  #prepare(device: VdpaDevice, outline: DeviceSnapshot): Promise<void> {
    return device.changeQueues('moveDevice()', () => prepareSteps(device, outline, this.#memories))
  }

  #arrive(device: VdpaDevice, arrived: Arrived): Promise<void> {
    const { eventfds, timeout } = this.#wish
    const from = { snapshot: this.#snapshot, memories: this.#memories, driver: this.#saved, eventfds, timeout }
    return device.changeQueues('moveDevice()', () => arriveSteps(device, from, arrived))
  }

  /** The source goes on: from where the target got to, if it ran. */
  async #goBack(failure: unknown, arrived: Arrived): Promise<MoveResult> {
    const [source, target] = [this.#source, this.#target]
    const failures = new Failures()
    failures.keep(failure)
    try {
      const hasRun = target.isRunning
      if (hasRun) await this.#takeBack()
      if (arrived.driver?.isClosed === false) this.#saved = await arrived.driver.save({ byReset: true })
      await target.close().catch((met: unknown) => failures.keep(met))
      if (!hasRun && this.#saved === undefined && (await resumed(source))) {
        return this.#result(false, failure, source, { driver: this.#wish.driver, control: this.#wish.control })
      }
      const back: Arrived = { queues: [] }
      if (this.#saved === undefined) this.#saved = await this.#wish.driver?.save({ byReset: true })
      await source.reset()
      await this.#prepare(source, this.#snapshot)
      await this.#arrive(source, back)
      return this.#result(false, failure, source, back)
    } catch (met) {
      failures.keep(met)
      await target.close().catch((more: unknown) => failures.keep(more))
      failures.now(() => giveUp(this.#saved))
    }
    failures.throwMet(`${source.path} did not move to ${target.path}, and could not go on either`)
    throw failure
  }

  /** A target that ran has moved the rings of a guest on. */
  async #takeBack(): Promise<void> {
    const target = this.#target
    const guests = this.#snapshot.queues.filter(({ position }) => position !== null)
    if (guests.length === 0 || !canSuspend(target)) return
    await target.suspend()
    const { snapshot } = target.takeSnapshot({})
    const queues = this.#snapshot.queues.map((queue) => {
      const now = snapshot.queues.find(({ index }) => index === queue.index)?.position
      return queue.position === null || now === undefined ? queue : { ...queue, position: now }
    })
    this.#snapshot = { ...this.#snapshot, queues }
  }

  #result(
    isMoved: boolean,
    failure: unknown,
    device: VdpaDevice,
    { driver, control }: Pick<MoveResult, 'driver' | 'control'> | Arrived,
  ): MoveResult {
    const report = this.#watch.report(this.#snapshot.lost)
    return { isMoved, failure, device, driver, control, report }
  }
}

function canSuspend(device: VdpaDevice): boolean {
  return device.backendFeatures.has('VHOST_BACKEND_F_SUSPEND')
}

/** Whether a device that stands still runs again by a mere resume. */
async function resumed(device: VdpaDevice): Promise<boolean> {
  if (!device.isSuspended || !device.backendFeatures.has('VHOST_BACKEND_F_RESUME')) return false
  return device.resume().then(
    () => true,
    () => false,
  )
}

/** Refuses before anything is touched what would be lost on the way. */
function checkMovable(source: VdpaDevice, given: MoveOptions): void {
  const { path } = source
  if (source.state !== 'running')
    throw vdpaError('ERR_VDPA_STATE', `a device that runs is moved, and this one is ${source.state}`, { path })
  checkGiven(source, given)
  const [loose] = looseQueues(source)
  if (loose !== undefined)
    throw vdpaError('ERR_VDPA_STATE', `queue ${loose.index} is driven by ${loose.owner}, which does not move`, { path })
}

/** What can be told of a device that runs: all but where its rings stand. */
function outlineOf(source: VdpaDevice, snapshot: DeviceSnapshot): DeviceSnapshot {
  const driven = new Set(source.drivenQueues.map(({ index }) => index))
  const format = source.features?.has('VIRTIO_F_RING_PACKED') === true ? 'packed' : 'split'
  const queues = snapshot.queues.map((queue) => {
    if (!driven.has(queue.index) && !canSuspend(source))
      throw vdpaError(
        'ERR_VDPA_NOT_SUPPORTED',
        `queue ${queue.index} is not driven from here, and nobody can tell where it stands: SUSPEND is not there`,
        {
          path: source.path,
        },
      )
    return { ...queue, position: initialState(format) }
  })
  return { ...snapshot, queues }
}
