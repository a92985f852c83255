// One device on a simulator of its own, driven by verbs that are data, and what is true of it and of the simulator behind it.

import { FaultyBackend, type PlantedFault } from '../../../lib/backend/faulty-backend.js'
import { isVdpaError } from '../../../lib/base/errors.js'
import { ShadowControlQueue } from '../../../lib/control/shadow-queue.js'
import type { AddressSpace } from '../../../lib/device/address-space.js'
import type { DeviceQueue, QueueSnapshot } from '../../../lib/device/device-queue.js'
import type { VdpaDevice } from '../../../lib/device/vdpa-device.js'
import type { MemoryRegion } from '../../../lib/memory/memory-region.js'
import { prepareMove, type DeviceMove, type MoveResult } from '../../../lib/move/move.js'
import { recoverDevice } from '../../../lib/move/recover.js'
import { openDevice } from '../../../lib/open.js'
import { ShadowQueue } from '../../../lib/shadow/shadow-queue.js'
import { networkDevice, Simulator } from '../../../lib/simulator/index.js'
import type { ControlVerb } from './oracle-control.js'
import type { MoveVerb, OracleTarget } from './oracle-move.js'
import { among, same } from './same.js'
import { StillGuest } from './still-guest.js'
import { TalkingGuest } from './talking-guest.js'
import { SLOTS, type Batch, type Verb } from './verbs.js'

const paths = ['/dev/vhost-vdpa-0', '/dev/vhost-vdpa-1'] as const
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

/** What the program knows when it calls. */
export interface Known {
  readonly device: VdpaDevice<'net'>
  readonly target: VdpaDevice<'net'> | undefined
  readonly queues: readonly DeviceQueue[]
  readonly shadows: readonly ShadowQueue[]
  readonly controls: readonly ShadowControlQueue<AddressSpace>[]
  readonly moves: readonly DeviceMove[]
}

export class World {
  readonly simulator: Simulator
  readonly guest: StillGuest
  readonly queues: DeviceQueue[] = []
  readonly controls: ShadowControlQueue<AddressSpace>[] = []
  readonly moves: DeviceMove[] = []
  readonly #backend: FaultyBackend
  readonly #options: { readonly backendFeatures?: typeof forgetful }
  readonly #regions: MemoryRegion[]
  readonly #snapshots: QueueSnapshot[] = []
  readonly #told: number[] = []
  readonly #faults: PlantedFault[] = []
  readonly #opened: VdpaDevice<'net'>[]
  #device: VdpaDevice<'net'>
  #target: VdpaDevice<'net'> | undefined
  #talker: TalkingGuest | undefined

  static async make(persists: boolean): Promise<World> {
    const simulator = new Simulator()
    simulator.add(networkDevice({ path: paths[0], maxQueueSize: 4 }))
    const backend = new FaultyBackend(simulator)
    const options = persists ? {} : { backendFeatures: forgetful }
    const device = await openDevice(paths[0], { backend, expect: 'net', ...options })
    const guest = new StillGuest(simulator, device)
    await device.addressSpace(0).map(guest.memory)
    return new World(simulator, backend, options, device, guest)
  }

  private constructor(
    simulator: Simulator,
    backend: FaultyBackend,
    options: { readonly backendFeatures?: typeof forgetful },
    device: VdpaDevice<'net'>,
    guest: StillGuest,
  ) {
    this.guest = guest
    this.simulator = simulator
    this.#backend = backend
    this.#options = options
    this.#device = device
    this.#opened = [device]
    this.#regions = Array.from({ length: SLOTS }, () => simulator.allocate(PAGE))
  }

  /** The device that the guest is on. */
  get device(): VdpaDevice<'net'> {
    return this.#device
  }

  /** Opens a device that may be moved to, where a batch moves and there is none. */
  async ready({ verbs }: Batch): Promise<void> {
    if (!verbs.some(({ verb }) => verb === 'prepareMove')) return
    if (this.#target !== undefined && !this.#target.isClosed) return
    const path = paths.find((one) => one !== this.#device.path) as string
    if (!this.simulator.dump().some((node) => node.path === path))
      this.simulator.add(networkDevice({ path, maxQueueSize: 4 }))
    this.#target = undefined
    try {
      this.#target = await openDevice(path, { backend: this.#backend, expect: 'net', ...this.#options })
      this.#opened.push(this.#target)
    } catch (failure) {
      codeOf(failure)
    }
  }

  /** What the program knows now. */
  get known(): Known {
    return {
      device: this.#device,
      target: this.#target,
      queues: [...this.queues],
      shadows: this.guest.shadows,
      controls: [...this.controls],
      moves: [...this.moves],
    }
  }

  /** What the oracle knows of the target. */
  get target(): OracleTarget {
    const target = this.#target
    if (target === undefined) return 'none'
    if (target.isClosed) return 'closed'
    return target.state === 'claimed' ? 'new' : 'used'
  }

  /** The guest with a control queue, once it was asked for. */
  get talker(): TalkingGuest {
    return (this.#talker ??= new TalkingGuest(this.simulator))
  }

  /** Whether the control queue was touched at all. */
  get talks(): boolean {
    return this.#talker !== undefined
  }

  /** Which of the shadows serves the guest's control queue. */
  get serving(): number | undefined {
    const at = this.controls.findIndex(({ isAttached }) => isAttached)
    return at < 0 ? undefined : at
  }

  /** What the oracle knows of the shadows of the control queue. */
  get controlBooks(): { isOpen: boolean; isDisposed: boolean }[] {
    const device = this.#device
    const hasControl = !device.isClosed && device.drivenQueues.some(({ owner }) => owner === 'a NetControlQueue')
    return this.controls.map(({ isClosed }, at) => {
      const isDisposed = isClosed && hasControl && at === this.controls.length - 1
      return { isOpen: !isClosed || isDisposed, isDisposed }
    })
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

  /** Calls the verb, and gives what it answers: 'ok', or a code. */
  async carryOut(verb: Verb, known: Known): Promise<string> {
    return settled(this.#call(verb, known)).then(
      (answer) => (typeof answer === 'string' ? answer : 'ok'),
      (failure: unknown) => codeOf(failure),
    )
  }

  #call(verb: Verb, known: Known): Promise<unknown> {
    const { device } = known
    const queue = 'queue' in verb ? known.queues.at(-1 - verb.queue) : undefined
    const some = (indexes: readonly number[]) => indexes.map((index) => known.shadows[index] as ShadowQueue)
    switch (verb.verb) {
      case 'negotiate':
        return device.negotiate(
          verb.isOffered
            ? ['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_CTRL_MAC_ADDR']
            : ['VIRTIO_NET_F_RSS', 'VIRTIO_NET_F_CTRL_VQ'],
        )
      case 'createQueue':
        return this.#createQueue(device, verb.index)
      case 'closeQueue':
        return queue?.close() ?? Promise.resolve()
      case 'disposeQueue':
        return queue?.[Symbol.asyncDispose]() ?? Promise.resolve()
      case 'saveQueue':
        return queue?.save().then((snapshot) => this.#snapshots.push(snapshot)) ?? Promise.resolve()
      case 'map':
      case 'unmap':
        return this.#onMemory(device, verb.verb, verb.slot)
      case 'beginShadows':
        return ShadowQueue.beginAll(some(verb.shadows))
      case 'endShadows':
        return ShadowQueue.endAll(some(verb.shadows))
      case 'closeShadow':
        return (known.shadows[verb.shadow] as ShadowQueue).close()
      case 'disposeShadow':
        return (known.shadows[verb.shadow] as ShadowQueue)[Symbol.asyncDispose]()
      case 'recover':
        return this.#recover(known)
      case 'close':
        return device.close()
      case 'start':
      case 'suspend':
      case 'resume':
      case 'reset':
        return device[verb.verb](verb.isAborted ? { signal: AbortSignal.abort() } : {})
      case 'prepareMove':
      case 'copy':
      case 'finish':
      case 'abandon':
        return this.#move(verb.verb, known)
      case 'sendCommand':
        this.talker.send(verb.judgement)
        return Promise.resolve()
      case 'startControl':
      case 'attachControl':
      case 'detachControl':
      case 'closeControl':
      case 'disposeControl':
        return this.#control(verb.verb, known)
    }
  }

  async #control(verb: ControlVerb['verb'] | 'startControl', { device, controls }: Known): Promise<unknown> {
    if (verb === 'startControl') {
      const space = device.isClosed ? undefined : device.addressSpace(0)
      const { policy } = this.talker
      return this.controls.push(await ShadowControlQueue.start(device, { space: space as AddressSpace, policy }))
    }
    const control = controls.at(-1)
    if (control === undefined) return undefined
    if (verb === 'attachControl') return this.#attach(control)
    if (verb === 'closeControl') return control.close()
    return verb === 'disposeControl' ? control[Symbol.asyncDispose]() : control.detach()
  }

  /** Who served the guest before does so no more. */
  async #attach(control: ShadowControlQueue<AddressSpace>): Promise<void> {
    const before = this.controls.find(({ isAttached }) => isAttached)
    if (before !== undefined && before !== control && !control.isClosed) await before.detach()
    control.attach(this.talker.queue())
  }

  /** The last of them, ended or not. */
  #given({ controls }: Known): { shadowControl?: ShadowControlQueue<AddressSpace> } {
    const shadowControl = controls.at(-1)
    return shadowControl === undefined ? {} : { shadowControl }
  }

  async #recover(known: Known): Promise<void> {
    const { queues, shadowControl } = await recoverDevice(known.device, this.#given(known))
    for (const made of queues) this.#know(made)
    if (shadowControl !== undefined) this.controls.push(shadowControl)
  }

  async #move(verb: MoveVerb['verb'], known: Known): Promise<unknown> {
    const { device, target, shadows, moves } = known
    if (verb === 'prepareMove') {
      if (target === undefined) return undefined
      return this.moves.push(await prepareMove(device, target, { shadows, ...this.#given(known) }))
    }
    const move = moves.at(-1)
    if (verb !== 'finish') return move?.[verb]()
    return move === undefined ? undefined : this.#adopt(await move.finish())
  }

  /** Goes on where the guest is now. */
  #adopt({ isMoved, failure, device, shadowControl, shadows }: MoveResult): string {
    if (isMoved) this.#target = undefined
    this.#device = device as VdpaDevice<'net'>
    this.guest.moveTo(device, shadows)
    if (shadowControl !== undefined && !this.controls.includes(shadowControl)) this.controls.push(shadowControl)
    return isMoved && failure === undefined ? 'ok' : `${isMoved ? 'moved' : 'back'}: ${codeOf(failure)}`
  }

  async #createQueue(device: VdpaDevice<'net'>, index: number): Promise<void> {
    const space = device.isClosed ? undefined : device.addressSpace(0)
    const queue = await device.createQueue(index, { addressSpace: space as never, bufferBytes: 64 })
    this.#know(queue)
  }

  #know(queue: DeviceQueue): void {
    queue.onClose(() => this.#told.push(this.queues.indexOf(queue)))
    this.queues.push(queue)
  }

  async #onMemory(device: VdpaDevice<'net'>, verb: 'map' | 'unmap', slot: number): Promise<void> {
    const space = device.addressSpace(0)
    const iova = BigInt(slot * PAGE)
    if (verb === 'map') await space.map({ iova, region: this.#regions[slot] as MemoryRegion })
    else await space.unmap({ iova, size: BigInt(PAGE) })
  }

  /** Slots of the memory that our account says is mapped. */
  get mapped(): number[] {
    const own = this.device.isClosed ? [] : this.device.addressSpace(0).mappings
    return own.filter(({ iova }) => iova < BigInt(SLOTS * PAGE)).map(({ iova }) => Number(iova) / PAGE)
  }

  /** Resolves when so many commands were answered. */
  async untilAnswered(count: number): Promise<void> {
    const { talker } = this
    for (let turn = 0; turn < TURNS && talker.acks.length < count; turn++)
      await new Promise((resolve) => setImmediate(resolve))
    if (talker.acks.length < count) throw new Error(`a command is not answered: ${talker.acks.length} of ${count} are`)
  }

  /** What must be true between two verbs, whatever happened. `isSure`: no call was refused since the last reset. */
  check(isSure: boolean): void {
    const { state } = this.device
    if (state === 'closed' || state === 'closing') return
    const dump = this.simulator.dump(this.device.path)
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
    const open = [...this.device.drivenQueues.map(({ index }) => index), ...this.guest.served]
    const ready = dump.queues.filter((queue) => queue.isReady === true).map((queue) => queue.index)
    // What was given up and cannot be taken back stays where it is until the reset that is due; the device does not run before it.
    if (state === 'claimed' || state === 'running') among(ready, open)
    same(this.device.features !== undefined, state !== 'claimed')
    for (const queue of this.queues) if (!queue.isClosed) same(queue.buffers.byteLength, 64)
  }

  /** Closes what is open, and finds nothing left. */
  async end(): Promise<void> {
    for (const device of this.#opened) {
      await settled(device.close().catch(() => undefined))
      same(device.state, 'closed')
    }
    this.guest.end()
    for (const control of this.controls) {
      same(control.isClosed, true)
      await settled(control.detach())
    }
    this.#talker?.end()
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
