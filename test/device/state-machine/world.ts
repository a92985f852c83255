// One device on a simulator of its own, driven by verbs that are data, and what is true of it and of the simulator behind it.

import { FaultyBackend, type PlantedFault } from '../../../lib/backend/faulty-backend.js'
import { isVdpaError } from '../../../lib/base/errors.js'
import type { DeviceQueue, QueueSnapshot } from '../../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { recoverDevice } from '../../../lib/move/recover.js'
import { openDevice } from '../../../lib/open.js'
import { ShadowQueue } from '../../../lib/shadow/shadow-queue.js'
import { networkDevice, Simulator } from '../../../lib/simulator/index.js'
import { among, same } from './same.js'
import { StillGuest } from './still-guest.js'
import { SLOTS, type Batch, type Verb } from './verbs.js'

const path = '/dev/vhost-vdpa-0'
const PAGE = 4096
/** Turns of the event loop after which a promise counts as one that never settles. */
const TURNS = 2000
const TICKS = 100

const forgetful = [
  'VHOST_BACKEND_F_IOTLB_MSG_V2',
  'VHOST_BACKEND_F_IOTLB_BATCH',
  'VHOST_BACKEND_F_IOTLB_ASID',
  'VHOST_BACKEND_F_SUSPEND',
  'VHOST_BACKEND_F_RESUME',
] as const

export class World {
  readonly simulator = new Simulator()
  readonly device: VdpaDevice<'net'>
  readonly guest: StillGuest
  readonly queues: DeviceQueue[] = []
  readonly #backend: FaultyBackend
  readonly #regions: MemoryRegion[]
  readonly #snapshots: QueueSnapshot[] = []
  readonly #told: number[] = []
  readonly #faults: PlantedFault[] = []

  static async make(persists: boolean): Promise<World> {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path, maxQueueSize: 4 }))
    const backend = new FaultyBackend(simulator)
    const options = persists ? {} : { backendFeatures: forgetful }
    const device = await openDevice(path, { backend, expect: 'net', ...options })
    const guest = new StillGuest(simulator, device)
    await device.addressSpace(0).map(guest.memory)
    return new World(simulator, backend, device, guest)
  }

  private constructor(simulator: Simulator, backend: FaultyBackend, device: VdpaDevice<'net'>, guest: StillGuest) {
    this.guest = guest
    this.simulator = simulator
    this.#backend = backend
    this.device = device
    this.#regions = Array.from({ length: SLOTS }, () => simulator.allocate(PAGE))
  }

  /** Whether a fault that never ends was planted. */
  isSpoiled = false

  plant(faults: Batch['faults']): void {
    this.isSpoiled ||= faults.some(({ times }) => times === Infinity)
    for (const fault of faults) this.#faults.push(this.#backend.fail(fault))
  }

  /** Calls that were refused so far. */
  get hits(): number {
    return this.#faults.reduce((sum, fault) => sum + fault.hits, 0)
  }

  /** Calls the verb, and gives what it answers: 'ok', or a code. `made` are the queues that the program knows when it calls. */
  async carryOut(verb: Verb, made: readonly DeviceQueue[] = this.queues): Promise<string> {
    return settled(this.#call(verb, made)).then(
      () => 'ok',
      (failure: unknown) => codeOf(failure),
    )
  }

  #call(verb: Verb, made: readonly DeviceQueue[]): Promise<unknown> {
    const { device } = this
    const queue = 'queue' in verb ? made.at(-1 - verb.queue) : undefined
    switch (verb.verb) {
      case 'negotiate':
        return device.negotiate(
          verb.isOffered ? ['VIRTIO_NET_F_CTRL_VQ'] : ['VIRTIO_NET_F_RSS', 'VIRTIO_NET_F_CTRL_VQ'],
        )
      case 'createQueue':
        return this.#createQueue(verb.index)
      case 'closeQueue':
        return queue?.close() ?? Promise.resolve()
      case 'disposeQueue':
        return queue?.[Symbol.asyncDispose]() ?? Promise.resolve()
      case 'saveQueue':
        return queue?.save().then((snapshot) => this.#snapshots.push(snapshot)) ?? Promise.resolve()
      case 'map':
      case 'unmap':
        return this.#onMemory(verb.verb, verb.slot)
      case 'beginShadows':
        return ShadowQueue.beginAll(this.guest.some(verb.shadows))
      case 'endShadows':
        return ShadowQueue.endAll(this.guest.some(verb.shadows))
      case 'closeShadow':
        return this.guest.shadow(verb.shadow).close()
      case 'disposeShadow':
        return this.guest.shadow(verb.shadow)[Symbol.asyncDispose]()
      case 'recover':
        return recoverDevice(device).then(({ queues }) => queues.forEach((made) => this.#know(made)))
      case 'close':
        return device.close()
      case 'start':
      case 'suspend':
      case 'resume':
      case 'reset':
        return device[verb.verb](verb.isAborted ? { signal: AbortSignal.abort() } : {})
    }
  }

  async #createQueue(index: number): Promise<void> {
    const space = this.device.isClosed ? undefined : this.device.addressSpace(0)
    const queue = await this.device.createQueue(index, { addressSpace: space as never, bufferBytes: 64 })
    this.#know(queue)
  }

  #know(queue: DeviceQueue): void {
    queue.onClose(() => this.#told.push(this.queues.indexOf(queue)))
    this.queues.push(queue)
  }

  async #onMemory(verb: 'map' | 'unmap', slot: number): Promise<void> {
    const space = this.device.addressSpace(0)
    const iova = BigInt(slot * PAGE)
    if (verb === 'map') await space.map({ iova, region: this.#regions[slot] as MemoryRegion })
    else await space.unmap({ iova, size: BigInt(PAGE) })
  }

  /** Slots of the memory that our account says is mapped. */
  get mapped(): number[] {
    const own = this.device.isClosed ? [] : this.device.addressSpace(0).mappings
    return own.filter(({ iova }) => iova < BigInt(SLOTS * PAGE)).map(({ iova }) => Number(iova) / PAGE)
  }

  /** What must be true between two verbs, whatever happened. `isSure`: no call was refused since the last reset. */
  check(isSure: boolean): void {
    const { state } = this.device
    if (state === 'closed' || state === 'closing') return
    const dump = this.simulator.dump(path)
    const ours = this.device
      .addressSpace(0)
      .mappings.map(({ iova, size }) => `[0x${iova.toString(16)}, 0x${(iova + size - 1n).toString(16)}]`)
    const theirs = dump.addressSpaces.flatMap((space) => space.mappings.map(({ range }) => range))
    among(theirs, ours)
    // A device sees what is mapped, also after a reset that had it forget.
    if (isSure)
      same(
        dump.addressSpaces.filter((space) => space.isBehind && space.mappings.length > 0),
        [],
      )
    if (state === 'lost') return
    const { status } = dump
    same(
      [status.includes('FEATURES_OK'), status.includes('DRIVER_OK'), dump.isSuspended],
      [state !== 'claimed', state === 'running' || state === 'suspended', state === 'suspended'],
    )
    const open = [...this.queues.filter((queue) => !queue.isClosed).map(({ index }) => index), ...this.guest.served]
    const ready = dump.queues.filter((queue) => queue.isReady === true).map((queue) => queue.index)
    // What was given up and cannot be taken back stays where it is until the reset that is due; the device does not run before it.
    if (state === 'claimed' || state === 'running') among(ready, open)
    same(this.device.features !== undefined, state !== 'claimed')
    for (const queue of this.queues) if (!queue.isClosed) same(queue.buffers.byteLength, 64)
  }

  /** Closes what is open, and finds nothing left. */
  async end(): Promise<void> {
    await settled(this.device.close().catch(() => undefined))
    same(this.device.state, 'closed')
    this.guest.end()
    same(this.simulator.descriptors, [])
    same(
      [...this.#told].sort((a, b) => a - b),
      [...this.queues.keys()],
    )
    same(
      this.queues.every((queue) => queue.isClosed),
      true,
    )
    const saved = new Set<ArrayBufferLike>(this.#snapshots.map(({ memory }) => memory.buffer))
    for (const { buffers } of this.queues) same(buffers.buffer.byteLength > 0, saved.has(buffers.buffer))
    for (const { memory } of this.#snapshots) memory.close()
    for (const region of this.#regions) region.close()
  }
}

function codeOf(failure: unknown): string {
  const errors = (failure as Partial<AggregateError>).errors as unknown
  if (Array.isArray(errors)) return errors.map(codeOf).join('+')
  if (isVdpaError(failure)) return failure.code
  throw failure
}

/** The promise, or a failure when it does not settle while the event loop turns. */
async function settled<T>(promise: Promise<T>): Promise<T> {
  let isSettled = false
  const end = () => (isSettled = true)
  promise.then(end, end)
  // Mostly it takes no turn of the loop.
  for (let tick = 0; tick < TICKS && !isSettled; tick++) await Promise.resolve()
  for (let turn = 0; turn < TURNS && !isSettled; turn++) await new Promise((resolve) => setImmediate(resolve))
  if (!isSettled) throw new Error('a promise does not settle')
  return promise
}
