// What a network device's control queue does (spec section 5.1.6.5): one command in, one byte of acknowledgement out. The commands' payloads are the table
// of uapi/virtio-net.ts; what each changes is here.

import {
  netAck,
  netCommandOf,
  netCommands,
  netStatus,
  parseMac,
  type Coalescing,
  type MacTable,
  type NetCommandName,
} from '../uapi/virtio-net.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import type { DeviceQueue } from './device-queue.js'

/** What commands change. */
export interface NetControlState {
  /** The device's address, six bytes, where it lies in the configuration space; as are those of `status`. */
  readonly mac: Uint8Array
  /** Two bytes, little-endian: bits of `netStatus`. */
  readonly status: Uint8Array
  /** VIRTIO_NET_CTRL_RX_PROMISC: every frame passes. The flags below say which others pass, or do not, besides those to the own address. */
  isPromiscuous: boolean
  /** VIRTIO_NET_CTRL_RX_ALLMULTI. True at first. */
  acceptsAllMulticast: boolean
  /** VIRTIO_NET_CTRL_RX_ALLUNI. */
  acceptsAllUnicast: boolean
  /** VIRTIO_NET_CTRL_RX_NOMULTI; stronger than ALLMULTI and the table. */
  refusesMulticast: boolean
  /** VIRTIO_NET_CTRL_RX_NOUNI; stronger than ALLUNI, the table and the own address. */
  refusesUnicast: boolean
  /** VIRTIO_NET_CTRL_RX_NOBCAST. */
  refusesBroadcast: boolean
  /** VIRTIO_NET_CTRL_MAC_TABLE_SET: what passes besides the own address. */
  table: MacTable
  /** VLAN ids, 0..4095, whose tagged frames pass once VIRTIO_NET_F_CTRL_VLAN was negotiated. */
  readonly vlans: Set<number>
  /** Pairs in use, from VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET; 1 at first. */
  queuePairs: number
  /** The bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET; kept, and of no effect. */
  offloads: bigint
  /** How many VIRTIO_NET_CTRL_ANNOUNCE_ACK there were. */
  announceAcknowledged: number
  /** VIRTIO_NET_CTRL_NOTF_COAL_TX_SET; kept, and of no effect. */
  transmitCoalescing: Coalescing
  /** VIRTIO_NET_CTRL_NOTF_COAL_RX_SET; kept, and of no effect. */
  receiveCoalescing: Coalescing
}

const atOnce: Coalescing = { maxPackets: 0, maxUsecs: 0 }

/** What a driver finds before its first command (section 5.1.6.5). `mac` and `status` are parts of the configuration space. */
export function newControlState(mac: Uint8Array, status: Uint8Array): NetControlState {
  return {
    mac,
    status,
    isPromiscuous: false,
    acceptsAllMulticast: true,
    acceptsAllUnicast: false,
    refusesMulticast: false,
    refusesUnicast: false,
    refusesBroadcast: false,
    table: { unicast: [], multicast: [] },
    vlans: new Set(),
    queuePairs: 1,
    offloads: 0n,
    announceAcknowledged: 0,
    transmitCoalescing: atOnce,
    receiveCoalescing: atOnce,
  }
}

/** What the control queue needs of its device. */
export interface NetControlTarget {
  /** What commands change. */
  readonly state: NetControlState
  /** Whether the driver accepted a feature, by bit number. */
  hasFeature(number: number): boolean
  /** The most pairs that a command may ask for. */
  readonly maxQueuePairs: number
  /** As DeviceHost.deviates(). */
  deviates(name: string): boolean
}

const HEAD_BYTES = 2
// The longest command that is listened to: a MAC table of some thousand addresses.
const COMMAND_BYTES_LAST = 65536
/** -EFAULT as the unsigned word that vdpa_sim_net writes for a length when the acknowledgement cannot be written. */
const EFAULT_AS_LENGTH = 0xffff_fff2
let scratch = new Uint8Array(256)
const ack = new Uint8Array(1)

type Act = (target: NetControlTarget, value: never) => boolean

function act<T>(name: NetCommandName, feature: number, change: (target: NetControlTarget, value: T) => boolean | void) {
  const run = (target: NetControlTarget, value: T) => target.hasFeature(feature) && change(target, value) !== false
  return [netCommands[name], run as Act] as const
}

const bits = netFeatureBits
const flag =
  (
    key:
      | 'isPromiscuous'
      | 'acceptsAllMulticast'
      | 'acceptsAllUnicast'
      | 'refusesMulticast'
      | 'refusesUnicast'
      | 'refusesBroadcast',
  ) =>
  ({ state }: NetControlTarget, on: boolean): void => {
    state[key] = on
  }

const acts = new Map<unknown, Act>([
  act('VIRTIO_NET_CTRL_RX_PROMISC', bits.VIRTIO_NET_F_CTRL_RX, flag('isPromiscuous')),
  act('VIRTIO_NET_CTRL_RX_ALLMULTI', bits.VIRTIO_NET_F_CTRL_RX, flag('acceptsAllMulticast')),
  act('VIRTIO_NET_CTRL_RX_ALLUNI', bits.VIRTIO_NET_F_CTRL_RX_EXTRA, flag('acceptsAllUnicast')),
  act('VIRTIO_NET_CTRL_RX_NOMULTI', bits.VIRTIO_NET_F_CTRL_RX_EXTRA, flag('refusesMulticast')),
  act('VIRTIO_NET_CTRL_RX_NOUNI', bits.VIRTIO_NET_F_CTRL_RX_EXTRA, flag('refusesUnicast')),
  act('VIRTIO_NET_CTRL_RX_NOBCAST', bits.VIRTIO_NET_F_CTRL_RX_EXTRA, flag('refusesBroadcast')),
  act('VIRTIO_NET_CTRL_MAC_TABLE_SET', bits.VIRTIO_NET_F_CTRL_RX, ({ state }, table: MacTable) => {
    state.table = table
  }),
  act('VIRTIO_NET_CTRL_MAC_ADDR_SET', bits.VIRTIO_NET_F_CTRL_MAC_ADDR, ({ state }, mac: string) => {
    state.mac.set(parseMac(mac))
  }),
  act('VIRTIO_NET_CTRL_VLAN_ADD', bits.VIRTIO_NET_F_CTRL_VLAN, ({ state }, vlan: number) => {
    if (vlan > 4095) return false
    state.vlans.add(vlan)
    return true
  }),
  act('VIRTIO_NET_CTRL_VLAN_DEL', bits.VIRTIO_NET_F_CTRL_VLAN, ({ state }, vlan: number) => state.vlans.delete(vlan)),
  act('VIRTIO_NET_CTRL_ANNOUNCE_ACK', bits.VIRTIO_NET_F_GUEST_ANNOUNCE, ({ state }) => {
    state.announceAcknowledged++
    state.status[0] = (state.status[0] ?? 0) & ~netStatus.VIRTIO_NET_S_ANNOUNCE
  }),
  act('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', bits.VIRTIO_NET_F_MQ, ({ state, maxQueuePairs }, pairs: number) => {
    if (pairs < 1 || pairs > maxQueuePairs) return false
    state.queuePairs = pairs
    return true
  }),
  act('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', bits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, ({ state }, offloads: bigint) => {
    state.offloads = offloads
  }),
  act('VIRTIO_NET_CTRL_NOTF_COAL_TX_SET', bits.VIRTIO_NET_F_NOTF_COAL, ({ state }, coalescing: Coalescing) => {
    state.transmitCoalescing = coalescing
  }),
  act('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', bits.VIRTIO_NET_F_NOTF_COAL, ({ state }, coalescing: Coalescing) => {
    state.receiveCoalescing = coalescing
  }),
])

/**
 * Carries one command out: VIRTIO_NET_OK, or VIRTIO_NET_ERR for one that is unknown, not negotiated, or malformed. `previous` is the answer to the command
 * before it in the same turn.
 */
function answer(command: Uint8Array, target: NetControlTarget, previous: number): number {
  const entry = netCommandOf(command[0] ?? 0, command[1] ?? 0)
  if (target.deviates('net-control-of-vdpa-sim')) return answerAsVdpaSim(entry, command, target, previous)
  const change = acts.get(entry)
  if (entry === undefined || change === undefined) return netAck.VIRTIO_NET_ERR
  let value: unknown
  try {
    value = entry.decode(command.subarray(HEAD_BYTES))
  } catch {
    return netAck.VIRTIO_NET_ERR
  }
  return change(target, value as never) ? netAck.VIRTIO_NET_OK : netAck.VIRTIO_NET_ERR
}

/** Only the address can be set; what follows it, and whether commands were negotiated, does not matter. Another class is answered as the command before it was. */
function answerAsVdpaSim(entry: unknown, command: Uint8Array, { state }: NetControlTarget, previous: number): number {
  if (command[0] !== netCommands.VIRTIO_NET_CTRL_MAC_ADDR_SET.class) return previous
  if (entry !== netCommands.VIRTIO_NET_CTRL_MAC_ADDR_SET || command.byteLength < HEAD_BYTES + 6)
    return netAck.VIRTIO_NET_ERR
  state.mac.set(command.subarray(HEAD_BYTES, HEAD_BYTES + 6))
  return netAck.VIRTIO_NET_OK
}

/**
 * Serves all commands that are there, and counts them in `counters`. A command whose memory cannot be reached gets no acknowledgement, and ends the
 * turn: the queue does not go on by itself.
 */
export function serveControlQueue(
  queue: DeviceQueue,
  target: NetControlTarget,
  counters: { commands: number; commandErrors: number },
): void {
  let last: number = netAck.VIRTIO_NET_ERR
  while (queue.next()) {
    counters.commands++
    const length = queue.readableLength
    if (length < HEAD_BYTES || length > COMMAND_BYTES_LAST) {
      counters.commandErrors++
      return
    }
    if (scratch.byteLength < length) scratch = new Uint8Array(length)
    if (queue.read(scratch, 0, length) !== length) {
      counters.commandErrors++
      return
    }
    last = answer(scratch.subarray(0, length), target, last)
    ack[0] = last
    if (last !== netAck.VIRTIO_NET_OK) counters.commandErrors++
    if (queue.write(ack, 0, 1) >= 0) queue.complete()
    else if (target.deviates('net-control-of-vdpa-sim')) queue.completeWith(EFAULT_AS_LENGTH)
    else return
    queue.publish()
  }
  queue.ring.enableKicks()
}
