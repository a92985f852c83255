// A device that takes over where another one stood, in two halves: what can be done while the other one still runs (features, groups, mappings), and what cannot
// (rings, DRIVER_OK, the control queue's commands). The order is that of QEMU: the control queue first, what it had set, then the data queues.

import { rangeError, typeError } from '../base/checks.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { callUnasked } from '../base/program-calls.js'
import { sleeping, type Steps } from '../base/steps.js'
import type { Eventfd } from '../backend/backend.js'
import { NetControlQueue } from '../control/net-control-queue.js'
import type { ShadowControlQueue } from '../control/shadow-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceSnapshot, MappingState, QueueState } from '../device/snapshot.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { EventfdLike } from '../device/vring.js'
import { BlockDriver } from '../drivers/block-driver.js'
import { NetDriver } from '../drivers/net-driver.js'
import type { Access } from '../iotlb/mapping.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { ShadowQueue } from '../shadow/shadow-queue.js'
import { virtioBlkConfig } from '../uapi/virtio-blk.js'
import { decodeNetConfig, parseMac } from '../uapi/virtio-net.js'
import { netCommands, type NetCommandName } from '../uapi/virtio-net-commands.js'
import type { DriverToGoOn } from './carried.js'
import { bytesOf } from './check-snapshot.js'
import { parseAddresses } from './words.js'

/** The eventfds of a queue that somebody else drives. */
export interface QueueEventfds {
  /** The queue's number. */
  readonly index: number
  /** By which the driver says that there is work; it is signaled once when the device runs, because a kick may have been lost. */
  readonly kick?: Eventfd
  /** By which the device interrupts; it is signaled once when the device runs, because an interrupt may not have been heard. */
  readonly call?: EventfdLike
  /** By which the device tells of an error in the ring. */
  readonly err?: EventfdLike
}

/** What a device goes on from, beside what prepare() was given. */
export interface Arriving {
  readonly snapshot: DeviceSnapshot
  readonly memories: readonly MemoryRegion[]
  readonly driver?: DriverToGoOn | undefined
  readonly eventfds?: readonly QueueEventfds[] | undefined
  readonly timeout?: number | undefined
  /** Whether prepareSteps() mapped all of it, and nothing has changed since. */
  readonly isMapped?: boolean
  /** The shadow of a guest's control queue, where there is one: another like it is made. */
  readonly shadowControl?: ShadowControlQueue<AddressSpace> | undefined
  /** Shadows of a guest's data queues whose rings were ended: each gets one of its books. */
  readonly shadows?: readonly ShadowQueue[]
}

/** What was made of it so far: all of it when arrive() has ended. */
export interface Arrived {
  control?: NetControlQueue | undefined
  shadowControl?: ShadowControlQueue<AddressSpace> | undefined
  driver?: NetDriver | BlockDriver | undefined
  queues: DeviceQueue[]
}

/** The regions that stand for the numbers of a snapshot. RangeError for one that is too short, TypeError for none. */
export function checkMemories({ memories: wanted }: DeviceSnapshot, memories: readonly MemoryRegion[]): void {
  if (!Array.isArray(memories)) throw typeError('memories', 'an array', memories)
  for (const [number, { length }] of wanted.entries()) {
    const region = memories[number] as MemoryRegion | undefined
    if (typeof region !== 'object' || region === null)
      throw typeError(`memories[${number}]`, `a MemoryRegion of ${length} bytes`, region)
    if (region.length < length) throw rangeError(`memories[${number}]`, `at least ${length} bytes long`, region.length)
  }
}

/** The first half, as part of a procedure of the device: features, groups and mappings. */
export function* prepareSteps(
  device: VdpaDevice,
  snapshot: DeviceSnapshot,
  memories: readonly MemoryRegion[],
): Steps<void> {
  const features = BigInt(snapshot.features)
  const negotiated = yield* device.negotiateSteps(features)
  const more = negotiated.bits & ~(features | (1n << ACCESS_PLATFORM))
  if (more !== 0n)
    throw vdpaError('ERR_VDPA_FEATURES', `the device works with ${negotiated.toString()} only`, { path: device.path })
  restoreWriteCache(device, snapshot)
  for (const queue of snapshot.queues) assign(device, queue)
  yield* mapAll(device, snapshot, memories)
}

/** By which addresses are the platform's: of no concern to who drives the rings. */
const ACCESS_PLATFORM = 33n

function assign(device: VdpaDevice, { index, asid, descriptorAsid = asid }: QueueState): void {
  const { groups } = device
  const put = (group: number | undefined, place: number) => {
    if (group === undefined && place !== 0)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `queue ${index} has no group to be put into asid ${place}`, {
        path: device.path,
      })
    if (group !== undefined && groups.asidOf(group) !== place) groups.assignOwned(group, place)
  }
  put(groups.of(index), asid)
  if (!device.backendFeatures.has('VHOST_BACKEND_F_DESC_ASID')) return
  const descriptors = groups.descriptorGroupOf(index)
  if (descriptors !== undefined) put(descriptors, descriptorAsid)
}

/** A driver may have switched the cache of a disk, which is in no command. */
function restoreWriteCache(device: VdpaDevice, { config }: DeviceSnapshot): void {
  if (device.kind !== 'block' || device.features?.has(WRITE_CACHE_FEATURE) !== true) return
  const before = bytesOf(config)[WRITE_CACHE_AT]
  if (before !== undefined && device.config.read(WRITE_CACHE_AT, 1)[0] !== before)
    device.config.write(WRITE_CACHE_AT, Uint8Array.of(before))
}

/** VIRTIO_BLK_F_CONFIG_WCE, by its number: the device may be of another kind as far as its type says. */
const WRITE_CACHE_FEATURE = 11
const WRITE_CACHE_AT = virtioBlkConfig.fields.find(({ name }) => name === 'wce')?.offset ?? 0

/** Makes what is mapped what the snapshot says: what is there already stays. */
function* mapAll(device: VdpaDevice, snapshot: DeviceSnapshot, memories: readonly MemoryRegion[]): Steps<void> {
  for (const { asid, mappings } of snapshot.spaces) yield* mapSpace(device.addressSpace(asid), mappings, memories)
}

function* mapSpace(
  space: AddressSpace,
  wanted: readonly MappingState[],
  memories: readonly MemoryRegion[],
): Steps<void> {
  const missing = new Map<bigint, Wanted>()
  for (const { iova, size, access, memory, offset } of wanted) {
    const region = memories[memory] as MemoryRegion
    missing.set(BigInt(iova), { iova: BigInt(iova), size: BigInt(size), access, region, offset })
  }
  const gone = space.mappings.filter((have) => {
    const want = missing.get(have.iova)
    if (want === undefined || !isSame(want, have)) return true
    missing.delete(have.iova)
    return false
  })
  if (gone.length > 0) yield* space.unmapSteps(gone)
  if (missing.size > 0)
    yield* space.mapSteps(Array.from(missing.values(), (one) => ({ ...one, size: Number(one.size) })))
}

interface Wanted {
  readonly iova: bigint
  readonly size: bigint
  readonly access: Access
  readonly region: MemoryRegion
  readonly offset: number
}

function isSame(one: Wanted, other: Wanted): boolean {
  const { size, access, region, offset } = one
  return other.size === size && other.access === access && other.region === region && other.offset === offset
}

/** The second half, as part of a procedure of the device. `arrived` is filled on the way, so that who undoes it knows how far it came. */
export function* arriveSteps(device: VdpaDevice, from: Arriving, arrived: Arrived): Steps<void> {
  const { snapshot, driver } = from
  // Of a queue that a driver goes on with, the books may be the driver's alone.
  const guests = snapshot.queues.filter(({ position, books }) => position !== null && books === undefined)
  const own = snapshot.queues.filter(({ index, books }) => books !== undefined && index >= queuesOf(driver))
  const control = snapshot.queues.find(({ isControl }) => isControl === true)
  const commands = control === undefined ? [] : commandsOf(device, snapshot)
  const first = commands.filter((command) => !isOfOneQueue(command))
  const isLate = first.length > 0 && device.backendFeatures.has('VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK')
  if (from.isMapped !== true) yield* mapAll(device, snapshot, from.memories)
  if (control !== undefined) {
    arrived.control = yield* startControl(device, control, from)
    arrived.shadowControl = from.shadowControl?.like(device, arrived.control)
  }
  if (driver !== undefined) arrived.driver = yield* startDriver(device, driver, snapshot, isLate)
  for (const queue of own) arrived.queues.push(yield* startQueue(device, queue, from.memories, isLate))
  for (const shadow of from.shadows ?? []) yield* shadow.recovery.rejoinSteps(isLate)
  for (const queue of guests) setUp(device, queue, from.eventfds ?? [], isLate)
  yield* device.startOrHaltSteps()
  if (first.length > 0) yield* replaySteps(device, arrived, first)
  const late = isLate ? snapshot.queues.filter(({ isEnabled, isControl }) => isEnabled && isControl !== true) : []
  for (const { index } of late) device.vring(index).enableOwned()
  const last = commands.filter(isOfOneQueue)
  if (last.length > 0) yield* replaySteps(device, arrived, last)
  tell(device, from, arrived, isLate)
}

/** How many queues a driver has: the first ones. */
function queuesOf(driver: DriverToGoOn | undefined): number {
  if (driver === undefined) return 0
  if ('queues' in driver) return driver.queues.length
  return 'net' in driver ? 2 * (driver.net.pairs ?? 1) : (driver.block.queues ?? 1)
}

function* startControl(device: VdpaDevice, control: QueueState, from: Arriving): Steps<NetControlQueue> {
  const space = device.addressSpace(control.asid)
  const giveBack = keepPlaces(space, from)
  try {
    // Made anew, it may be smaller than it was where there are fewer descriptors.
    const size = control.size <= device.vring(control.index).maxSize ? control.size : undefined
    const options = NetControlQueue.queueOptions(space, size)
    return NetControlQueue.over(device, yield* device.createQueueSteps(control.index, options), from.timeout)
  } finally {
    giveBack()
  }
}

/** Waits for the device's answers as part of the procedure; no longer than until the device is closed. */
function replaySteps(
  device: VdpaDevice,
  { control, shadowControl }: Arrived,
  commands: readonly Command[],
): Steps<void> {
  const later = async () => {
    const giveUp = new AbortController()
    const { signal } = giveUp
    const end = () => giveUp.abort(vdpaError('ERR_VDPA_CLOSED', 'the device is closed', { path: device.path }))
    const stop = device.onEnding(end)
    if (device.isClosed) end()
    try {
      await (shadowControl ?? control)?.replay(commands, { signal })
    } catch (failure) {
      throw signal.aborted ? signal.reason : failure
    } finally {
      stop()
    }
  }
  return sleeping({ now: laterOnly, later })
}

/** What cannot be done on the spot, as part of a procedure. */
export function later<T>(work: () => Promise<T>): Steps<T> {
  return sleeping({ now: laterOnly, later: work })
}

/** A control queue answers later only: no procedure that waits for one is run on the spot. */
export function laterOnly(): never {
  throw new Error('a control queue answers later only')
}

/** The control queue is given another place than those where the other queues come back to. Returns what ends that. */
function keepPlaces(space: AddressSpace, { snapshot, memories, driver, shadows = [] }: Arriving): () => void {
  const places = new Map<bigint, number>()
  const note = (iova: bigint, memory: MemoryRegion) => places.set(iova, memory.length)
  if (driver !== undefined && 'queues' in driver) for (const { iova, memory } of driver.queues) note(iova, memory)
  for (const { recovery } of shadows) {
    const place = recovery.savedPlace
    if (place?.space === space) note(place.iova, place.memory)
  }
  for (const { books, asid, descriptorAsid } of snapshot.queues)
    if (books !== undefined && [asid, descriptorAsid].includes(space.asid))
      note(BigInt(books.iova), memories[books.memory] as MemoryRegion)
  const kept: [bigint, number][] = []
  const giveBack = () => {
    for (const [iova, size] of kept.splice(0)) space.unreserve(iova, size)
  }
  try {
    for (const [iova, size] of places) {
      space.reserve(iova, size)
      kept.push([iova, size])
    }
  } catch (failure) {
    giveBack()
    throw failure
  }
  return giveBack
}

/**
 * The commands of the snapshot, and the address that the driver knows where the device was given another. Coalescing of a queue that is not enabled is not told: the device takes none, and a queue
 * that is enabled anew begins without.
 */
function commandsOf(device: VdpaDevice, { control, config, queues }: DeviceSnapshot): Command[] {
  const enabled = new Set(queues.flatMap(({ index, isEnabled }) => (isEnabled ? [index] : [])))
  const commands = control
    .map(({ name, payload }) => ({ name: name as NetCommandName, payload: bytesOf(payload) }))
    .filter((command) => !isOfOneQueue(command) || enabled.has(coalescing.decode(command.payload).queue))
  const name = 'VIRTIO_NET_CTRL_MAC_ADDR_SET'
  const before = bytesOf(config)
  const mayChange = device.features?.has('VIRTIO_NET_F_CTRL_MAC_ADDR') === true
  if (!mayChange || before.length < 12 || commands.some((command) => command.name === name)) return commands
  const { mac } = decodeNetConfig(before)
  return device.config.net().mac === mac ? commands : [{ name, payload: parseMac(mac) }, ...commands]
}

interface Command {
  readonly name: NetCommandName
  readonly payload: Uint8Array
}

const { VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: coalescing } = netCommands

/** Whether the device takes it for a queue that is enabled alone (spec section 5.1.6.5.8). */
function isOfOneQueue({ name }: Command): boolean {
  return name === coalescing.name
}

function startDriver(
  device: VdpaDevice,
  driver: DriverToGoOn,
  snapshot: DeviceSnapshot,
  isLate: boolean,
): Steps<NetDriver | BlockDriver> {
  const asid = snapshot.queues.find(({ index }) => index === 0)?.asid ?? 0
  const addressSpace = device.addressSpace(asid)
  const [net, block] = [device as VdpaDevice<'net'>, device as VdpaDevice<'block'>]
  if ('block' in driver) return BlockDriver.startSteps(block, { ...driver.block, addressSpace })
  if ('lanes' in driver) return BlockDriver.startSteps(block, { restore: driver, addressSpace })
  const options = 'net' in driver ? driver.net : { restore: driver }
  return NetDriver.startSteps(net, { ...options, addressSpace, ...(isLate && { isLate }) })
}

function startQueue(
  device: VdpaDevice,
  { index, asid, descriptorAsid = asid, books }: QueueState,
  memories: readonly MemoryRegion[],
  isLate: boolean,
): Steps<DeviceQueue> {
  const { memory, iova, ...rest } = books as NonNullable<QueueState['books']>
  const restore = { ...rest, memory: memories[memory] as MemoryRegion, iova: BigInt(iova) }
  const hasOther = descriptorAsid !== asid && device.backendFeatures.has('VHOST_BACKEND_F_DESC_ASID')
  return device.createQueueSteps(index, {
    addressSpace: device.addressSpace(asid),
    ...(hasOther && { descriptorSpace: device.addressSpace(descriptorAsid) }),
    restore,
    ...(isLate && { isLate }),
  })
}

function setUp(device: VdpaDevice, queue: QueueState, eventfds: readonly QueueEventfds[], isLate: boolean): void {
  const { index, size, position, isEnabled } = queue
  const { kick, call, err } = eventfds.find((one) => one.index === index) ?? {}
  const vring = device.vring(index)
  try {
    vring.setUpOwned({
      size,
      addresses: parseAddresses(queue),
      ...(position !== null && { state: position }),
      ...(kick !== undefined && { kick }),
      ...(call !== undefined && { call }),
      ...(err !== undefined && { err }),
    })
  } catch (cause) {
    throw isBaseRefused(cause) ? beginningsOnly(device, index, cause) : cause
  }
  if (isEnabled && !isLate) vring.enableOwned()
}

function isBaseRefused(failure: unknown): boolean {
  return isVdpaError(failure) && failure.code === 'EOPNOTSUPP' && failure.request === 'VHOST_SET_VRING_BASE'
}

function beginningsOnly({ path }: VdpaDevice, index: number, cause: unknown): Error {
  const text = `the ring of queue ${index} goes on where it stands, and the device takes rings at their beginning only`
  const hint = 'negotiate such a device by hand, and have a ShadowQueue serve the ring: begin({ state }) before start()'
  return vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path, request: 'VHOST_SET_VRING_BASE', hint, cause })
}

/**
 * What was kicked while nobody ran may be lost, and what was kicked before a queue was enabled is. So is an interrupt that nobody heard any more on the way: drivers bear one too many
 * (section 2.7.7.1), and wait for ever for one too few.
 */
function tell(
  device: VdpaDevice,
  { eventfds = [], shadows = [] }: Arriving,
  { driver, queues }: Arrived,
  isLate: boolean,
): void {
  // The device runs: what a signal() of the program throws does not stop it.
  for (const { kick, call } of eventfds) {
    if (kick !== undefined) callUnasked(() => kick?.signal())
    if (call !== undefined) interrupt(device, call)
  }
  if (driver instanceof NetDriver) driver.kickReceive()
  if (isLate) for (const queue of queues) queue.kick()
  for (const shadow of shadows) shadow.recovery.workAgain()
}

function interrupt({ backend }: VdpaDevice, call: EventfdLike): void {
  if (typeof call === 'object') return callUnasked(() => call?.signal())
  if (call < 0) return
  using wrapped = backend.eventfd(call)
  wrapped.signal()
}
