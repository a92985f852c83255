// What a ring is made of: the arguments of createDriverRing and createDeviceRing, and the checks that both formats share.

import { checkFunction, checkInteger, checkOneOf, rangeError, typeError } from '../base/checks.js'
import { checkAreas, checkRingState, initialState, slotsBetween } from './layout.js'
import type {
  ChainRecord,
  DriverSnapshot,
  IndirectTables,
  RingAreas,
  RingFeatures,
  RingFormat,
  RingState,
  TranslateTable,
} from './virtqueue.js'

/** What both sides of a ring are made of. */
export interface RingOptions {
  /** `'packed'` when VIRTIO_F_RING_PACKED was negotiated, `'split'` otherwise. */
  readonly format: RingFormat
  /** Descriptors: a power of two up to 32768 (split), any number from 1 to 32768 (packed). */
  readonly size: number
  /** As long as `areaSizes()` says or longer, each at an even offset of its buffer. */
  readonly areas: RingAreas
  /** What was negotiated. Default: none of them. */
  readonly features?: RingFeatures
  /** Where the queue begins. Default: as a new one (0 for split, 0x8000 in both halves for packed). */
  readonly state?: RingState
}

/** What a driver's side is made of. */
export interface DriverRingOptions extends RingOptions {
  /** Memory for indirect tables; needs `features.indirect`. Without it all chains are direct. */
  readonly indirect?: IndirectTables
  /** Goes on where a ring of the same memory stood, instead of writing the memory anew. Not together with `state`. */
  readonly snapshot?: DriverSnapshot
}

/** What a device's side is made of. */
export interface DeviceRingOptions extends RingOptions {
  /** Finds indirect tables; needed with `features.indirect`, and for `'vringh'`. */
  readonly translateTable?: TranslateTable
  /** Which law the driver is held to; `'virtio'` by default. `'vringh'` is for split rings only. */
  readonly law?: DeviceLaw
}

/**
 * What a device does about a driver that breaks the rules. `'virtio'`: the first broken rule breaks the ring. `'vringh'`: as the device side in Linux 6.12 that
 * vdpa_sim is built on, no rule breaks the ring. A chain that cannot be followed is lost: next() passes over it and answers false. A head that is no
 * descriptor is not passed, and answers false each time. How far ahead the available index is, whether a chain is in flight already, and whether
 * INDIRECT was negotiated is not looked at; a chain may go on behind an indirect table.
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
  if (options.indirect !== undefined && options.features?.indirect !== true)
    throw rangeError('indirect', 'left out unless features.indirect is true', options.indirect)
  if (snapshot === undefined) {
    if (state.available !== state.used)
      throw rangeError('state.used', 'equal to state.available: a new driver ring has nothing in flight', state.used)
    return state
  }
  if (options.state !== undefined) throw rangeError('state', 'left out when there is a snapshot', options.state)
  checkSnapshot(options, snapshot)
  return snapshot.state
}

/** The state to begin at, all options of a device's side checked. */
export function checkDeviceOptions(options: DeviceRingOptions): RingState {
  const { format, features, law = 'virtio' } = options
  checkOneOf(law, 'law', format === 'split' ? ['virtio', 'vringh'] : ['virtio'])
  const state = checkRingOptions(options, law)
  if (features?.indirect === true || law === 'vringh') checkFunction(options.translateTable, 'translateTable')
  return state
}

/** A snapshot may come from a file: nothing in it is believed that would make the ring contradict itself. */
function checkSnapshot(options: DriverRingOptions, snapshot: DriverSnapshot): void {
  const { format, size } = options
  if (snapshot.format !== format) throw rangeError('snapshot.format', `'${format}'`, snapshot.format)
  if (snapshot.size !== size) throw rangeError('snapshot.size', `${size}`, snapshot.size)
  checkRingState(format, size, snapshot.state, 'snapshot.state')
  if (!Array.isArray(snapshot.chains)) throw typeError('snapshot.chains', 'an array', snapshot.chains)
  checkInteger(snapshot.nextId, 'snapshot.nextId', 0, size - 1)
  const chains: readonly ChainRecord[] = snapshot.chains
  const ids = new Set<number>()
  const descriptors = new Set<number>()
  const tables = new Set<number>()
  const tableCount =
    options.indirect === undefined
      ? 0
      : Math.floor(options.indirect.memory.byteLength / (16 * options.indirect.tableSize))
  let slots = 0
  for (const [index, chain] of chains.entries()) {
    const name = `snapshot.chains[${index}]`
    checkInteger(chain.token, `${name}.token`, 0, 0x7fff_ffff)
    checkInteger(chain.writableLength, `${name}.writableLength`, 0, 0x1_0000_0000)
    checkInteger(chain.slots, `${name}.slots`, 1, size - slots)
    checkUnique(chain.id, `${name}.id`, size - 1, ids)
    if (chain.table !== -1) checkUnique(chain.table, `${name}.table`, tableCount - 1, tables)
    if (format === 'split') {
      checkInteger(chain.descriptors.length, `${name}.descriptors.length`, chain.slots, chain.slots)
      if (chain.descriptors[0] !== chain.id) throw rangeError(`${name}.id`, 'the first of its descriptors', chain.id)
      for (const descriptor of chain.descriptors) checkUnique(descriptor, `${name}.descriptors`, size - 1, descriptors)
    }
    slots += chain.slots
  }
  // The positions say how much is in flight, too: chains (split) or slots (packed).
  const listed = format === 'split' ? snapshot.chains.length : slots
  const ahead = slotsBetween(format, size, snapshot.state)
  if (ahead !== listed) throw rangeError('snapshot.state.available', `${listed} ahead of snapshot.state.used`, ahead)
  if (options.features?.inOrder === true) checkOrder(size, snapshot)
}

/** With IN_ORDER a chain begins where the one before it ended: at the next descriptor (split, section 2.7.5), with the next id (packed, our choice). */
function checkOrder(size: number, snapshot: DriverSnapshot): void {
  let expected = snapshot.chains[0]?.id ?? snapshot.nextId
  for (const [index, chain] of snapshot.chains.entries()) {
    const ids = snapshot.format === 'split' ? chain.descriptors : [chain.id]
    for (const id of ids) {
      if (id !== expected) throw rangeError(`snapshot.chains[${index}]`, `in order, with ${expected}`, id)
      expected = (expected + 1) % size
    }
  }
  if (expected !== snapshot.nextId) throw rangeError('snapshot.nextId', `${expected}`, snapshot.nextId)
}

function checkUnique(value: number, name: string, last: number, seen: Set<number>): void {
  checkInteger(value, name, 0, last)
  if (seen.has(value)) throw rangeError(name, 'one that no other chain has', value)
  seen.add(value)
}
