// What a ring is made of: the arguments of createDriverRing and createDeviceRing, and the checks that both formats share.

import { checkFunction, checkInteger, checkObject, checkOneOf, rangeError, typeError } from '../base/checks.js'
import type { RingBytes } from '../memory/parted-ring-memory.js'
import { checkAreas, checkRingState, initialState } from './layout.js'
import { StagedChain } from './staged-chain.js'
import type {
  ChainRecord,
  ChainSegment,
  DriverSnapshot,
  IndirectTables,
  RingAreas,
  RingFeatures,
  RingFormat,
  RingState,
  TranslateTable,
  UsedRecord,
} from './virtqueue.js'

/** Descriptors that one can name in a table: `next` has 16 bits. */
const TABLE_LAST = 0x1_0000

/** What both sides of a ring are made of. */
export interface RingOptions {
  /** `'packed'` when VIRTIO_F_RING_PACKED was negotiated, `'split'` otherwise. */
  readonly format: RingFormat
  /** Descriptors: a power of two up to 32768 (split), any number from 1 to 32768 (packed). */
  readonly size: number
  /** As long as `areaSizes()` says or longer, each at an even offset of its buffer. */
  readonly areas: RingAreas<RingBytes>
  /** What was negotiated. Default: none of them. */
  readonly features?: RingFeatures
  /** Where the queue begins. Default: as a new one (0 for split, 0x8000 in both halves for packed). */
  readonly state?: RingState
}

/** What a driver's side is made of. */
export interface DriverRingOptions extends RingOptions {
  /** Memory for indirect tables; needs `features.indirect`. Without it all chains are direct. */
  readonly indirect?: IndirectTables
  /** Begins with the chains of a ring that was saved. Their buffers must lie where they lay. Not together with `state`. */
  readonly snapshot?: DriverSnapshot
}

/** What a device's side is made of. */
export interface DeviceRingOptions extends RingOptions {
  /** Finds indirect tables; needed with `features.indirect`, and for `'vringh'`. */
  readonly translateTable?: TranslateTable
  /**
   * Descriptors of the longest indirect table, 1 to 65,536. Default: the ring's size, and 65,536 under `'vringh'`. No driver may make a longer one (section 2.7.5.3.1), and Linux' own make them where
   * a device takes more segments than its ring has descriptors.
   */
  readonly longestTable?: number
  /** Which law the driver is held to; `'virtio'` by default. `'vringh'` is for split rings only. */
  readonly law?: DeviceLaw
}

/**
 * What a device does about a driver that breaks the rules. `'virtio'`: the first broken rule breaks the ring. `'vringh'`: as the device side in Linux 6.12 that
 * vdpa_sim is built on, no rule breaks the ring. A chain that cannot be followed is lost: next() passes over it and answers false. A head that is no
 * descriptor is not passed, and answers false each time. How far ahead the available index is, whether a chain is in flight already, and whether
 * INDIRECT was negotiated is not looked at; a table may be longer than the ring, and a chain may go on behind it.
 */
export type DeviceLaw = 'virtio' | 'vringh'

/** The state to begin at, all else checked. */
export function checkRingOptions(options: RingOptions, law: DeviceLaw = 'virtio'): RingState {
  const { format, size, areas, state = initialState(format) } = options
  checkAreas(format, size, areas)
  if (law === 'virtio') checkRingState(format, size, state)
  return state
}

/** The state to begin at, all options of a driver's side checked. */
export function checkDriverOptions(options: DriverRingOptions): RingState {
  const state = checkRingOptions(options)
  const { snapshot } = options
  if (options.indirect !== undefined) checkObject(options.indirect, 'indirect')
  if (options.indirect !== undefined && options.features?.indirect !== true)
    throw rangeError('indirect', 'left out unless features.indirect is true', options.indirect)
  if (snapshot === undefined) {
    if (state.available !== state.used)
      throw rangeError('state.used', 'equal to state.available: a new driver ring has nothing in flight', state.used)
    return state
  }
  if (options.state !== undefined) throw rangeError('state', 'left out when there is a snapshot', options.state)
  checkSnapshot(options, snapshot)
  return state
}

/** The state to begin at, all options of a device's side checked. */
export function checkDeviceOptions(options: DeviceRingOptions): RingState {
  const { format, features, law = 'virtio' } = options
  checkOneOf(law, 'law', format === 'split' ? ['virtio', 'vringh'] : ['virtio'])
  const state = checkRingOptions(options, law)
  if (features?.indirect === true || law === 'vringh') checkFunction(options.translateTable, 'translateTable')
  if (options.longestTable !== undefined) checkInteger(options.longestTable, 'longestTable', 1, TABLE_LAST)
  return state
}

/** Segments of the longest chain that a device's side loads. */
export function longestChain({
  size,
  law,
  longestTable = law === 'vringh' ? TABLE_LAST : size,
}: DeviceRingOptions): number {
  return law === 'vringh' ? size + longestTable : Math.max(size, longestTable)
}

/** A snapshot may come from a file: nothing in it is believed that would not fit into the ring. */
function checkSnapshot(options: DriverRingOptions, snapshot: DriverSnapshot): void {
  const { format, size } = options
  checkObject(snapshot, 'snapshot')
  if (snapshot.format !== format) throw rangeError('snapshot.format', `'${format}'`, snapshot.format)
  if (snapshot.size !== size) throw rangeError('snapshot.size', `${size}`, snapshot.size)
  if (!Array.isArray(snapshot.chains)) throw typeError('snapshot.chains', 'an array', snapshot.chains)
  if (!Array.isArray(snapshot.used)) throw typeError('snapshot.used', 'an array', snapshot.used)
  const tableSize = options.indirect?.tableSize ?? 0
  let tables = tableSize === 0 ? 0 : Math.floor((options.indirect?.memory.byteLength ?? 0) / (16 * tableSize))
  let slots = size
  const scratch = new StagedChain(size)
  for (const [index, chain] of (snapshot.chains as readonly ChainRecord[]).entries()) {
    const name = `snapshot.chains[${index}]`
    checkObject(chain, name)
    checkInteger(chain.token, `${name}.token`, 0, 0x7fff_ffff)
    checkBoolean(chain.isIndirect, `${name}.isIndirect`)
    if (chain.isIndirect && tables === 0) throw rangeError(`${name}.isIndirect`, 'false where no table is free', true)
    if (!Array.isArray(chain.segments)) throw typeError(`${name}.segments`, 'an array', chain.segments)
    const count = chain.segments.length
    checkInteger(count, `${name}.segments.length`, 1, chain.isIndirect ? Math.min(tableSize, size) : slots)
    if (chain.isIndirect) tables--
    slots -= chain.isIndirect ? 1 : count
    if (slots < 0) throw rangeError(name, `such that all chains fit into ${size} descriptors`, count)
    checkSegments(scratch, chain.segments, name)
  }
  for (const [index, one] of (snapshot.used as readonly UsedRecord[]).entries()) {
    checkObject(one, `snapshot.used[${index}]`)
    const { token, length } = one
    checkInteger(token, `snapshot.used[${index}].token`, 0, 0x7fff_ffff)
    checkInteger(length, `snapshot.used[${index}].length`, 0, 0x1_0000_0000)
  }
}

function checkSegments(scratch: StagedChain, segments: readonly ChainSegment[], name: string): void {
  scratch.begin()
  for (const [at, segment] of segments.entries()) {
    checkObject(segment, `${name}.segments[${at}]`)
    checkBoolean(segment.deviceWrites, `${name}.segments[${at}].deviceWrites`)
    try {
      scratch.push(segment.iovaHigh, segment.iovaLow, segment.length, segment.deviceWrites)
    } catch (cause) {
      throw rangeError(`${name}.segments[${at}]`, `such that ${(cause as Error).message}`, segment)
    }
  }
}

function checkBoolean(value: unknown, name: string): void {
  if (typeof value !== 'boolean') throw typeError(name, 'true or false', value)
}
