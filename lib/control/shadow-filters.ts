// A MAC table that the device has no room for becomes promiscuous mode, and what the guest asked for is kept: the table for another device, the mode for the time
// when its table is shorter again.

import { netAck } from '../uapi/virtio-net.js'
import type { MacTable } from '../uapi/virtio-net-payloads.js'
import type { NetCommandName } from '../uapi/virtio-net-commands.js'
import type { StateCommand } from './control-state.js'

const TABLE: NetCommandName = 'VIRTIO_NET_CTRL_MAC_TABLE_SET'
const PROMISCUOUS: NetCommandName = 'VIRTIO_NET_CTRL_RX_PROMISC'

/** Sends a command to the device; resolves with its acknowledgement. */
export type Forward = (name: NetCommandName, payload: Uint8Array) => Promise<number>

/** What the guest wants of the filters, where the device has something else. */
export class ShadowFilters {
  readonly #entriesLast: number
  #wantsPromiscuous = false
  /** The device is promiscuous in place of this table; null where it was too long to be kept. */
  #table: Uint8Array | null | undefined

  /** `entriesLast`: addresses of the longest table that the device is asked to take. */
  constructor(entriesLast: number) {
    this.#entriesLast = entriesLast
  }

  /** Whether the device is promiscuous although the guest did not ask for it. */
  get isFallback(): boolean {
    return this.#table !== undefined
  }

  /** RX_PROMISC: while the device is promiscuous for another reason it stays so. */
  async setPromiscuous(isOn: boolean, forward: Forward): Promise<number> {
    const ack = this.isFallback ? netAck.VIRTIO_NET_OK : await forward(PROMISCUOUS, Uint8Array.of(isOn ? 1 : 0))
    if (ack === netAck.VIRTIO_NET_OK) this.#wantsPromiscuous = isOn
    return ack
  }

  /**
   * MAC_TABLE_SET: to the device, or promiscuous mode where that has no room for it. `table` is undefined where it is longer than any command may be;
   * `mayBePromiscuous` is asked before the mode is set.
   */
  async setTable(
    table: MacTable | undefined,
    payload: Uint8Array,
    forward: Forward,
    mayBePromiscuous: () => Promise<boolean>,
  ): Promise<number> {
    const entries = table === undefined ? Infinity : table.unicast.length + table.multicast.length
    if (entries <= this.#entriesLast) {
      const ack = await forward(TABLE, payload)
      if (ack === netAck.VIRTIO_NET_OK) return this.#fits(forward)
    }
    if (!this.isFallback && !this.#wantsPromiscuous) {
      if (!(await mayBePromiscuous())) return netAck.VIRTIO_NET_ERR
      const ack = await forward(PROMISCUOUS, Uint8Array.of(1))
      if (ack !== netAck.VIRTIO_NET_OK) return ack
    }
    this.#table = table === undefined ? null : payload
    return netAck.VIRTIO_NET_OK
  }

  /** The device has the table: what stood in its place ends, unless the guest wants it. A device that goes on receiving everything does no harm. */
  async #fits(forward: Forward): Promise<number> {
    if (this.isFallback) {
      this.#table = undefined
      if (!this.#wantsPromiscuous) await forward(PROMISCUOUS, Uint8Array.of(0)).catch(() => undefined)
    }
    return netAck.VIRTIO_NET_OK
  }

  /** What the device was told, with what the guest asked for in its place. */
  asWished(commands: readonly StateCommand[]): StateCommand[] {
    if (!this.isFallback) return [...commands]
    const table = this.#table?.slice()
    const others = commands.filter(({ name }) => name !== PROMISCUOUS && (name !== TABLE || table === undefined))
    // A table that nobody kept leaves the mode in its place.
    const isOn = this.#wantsPromiscuous || table === undefined
    const mode: StateCommand = { name: PROMISCUOUS, payload: Uint8Array.of(isOn ? 1 : 0) }
    return table === undefined ? [...others, mode] : [...others, { name: TABLE, payload: table }, mode]
  }
}
