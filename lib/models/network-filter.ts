// The receive filter of a network device (spec section 5.1.6.5.1 to 5.1.6.5.3): which frames its driver is given, by what commands have set.

import { ETHERTYPE_AT } from '../uapi/net-frame.js'
import { formatMac } from '../uapi/virtio-net.js'
import type { MacTable } from '../uapi/virtio-net-payloads.js'
import type { NetControlState } from './network-control-state.js'

/** The filter of one device: own address, broadcast and multicast unless commands say otherwise. */
export class NetFilter {
  /** VIRTIO_NET_F_CTRL_VLAN was negotiated. */
  hasVlans = false
  /** Nobody can set the filter, nor say which address is the guest's: it keeps nothing back. */
  passesAll = false
  /** Compares addresses as C strings (an oddity). */
  comparesStrings = false
  readonly #state: NetControlState
  #setsOf: MacTable | undefined
  #sets: Record<keyof MacTable, ReadonlySet<string>> = { unicast: new Set(), multicast: new Set() }

  constructor(state: NetControlState) {
    this.#state = state
  }

  /** Whether a frame passes whose destination address is at `at`, and whose last byte is before `length`. */
  passes(frame: Uint8Array, at: number, length: number): boolean {
    const state = this.#state
    if (state.isPromiscuous || this.passesAll) return true
    if (this.hasVlans && !this.#passesVlan(frame, at + ETHERTYPE_AT, length)) return false
    if (((frame[at] ?? 0) & 1) === 1) return this.#passesGroup(frame, at)
    if (state.refusesUnicast) return false
    if (state.acceptsAllUnicast) return true
    const { mac } = state
    let isOwn = true
    for (let index = 0; index < 6 && isOwn; index++) {
      isOwn = mac[index] === frame[at + index]
      if (isOwn && mac[index] === 0 && this.comparesStrings) break
    }
    return isOwn || (state.table.unicast.length > 0 && this.#isInTable('unicast', frame, at))
  }

  /** Frames with a tag pass when their VLAN was added (section 5.1.6.5.3); those without one always. */
  #passesVlan(frame: Uint8Array, at: number, length: number): boolean {
    if (length < at + 4 || frame[at] !== 0x81 || frame[at + 1] !== 0) return true
    return this.#state.vlans.has((((frame[at + 2] ?? 0) & 0xf) << 8) | (frame[at + 3] ?? 0))
  }

  #passesGroup(frame: Uint8Array, at: number): boolean {
    const state = this.#state
    let isBroadcast = true
    for (let index = 0; index < 6 && isBroadcast; index++) isBroadcast = frame[at + index] === 0xff
    if (isBroadcast) return !state.refusesBroadcast
    if (state.refusesMulticast) return false
    return state.acceptsAllMulticast || (state.table.multicast.length > 0 && this.#isInTable('multicast', frame, at))
  }

  /** A driver may give thousands of addresses, and each frame asks. */
  #isInTable(part: keyof MacTable, frame: Uint8Array, at: number): boolean {
    const { table } = this.#state
    if (this.#setsOf !== table) {
      this.#setsOf = table
      this.#sets = { unicast: new Set(table.unicast), multicast: new Set(table.multicast) }
    }
    return this.#sets[part].has(formatMac(frame.slice(at, at + 6)))
  }
}
