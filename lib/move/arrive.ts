// A device that takes over where another one stood, in two halves: what can be done while the other one still runs (features, groups, mappings), and what cannot
// (rings, DRIVER_OK, the control queue's commands). The order is that of QEMU: the control queue first, what it had set, then the data queues.

import { rangeError, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { Eventfd } from '../backend/backend.js'
import type { CommandOptions } from '../control/control-queue.js'
import { NetControlQueue } from '../control/net-control-queue.js'
import type { AddressSpace } from '../device/address-space.js'
import type { DeviceSnapshot, MappingState, QueueState } from '../device/snapshot.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { EventfdLike } from '../device/vring.js'
import { BlockDriver, type BlockSnapshot } from '../drivers/block-driver.js'
import { NetDriver, type NetDriverSnapshot } from '../drivers/net-driver.js'
import type { Access } from '../iotlb/mapping.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { virtioBlkConfig } from '../uapi/virtio-blk.js'
import { decodeNetConfig, parseMac } from '../uapi/virtio-net.js'
import type { NetCommandName } from '../uapi/virtio-net-commands.js'
import { bytesOf } from './check-snapshot.js'
import { parseAddresses } from './words.js'

/** The eventfds of a queue that somebody else drives. */
export interface QueueEventfds {
  /** The queue's number. */
  readonly index: number
  /** By which the driver says that there is work; it is signaled once when the device runs, because a kick may have been lost. */
  readonly kick?: Eventfd
  /** By which the device interrupts. */
  readonly call?: EventfdLike
  /** By which the device tells of an error in the ring. */
  readonly err?: EventfdLike
}

/** What a driver left, of either kind. */
export type SavedDriver = NetDriverSnapshot | BlockSnapshot

/** What a device goes on from, beside what prepare() was given. */
export interface Arriving {
  readonly snapshot: DeviceSnapshot
  readonly memories: readonly MemoryRegion[]
  readonly driver?: SavedDriver | undefined
  readonly eventfds?: readonly QueueEventfds[] | undefined
  readonly timeout?: number | undefined
}

/** What was made of it so far: all of it when arrive() has ended. */
export interface Arrived {
  control?: NetControlQueue
  driver?: NetDriver | BlockDriver
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

/** The first half: features, groups and mappings. */
export async function prepare(
  device: VdpaDevice,
  snapshot: DeviceSnapshot,
  memories: readonly MemoryRegion[],
): Promise<void> {
  const features = BigInt(snapshot.features)
  const negotiated = await device.negotiate(features)
  const more = negotiated.bits & ~(features | (1n << ACCESS_PLATFORM))
  if (more !== 0n)
    throw vdpaError('ERR_VDPA_FEATURES', `the device works with ${negotiated.toString()} only`, { path: device.path })
  restoreWriteCache(device, snapshot)
  for (const queue of snapshot.queues) assign(device, queue)
  await mapAll(device, snapshot, memories)
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
    if (group !== undefined && groups.asidOf(group) !== place) groups.assign(group, place)
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
export async function mapAll(
  device: VdpaDevice,
  snapshot: DeviceSnapshot,
  memories: readonly MemoryRegion[],
): Promise<void> {
  for (const { asid, mappings } of snapshot.spaces) await mapSpace(device.addressSpace(asid), mappings, memories)
}

async function mapSpace(
  space: AddressSpace,
  wanted: readonly MappingState[],
  memories: readonly MemoryRegion[],
): Promise<void> {
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
  if (gone.length > 0) await space.unmap(gone)
  if (missing.size > 0) await space.map(Array.from(missing.values(), (one) => ({ ...one, size: Number(one.size) })))
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

/** The second half. `arrived` is filled on the way, so that who undoes it knows how far it came. */
export async function arrive(device: VdpaDevice, from: Arriving, arrived: Arrived): Promise<void> {
  const { snapshot, driver, timeout } = from
  // Of a queue that a driver goes on with, the books may be the driver's alone.
  const guests = snapshot.queues.filter(({ position, books }) => position !== null && books === undefined)
  const own = snapshot.queues.filter(({ books, isControl }) => books !== undefined && isControl !== true)
  const control = snapshot.queues.find(({ isControl }) => isControl === true)
  const commands = control === undefined ? [] : commandsOf(device, snapshot)
  const isLate = commands.length > 0 && device.backendFeatures.has('VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK')
  await mapAll(device, snapshot, from.memories)
  if (control !== undefined) {
    const space = device.addressSpace(control.asid)
    const wish = { size: control.size, ...(timeout !== undefined && { timeout }) }
    const giveBack = keepPlaces(space, from)
    try {
      arrived.control = await NetControlQueue.start(device, space, wish)
    } finally {
      giveBack()
    }
  }
  if (driver !== undefined) arrived.driver = await startDriver(device, driver, snapshot, isLate)
  else for (const queue of own) arrived.queues.push(await startQueue(device, queue, from.memories, isLate))
  for (const queue of guests) setUp(device, queue, from.eventfds ?? [], isLate)
  await device.startOrHalt()
  if (commands.length > 0) await arrived.control?.replay(commands, commandOptions(timeout))
  const late = isLate ? snapshot.queues.filter(({ isEnabled, isControl }) => isEnabled && isControl !== true) : []
  for (const { index } of late) device.vring(index).enable()
  tell(from, arrived, isLate)
}

/** The control queue is given another place than those where the other queues come back to. Returns what ends that. */
function keepPlaces(space: AddressSpace, { snapshot, memories, driver }: Arriving): () => void {
  const places = new Map<bigint, number>()
  const note = (iova: bigint, memory: MemoryRegion) => places.set(iova, memory.length)
  for (const { iova, memory } of driver?.queues ?? []) note(iova, memory)
  for (const { books, asid } of snapshot.queues)
    if (books !== undefined && asid === space.asid) note(BigInt(books.iova), memories[books.memory] as MemoryRegion)
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

function commandOptions(timeout: number | undefined): CommandOptions {
  return timeout === undefined ? {} : { timeout }
}

/** The commands of the snapshot, and the address that the driver knows where the device was given another. */
function commandsOf(device: VdpaDevice, { control, config }: DeviceSnapshot): Command[] {
  const commands = control.map(({ name, payload }) => ({ name: name as NetCommandName, payload: bytesOf(payload) }))
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

async function startDriver(
  device: VdpaDevice,
  driver: SavedDriver,
  snapshot: DeviceSnapshot,
  isLate: boolean,
): Promise<NetDriver | BlockDriver> {
  const asid = snapshot.queues.find(({ index }) => index === 0)?.asid ?? 0
  const addressSpace = device.addressSpace(asid)
  if ('lanes' in driver)
    return BlockDriver.start(device as VdpaDevice<'block'>, { restore: driver, addressSpace, mayRetry: true })
  return NetDriver.start(device as VdpaDevice<'net'>, { restore: driver, addressSpace, ...(isLate && { isLate }) })
}

function startQueue(
  device: VdpaDevice,
  { index, asid, books }: QueueState,
  memories: readonly MemoryRegion[],
  isLate: boolean,
): Promise<DeviceQueue> {
  const { memory, iova, ...rest } = books as NonNullable<QueueState['books']>
  const restore = { ...rest, memory: memories[memory] as MemoryRegion, iova: BigInt(iova) }
  return device.createQueue(index, { addressSpace: device.addressSpace(asid), restore, ...(isLate && { isLate }) })
}

function setUp(device: VdpaDevice, queue: QueueState, eventfds: readonly QueueEventfds[], isLate: boolean): void {
  const { index, size, position, isEnabled } = queue
  const { kick, call, err } = eventfds.find((one) => one.index === index) ?? {}
  const vring = device.vring(index)
  vring.setUp({
    size,
    addresses: parseAddresses(queue),
    ...(position !== null && { state: position }),
    ...(kick !== undefined && { kick }),
    ...(call !== undefined && { call }),
    ...(err !== undefined && { err }),
  })
  if (isEnabled && !isLate) vring.enable()
}

/** What was kicked while nobody ran may be lost, and what was kicked before a queue was enabled is. */
function tell({ eventfds = [] }: Arriving, { driver, queues }: Arrived, isLate: boolean): void {
  for (const { kick } of eventfds) kick?.signal()
  if (driver instanceof NetDriver) driver.kickReceive()
  if (isLate) for (const queue of queues) queue.kick()
}
