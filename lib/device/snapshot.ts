// A stopped device as plain data: what a reset of it, or another device, is to be told to go on where it stood. No memory is in it, and nothing of this process.

import { checkFunction, checkObject } from '../base/checks.js'
import { isVdpaError } from '../base/errors.js'
import type { Access } from '../iotlb/mapping.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { slotsBetween } from '../virtqueue/layout.js'
import type { DriverSnapshot, RingFormat, RingState } from '../virtqueue/virtqueue.js'
import type { AddressSpace } from './address-space.js'
import { CONFIG_BYTES, type ConfigSpace } from './config-space.js'
import { checkNegotiated, checkUnchanging, refusal, type DeviceContext } from './context.js'
import type { DeviceQueue } from './device-queue.js'
import { absent } from './groups.js'
import type { Vring } from './vring.js'

/** The version of the data that this package writes, and reads. */
export const SNAPSHOT_VERSION = 1

/** A stopped device as plain data, which survives JSON: VdpaDevice.snapshot(). Addresses and words of 64 bits are strings, `0x…`; bytes are hexadecimal digits. */
export interface DeviceSnapshot {
  /** SNAPSHOT_VERSION. */
  readonly version: number
  /** The virtio device id. */
  readonly deviceId: number
  /** What was negotiated. */
  readonly features: string
  /** The status byte. */
  readonly status: number
  /** The configuration space, its first 256 bytes at most. */
  readonly config: string
  /** Groups that were put into an address space, 0 included. */
  readonly groups: readonly GroupState[]
  /** The regions that are mapped, by the numbers that mappings and queues have for them. */
  readonly memories: readonly { readonly length: number }[]
  /** What is mapped, without the memory of queues that were driven from here. */
  readonly spaces: readonly SpaceState[]
  /** The virtqueues that were set up, by index. */
  readonly queues: readonly QueueState[]
  /** The commands that set what the control queue had set, in the order of sending. */
  readonly control: readonly ControlCommand[]
  /** What could not be told, or will be done twice, as sentences: empty when nothing is lost. */
  readonly lost: readonly string[]
}

/** The address space of a group. */
export interface GroupState {
  /** The group. */
  readonly group: number
  /** The address space. */
  readonly asid: number
}

/** The mappings of one address space. */
export interface SpaceState {
  /** Its number. */
  readonly asid: number
  /** Lowest first. */
  readonly mappings: readonly MappingState[]
}

/** One mapping. */
export interface MappingState {
  /** The first address that the device uses. */
  readonly iova: string
  /** Bytes. */
  readonly size: string
  /** What the device may do. */
  readonly access: Access
  /** Which of `memories`. */
  readonly memory: number
  /** Bytes into it. */
  readonly offset: number
}

/** One virtqueue. */
export interface QueueState {
  /** Its number. */
  readonly index: number
  /** Descriptors. */
  readonly size: number
  /** Where its areas are. */
  readonly addresses: { readonly descriptor: string; readonly driver: string; readonly device: string }
  /** Whether it was enabled. */
  readonly isEnabled: boolean
  /** The address space of its buffers. */
  readonly asid: number
  /** The address space of its ring, where the device has a group of its own for it. */
  readonly descriptorAsid?: number
  /** Where the ring stands, of a queue that somebody else drives; null where nobody can tell. */
  readonly position: RingState | null
  /** The books of a queue that was driven from here. */
  readonly books?: QueueBooks
  /** The control queue, driven from here: it is made anew, and told `control`. */
  readonly isControl?: true
}

/** A queue that this process drove. */
export interface QueueBooks {
  /** Which of `memories` its ring and buffers are in. */
  readonly memory: number
  /** Where that was mapped. */
  readonly iova: string
  /** Bytes of buffers beside the ring. */
  readonly bufferBytes: number
  /** Descriptors that a chain may have in an indirect table. */
  readonly indirectTableSize: number
  /** What the device has not answered, and what nobody has taken. */
  readonly ring: DriverSnapshot
}

/** A command of the control queue. */
export interface ControlCommand {
  /** Its name in `netCommands`. */
  readonly name: string
  /** What follows the head. */
  readonly payload: string
}

/** How a snapshot is taken. */
export interface SnapshotOptions {
  /** Who knows what the control queue has set: a NetControlQueue or a ShadowControlQueue. Without it `control` is empty. */
  readonly control?: ControlBook
}

/** What a control queue has set: NetControlQueue and ShadowControlQueue have it. */
export interface ControlBook {
  /** What sets it again, in the order of sending. */
  commands(): readonly { readonly name: string; readonly payload: Uint8Array }[]
}

/** What every device of these kinds has, where the kernel does not tell the size. */
const headBytes = new Map<number, number>([
  [deviceIds.net, 12],
  [deviceIds.block, 60],
])

/** What was taken, and the memory that its numbers stand for. */
export interface TakenSnapshot {
  readonly snapshot: DeviceSnapshot
  readonly memories: readonly MemoryRegion[]
  /** The versions of the address spaces then, by number. */
  readonly versions: ReadonlyMap<number, number>
}

/** What a snapshot is taken of: a device that stands still, or one whose rings are looked at later (`isRunning`); by a procedure of the device (`isInside`). */
export interface SnapshotWish extends SnapshotOptions {
  readonly isRunning?: true
  readonly isInside?: true
  /** What was taken before of the same device: where nothing was mapped or unmapped since, its mappings are not looked at again. */
  readonly previous?: TakenSnapshot
  /** Of a device that may have forgotten what it was told: what was written to its configuration stands, whatever is read. */
  readonly isBroken?: true
  /** Without the mappings, for who does not tell them to anybody. */
  readonly hasSpaces?: false
}

/** Takes it. ERR_VDPA_STATE before negotiate(), and while the device runs. */
export function takeSnapshot(context: DeviceContext, config: ConfigSpace, wish: SnapshotWish): TakenSnapshot {
  checkObject(wish, 'options')
  const { control } = wish
  if (control !== undefined) {
    checkObject(control, 'options.control')
    checkFunction((control as Partial<Record<'commands', unknown>>).commands, 'options.control.commands')
  }
  // The program's own object may answer this: it is asked before anything is looked at.
  const commands = control?.commands() ?? []
  if (wish.isInside !== true) checkUnchanging(context, 'snapshot()')
  const features = checkNegotiated(context, 'snapshot()')
  if (wish.isRunning !== true && context.state.phase === 'running')
    throw refusal(context, 'ERR_VDPA_STATE', 'the device runs: call suspend() first')
  const versions = new Map(Array.from(context.spaces.values(), ({ asid, version }) => [asid, version]))
  const writer = new SnapshotWriter(context, wish.isRunning === true, sameSpaces(versions, wish.previous))
  const queues = writer.queues()
  const snapshot: DeviceSnapshot = {
    version: SNAPSHOT_VERSION,
    deviceId: context.facts.deviceId,
    features: hex(features.bits),
    status: context.transport.status(),
    config: hexBytes(configOf(context, config, wish)),
    groups: [...context.asidOfGroup].map(([group, asid]) => ({ group, asid })).sort((a, b) => a.group - b.group),
    spaces: wish.hasSpaces === false ? [] : writer.spaces(),
    queues,
    control: commands.map(({ name, payload }) => ({ name, payload: hexBytes(payload) })),
    memories: writer.memories.map(({ length }) => ({ length })),
    lost: writer.lost,
  }
  return { snapshot, memories: writer.memories, versions }
}

/** What was taken before, where the address spaces are as they were then. */
function sameSpaces(
  versions: ReadonlyMap<number, number>,
  previous: TakenSnapshot | undefined,
): TakenSnapshot | undefined {
  if (previous === undefined || previous.versions.size !== versions.size) return undefined
  const isSame = [...versions].every(([asid, version]) => previous.versions.get(asid) === version)
  return isSame ? previous : undefined
}

function configOf(
  { facts, transport, writtenConfig }: DeviceContext,
  { size }: ConfigSpace,
  { isBroken }: SnapshotWish,
): Uint8Array {
  const length = Math.min(size ?? headBytes.get(facts.deviceId) ?? 0, CONFIG_BYTES)
  const bytes = length === 0 ? new Uint8Array(0) : transport.readConfig(0, length)
  // A disk takes what was written or nothing; other devices may have taken parts of it.
  if (isBroken === true && facts.deviceId === deviceIds.block)
    for (const [at, byte] of writtenConfig) if (at < length) bytes[at] = byte
  return bytes
}

class SnapshotWriter {
  readonly memories: MemoryRegion[]
  readonly lost: string[] = []
  readonly #context: DeviceContext
  readonly #isRunning: boolean
  readonly #same: TakenSnapshot | undefined
  readonly #numbers = new Map<MemoryRegion, number>()
  /** The memory of queues that are driven from here, `asid iova`. */
  readonly #ours = new Set<string>()

  constructor(context: DeviceContext, isRunning: boolean, same: TakenSnapshot | undefined) {
    this.#context = context
    this.#isRunning = isRunning
    this.#same = same
    this.memories = [...(same?.memories ?? [])]
    for (const [number, region] of this.memories.entries()) this.#numbers.set(region, number)
  }

  queues(): QueueState[] {
    const control = this.#controlIndex()
    const driven = new Map(this.#context.queues.all().map((queue) => [queue.index, queue]))
    return [...this.#context.vrings.values()]
      .filter((vring) => vring.addresses !== undefined)
      .sort((a, b) => a.index - b.index)
      .map((vring) => this.#queue(vring, driven.get(vring.index), vring.index === control))
  }

  #controlIndex(): number | undefined {
    const { queues } = this.#context
    return queues.all().find((queue) => queue.owner === CONTROL_OWNER)?.index
  }

  #queue(vring: Vring, queue: DeviceQueue | undefined, isControl: boolean): QueueState {
    const { index, size, isEnabled } = vring
    const { descriptor = 0n, driver = 0n, device = 0n } = vring.addresses ?? {}
    const state = {
      index,
      size,
      isEnabled,
      addresses: { descriptor: hex(descriptor), driver: hex(driver), device: hex(device) },
      ...this.#asids(index),
    }
    if (queue === undefined) return { ...state, position: this.#position(vring, state.descriptorAsid ?? state.asid) }
    const { memory, iova } = queue.place
    this.#ours.add(`${queue.addressSpace.asid} ${iova}`)
    if (isControl) return { ...state, position: null, isControl: true }
    if (this.#isRunning) return { ...state, position: null }
    const { ring, bufferBytes, indirectTableSize } = queue.snapshot()
    const books = { memory: this.#number(memory), iova: hex(iova), bufferBytes, indirectTableSize, ring }
    return { ...state, position: null, books }
  }

  #asids(index: number): { asid: number; descriptorAsid?: number } {
    const { transport, asidOfGroup } = this.#context
    const group = absent(() => transport.vringGroup(index))
    const asid = group === undefined ? 0 : (asidOfGroup.get(group) ?? 0)
    const descriptors = absent(() => transport.vringDescGroup(index))
    return descriptors === undefined ? { asid } : { asid, descriptorAsid: asidOfGroup.get(descriptors) ?? 0 }
  }

  /**
   * Where the device goes on: behind what it has answered, as it says or as the ring's own memory shows. What it had taken and not answered would never be answered
   * otherwise; a device that answers in order carries it out once.
   */
  #position(vring: Vring, asid: number): RingState | null {
    if (this.#isRunning) return null
    const { index, format, size } = vring
    const said = spoken(vring)
    const used = format === 'split' ? usedIndex(this.#context.spaces.get(asid), vring.addresses?.device) : said?.used
    if (said === undefined && used === undefined) {
      this.lost.push(`queue ${index}: the device does not say where it stands, and its ring does not show it`)
      return null
    }
    if (used === undefined || (said !== undefined && !isBehind(format, size, said.available, used))) return said ?? null
    if (said?.available !== used && this.#context.state.features?.has('VIRTIO_F_IN_ORDER') !== true)
      this.lost.push(carriedOutAgain(index))
    return { available: used, used }
  }

  spaces(): readonly SpaceState[] {
    if (this.#same !== undefined) return this.#same.snapshot.spaces
    const spaces = [...this.#context.spaces.values()].sort((a, b) => a.asid - b.asid)
    return spaces.filter(({ size }) => size > 0).map((space) => this.#space(space))
  }

  #space(space: AddressSpace): SpaceState {
    const { asid } = space
    const mappings = space.mappings
      .filter(({ iova }) => !this.#ours.has(`${asid} ${iova}`))
      .map(({ iova, size, access, region, offset }) => {
        return { iova: hex(iova), size: hex(size), access, memory: this.#number(region), offset }
      })
    return { asid, mappings }
  }

  #number(region: MemoryRegion): number {
    let number = this.#numbers.get(region)
    if (number === undefined) {
      number = this.memories.push(region) - 1
      this.#numbers.set(region, number)
    }
    return number
  }
}

/** Who drives the control queue of a network device, as it is called where it makes its queue. */
const CONTROL_OWNER = 'a NetControlQueue'

/** What is to be said of a queue of which only the ring tells where it stands. */
export function carriedOutAgain(index: number): string {
  return `queue ${index}: what the device had taken and not answered is carried out again, from the oldest on, as if it answered in order`
}

/** Where a split ring's own memory says that the device has got to (spec section 2.7.8), with its device area at `device`; undefined where the memory is not ours. */
export function usedIndex(space: AddressSpace | undefined, device: bigint | undefined): number | undefined {
  const found = device === undefined ? undefined : space?.lookup(device + 2n)
  if (found === undefined || found.offset + 2 > found.region.length) return undefined
  const bytes = found.region.view(found.offset, 2)
  return (bytes[0] ?? 0) + 256 * (bytes[1] ?? 0)
}

/** What the device says; undefined where it never does. */
function spoken(vring: Vring): RingState | undefined {
  try {
    return vring.state()
  } catch (failure) {
    if (isVdpaError(failure) && failure.code === 'EOPNOTSUPP') return undefined
    throw failure
  }
}

/** Whether a ring that has got to `available` can have answered up to `used`: memory may hold anything. */
function isBehind(format: RingFormat, size: number, available: number, used: number): boolean {
  return slotsBetween(format, size, { available, used }) <= size
}

function hex(word: bigint): string {
  return `0x${word.toString(16)}`
}

function hexBytes(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('')
}
