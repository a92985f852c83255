// What a network device's control queue does (spec section 5.1.6.5): one command in, one byte of acknowledgement out. The commands' payloads are the table
// of uapi/virtio-net.ts; what each changes is here.

import {
  netAck,
  netCommandOf,
  netCommands,
  netStatus,
  parseMac,
  type Coalescing,
  type HashConfig,
  type MacTable,
  type NetCommandName,
  type RssConfig,
} from '../uapi/virtio-net.js'
import { bit } from '../base/bits.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import { HASH_KEY_BYTES, SUPPORTED_HASH_TYPES } from './network-rss.js'
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
  /** Pairs in use, from VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET or, as the transmit queues that are used, from VIRTIO_NET_CTRL_MQ_RSS_CONFIG; 1 at first. */
  queuePairs: number
  /** VIRTIO_NET_CTRL_MQ_RSS_CONFIG: how received frames are spread. Undefined until then, and after VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET. */
  rss: RssConfig | undefined
  /** VIRTIO_NET_CTRL_MQ_HASH_CONFIG: what is reported of received frames where RSS was not negotiated. */
  hash: HashConfig | undefined
  /** The bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, all of them negotiated. */
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
    rss: undefined,
    hash: undefined,
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
  /** Whether the turn is to end. */
  readonly isTurnOver: boolean
}

const HEAD_BYTES = 2
// The longest command that is listened to: an RSS configuration of 32768 entries, or a MAC table of some thousand addresses.
const COMMAND_BYTES_LAST = 80 * 1024
/** Commands that are answered before frames move. */
const COMMANDS_A_TURN = 64
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

/** The features that VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET switches on and off (section 5.1.6.5.6.1). */
const offloadBits = [
  bits.VIRTIO_NET_F_GUEST_CSUM,
  bits.VIRTIO_NET_F_GUEST_TSO4,
  bits.VIRTIO_NET_F_GUEST_TSO6,
  bits.VIRTIO_NET_F_GUEST_ECN,
  bits.VIRTIO_NET_F_GUEST_UFO,
  bits.VIRTIO_NET_F_GUEST_USO4,
  bits.VIRTIO_NET_F_GUEST_USO6,
]

/** Types that the model knows a hash of, and a key that is long enough for all that they take in. */
function isHash(hashTypes: number, key: Uint8Array): boolean {
  return (hashTypes & ~SUPPORTED_HASH_TYPES) === 0 && (hashTypes === 0 || key.byteLength === HASH_KEY_BYTES)
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
    state.rss = undefined
    return true
  }),
  act('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', bits.VIRTIO_NET_F_RSS, ({ state, maxQueuePairs }, rss: RssConfig) => {
    const { indirectionTable, unclassifiedQueue, maxTxVq, hashTypes, key } = rss
    const isQueue = (queue: number) => queue < maxQueuePairs
    if (!isQueue(unclassifiedQueue) || !indirectionTable.every(isQueue)) return false
    if (maxTxVq < 1 || maxTxVq > maxQueuePairs || !isHash(hashTypes, key)) return false
    state.rss = rss
    state.queuePairs = maxTxVq
    return true
  }),
  act('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', bits.VIRTIO_NET_F_HASH_REPORT, ({ state }, hash: HashConfig) => {
    if (!isHash(hash.hashTypes, hash.key)) return false
    state.hash = hash
    return true
  }),
  act('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', bits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, (target, offloads: bigint) => {
    let left = offloads
    for (const number of offloadBits) if (target.hasFeature(number)) left &= ~bit(number)
    if (left !== 0n) return false
    target.state.offloads = offloads
    return true
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
 * Serves the commands that are there, and counts them in `counters`; true when the turn ended before all were. One that cannot be followed is
 * answered VIRTIO_NET_ERR in its turn; where the answer cannot be written it is used with nothing written. One in memory that the device cannot reach is no
 * command at all: the chain is lost, as a fault of DMA loses it, and gets neither acknowledgement nor interrupt.
 */
export function serveControlQueue(
  queue: DeviceQueue,
  target: NetControlTarget,
  counters: { commands: number; commandErrors: number },
): boolean {
  const isVdpaSim = target.deviates('net-control-of-vdpa-sim')
  let last: number = netAck.VIRTIO_NET_ERR
  for (let count = 1; queue.next(); count++) {
    counters.commands++
    const command = readCommand(queue)
    if (command === undefined || command === 'unreachable') counters.commandErrors++
    // vdpa_sim_net forgets the chain, and does not go on by itself.
    if (isVdpaSim && typeof command !== 'object') return false
    if (command !== 'unreachable') {
      last = command === undefined ? netAck.VIRTIO_NET_ERR : answer(command, target, last)
      if (command !== undefined && last !== netAck.VIRTIO_NET_OK) counters.commandErrors++
      acknowledge(queue, last, isVdpaSim)
    }
    // What vdpa_sim_net answers depends on the commands before it in the turn.
    if ((count >= COMMANDS_A_TURN && !isVdpaSim) || target.isTurnOver) return true
  }
  return queue.rest()
}

function acknowledge(queue: DeviceQueue, answered: number, isVdpaSim: boolean): void {
  ack[0] = answered
  if (queue.write(ack, 0, 1) >= 0 || !isVdpaSim) queue.complete()
  else queue.completeWith(EFAULT_AS_LENGTH)
  queue.publish()
}

/** The bytes of the command in hand; undefined when they are too few or too many. */
function readCommand(queue: DeviceQueue): Uint8Array | 'unreachable' | undefined {
  const length = queue.readableLength
  if (length < HEAD_BYTES || length > COMMAND_BYTES_LAST) return undefined
  if (scratch.byteLength < length) scratch = new Uint8Array(length)
  return queue.read(scratch, 0, length) === length ? scratch.subarray(0, length) : 'unreachable'
}
