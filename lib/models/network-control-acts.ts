// What each control command does to a network device (spec section 5.1.6.5). Payloads and the feature that each needs are in the table of
// uapi/virtio-net-commands.ts.

import { bit } from '../base/bits.js'
import { netStatus, parseMac } from '../uapi/virtio-net.js'
import {
  netFeatureBit,
  netGuestOffloads,
  type NetCommand,
  type NetCommandAnswer,
  type NetCommandName,
  type NetCommandPayload,
} from '../uapi/virtio-net-commands.js'
import type { NetControlState, NetControlTarget } from './network-control-state.js'
import { HASH_KEY_BYTES, RSS_CONTEXTS, SUPPORTED_HASH_TYPES, SUPPORTED_TUNNEL_TYPES } from './network-rss.js'
import { coalescingOf, statistics, SUPPORTED_STATS } from './network-stats.js'

/** False refuses; the value of an answer is what stands behind the acknowledgement. */
type Act<N extends NetCommandName> = (
  target: NetControlTarget,
  value: NetCommandPayload<N>,
) => NetCommandAnswer<N> | boolean | void

const flag =
  (
    key: {
      [K in keyof NetControlState]: NetControlState[K] extends boolean ? K : never
    }[keyof NetControlState],
  ) =>
  ({ state }: NetControlTarget, on: boolean): void => {
    state[key] = on
  }

/** Types that the model knows a hash of, and a key that is long enough for all that they take in. */
function isHash({ hashTypes, key }: { readonly hashTypes: number; readonly key: Uint8Array }): boolean {
  return (hashTypes & ~SUPPORTED_HASH_TYPES) === 0 && (hashTypes === 0 || key.byteLength === HASH_KEY_BYTES)
}

function isSpread(
  { maxQueuePairs }: NetControlTarget,
  rss: NetCommandPayload<'VIRTIO_NET_CTRL_MQ_RSS_CONFIG'>,
): boolean {
  const isQueue = (queue: number) => queue < maxQueuePairs
  if (!isQueue(rss.unclassifiedQueue) || !rss.indirectionTable.every(isQueue)) return false
  return rss.maxTxVq >= 1 && rss.maxTxVq <= maxQueuePairs && isHash(rss)
}

const acts: { readonly [N in NetCommandName]: Act<N> } = {
  VIRTIO_NET_CTRL_RX_PROMISC: flag('isPromiscuous'),
  VIRTIO_NET_CTRL_RX_ALLMULTI: flag('acceptsAllMulticast'),
  VIRTIO_NET_CTRL_RX_ALLUNI: flag('acceptsAllUnicast'),
  VIRTIO_NET_CTRL_RX_NOMULTI: flag('refusesMulticast'),
  VIRTIO_NET_CTRL_RX_NOUNI: flag('refusesUnicast'),
  VIRTIO_NET_CTRL_RX_NOBCAST: flag('refusesBroadcast'),
  VIRTIO_NET_CTRL_MAC_TABLE_SET: ({ state }, table) => {
    state.table = table
  },
  VIRTIO_NET_CTRL_MAC_ADDR_SET: ({ state }, mac) => state.mac.set(parseMac(mac)),
  VIRTIO_NET_CTRL_VLAN_ADD: ({ state }, vlan) => {
    if (vlan > 4095) return false
    state.vlans.add(vlan)
    return true
  },
  VIRTIO_NET_CTRL_VLAN_DEL: ({ state }, vlan) => state.vlans.delete(vlan),
  VIRTIO_NET_CTRL_ANNOUNCE_ACK: ({ state }) => {
    state.announceAcknowledged++
    state.status[0] = (state.status[0] ?? 0) & ~netStatus.VIRTIO_NET_S_ANNOUNCE
  },
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: ({ state, maxQueuePairs }, pairs) => {
    // Contexts choose among queues that this would take away (section 5.1.6.5.8).
    if (pairs < 1 || pairs > maxQueuePairs || state.rssContexts.size > 0) return false
    state.queuePairs = pairs
    state.rss = undefined
    return true
  },
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: (target, rss) => {
    if (!isSpread(target, rss)) return false
    target.state.rss = rss
    target.state.queuePairs = rss.maxTxVq
    return true
  },
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: ({ state }, hash) => {
    if (!isHash(hash)) return false
    state.hash = hash
    return true
  },
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: (target, offloads) => {
    let left = offloads
    for (const [number, feature] of netGuestOffloads)
      if (target.hasFeature(netFeatureBit(feature))) left &= ~bit(number)
    if (left !== 0n) return false
    target.state.offloads = offloads
    return true
  },
  VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: ({ state }, coalescing) => {
    state.transmitCoalescing = coalescing
    for (const queue of state.queueCoalescing.keys()) if (queue % 2 === 1) state.queueCoalescing.delete(queue)
  },
  VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: ({ state }, coalescing) => {
    state.receiveCoalescing = coalescing
    for (const queue of state.queueCoalescing.keys()) if (queue % 2 === 0) state.queueCoalescing.delete(queue)
  },
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: (target, { queue, maxPackets, maxUsecs }) => {
    const found = target.dataQueue(queue)
    if (found?.isReady !== true) return false
    target.state.queueCoalescing.set(queue, { coalescing: { maxPackets, maxUsecs }, enabled: found.enabled })
    return true
  },
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: coalescingOf,
  VIRTIO_NET_CTRL_HASH_TUNNEL_SET: ({ state }, types) => {
    if ((types & ~SUPPORTED_TUNNEL_TYPES) !== 0) return false
    state.tunnels = types
    return true
  },
  VIRTIO_NET_CTRL_STATS_QUERY: () => SUPPORTED_STATS,
  VIRTIO_NET_CTRL_STATS_GET: statistics,
  VIRTNET_RSS_CTX_CTRL_CAP_GET: () => RSS_CONTEXTS,
  VIRTNET_RSS_CTX_CTRL_ADD: (target, { id, rss }) => {
    const { rssContexts } = target.state
    if (id < 1 || id > RSS_CONTEXTS || rssContexts.has(id) || !isSpread(target, rss)) return false
    rssContexts.set(id, rss)
    return true
  },
  VIRTNET_RSS_CTX_CTRL_MOD: (target, { id, rss }) => {
    const { rssContexts } = target.state
    if (!rssContexts.has(id) || !isSpread(target, rss)) return false
    rssContexts.set(id, rss)
    return true
  },
  VIRTNET_RSS_CTX_CTRL_DEL: ({ state }, id) => state.rssContexts.delete(id),
}

const nothing = new Uint8Array(0)

/** Carries a command out: the answer behind VIRTIO_NET_OK, empty for most; undefined for VIRTIO_NET_ERR. */
export function carryOut(
  command: NetCommand<unknown, unknown>,
  payload: Uint8Array,
  target: NetControlTarget,
): Uint8Array | undefined {
  if (!target.hasFeature(netFeatureBit(command.feature))) return undefined
  let value: unknown
  try {
    value = command.decode(payload)
  } catch {
    return undefined
  }
  const act = acts[command.name as NetCommandName] as (target: NetControlTarget, value: unknown) => unknown
  const result = act(target, value)
  if (result === false) return undefined
  return command.answer === undefined ? nothing : command.answer.encode(result)
}
