// What control commands have set in a network device (spec section 5.1.6.5), and what they may ask of it. What each changes is in network-control-acts.ts.

import type { Coalescing, MacTable } from '../uapi/virtio-net-payloads.js'
import type { HashConfig, RssConfig } from '../uapi/virtio-net-steering.js'

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
  /** VIRTIO_NET_CTRL_HASH_TUNNEL_SET: bits of `netTunnelTypes` whose inner packet is hashed; 0 at first. */
  tunnels: number
  /** RSS contexts by number; nothing directs frames to them. */
  readonly rssContexts: Map<number, RssConfig>
  /** The bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, all of them negotiated; undefined until then: all that were negotiated. */
  offloads: bigint | undefined
  /** How many VIRTIO_NET_CTRL_ANNOUNCE_ACK there were. */
  announceAcknowledged: number
  /** VIRTIO_NET_CTRL_NOTF_COAL_TX_SET; kept, and notifications come as if nothing was said, which the specification allows. */
  transmitCoalescing: Coalescing
  /** VIRTIO_NET_CTRL_NOTF_COAL_RX_SET; kept in the same way. */
  receiveCoalescing: Coalescing
  /** VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET, by virtqueue, with how often the queue had been enabled by then: a queue that is enabled anew begins anew. */
  readonly queueCoalescing: Map<number, { readonly coalescing: Coalescing; readonly enabled: number }>
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
    tunnels: 0,
    rssContexts: new Map(),
    offloads: undefined,
    announceAcknowledged: 0,
    transmitCoalescing: atOnce,
    receiveCoalescing: atOnce,
    queueCoalescing: new Map(),
  }
}

/** What a device counts of one queue, for VIRTIO_NET_F_DEVICE_STATS. */
export interface QueueTally {
  /** Notifications by the driver. */
  kicks: number
  /** Notifications of the driver. */
  interrupts: number
  /** Frames that were passed on. */
  packets: number
  /** Their bytes, headers of virtio_net not included. */
  bytes: number
  /** Frames that were not. */
  drops: number
  /** Those of them for which there was no buffer, or which were malformed. */
  missed: number
}

/** One queue, as commands see it. */
export interface TalliedQueue {
  /** Whether it is enabled. */
  readonly isReady: boolean
  /** How often it has been. */
  readonly enabled: number
  /** What was counted. */
  readonly tally: Readonly<QueueTally>
}

/** What the control queue needs of its device. */
export interface NetControlTarget {
  /** What commands change. */
  readonly state: NetControlState
  /** Commands taken, and those not answered VIRTIO_NET_OK. */
  readonly counters: { commands: number; commandErrors: number }
  /** Whether the driver accepted a feature, by bit number. */
  hasFeature(number: number): boolean
  /** The most pairs that a command may ask for. */
  readonly maxQueuePairs: number
  /** A receive or transmit queue by its index; undefined for the control queue, and past the last. */
  dataQueue(index: number): TalliedQueue | undefined
  /** The index of the control queue under the accepted features. */
  readonly controlIndex: number
  /** As DeviceHost.deviates(). */
  deviates(name: string): boolean
  /** Whether the turn is to end. */
  readonly isTurnOver: boolean
}
