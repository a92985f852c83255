// THE table of a network device's control commands (spec section 5.1.6.5; numbers of <linux/virtio_net.h>): class, number, the feature that each needs, and
// payloads. The driver's end and the device's end both use it.

import { typeError } from '../base/checks.js'
import { netFeatureBits } from './virtio-features.js'
import * as payloads from './virtio-net-payloads.js'
import * as stats from './virtio-net-stats.js'
import * as steering from './virtio-net-steering.js'
import type { NetPayload } from './virtio-net-payloads.js'

/** Features whose bits a 64-bit word does not hold: vhost-vdpa cannot negotiate them, devices behind other transports can. */
export const wideNetFeatureBits = {
  VIRTIO_NET_F_RSS_CONTEXT: 64,
  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO: 65,
  VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM: 66,
  VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO: 67,
  VIRTIO_NET_F_HOST_UDP_TUNNEL_GSO_CSUM: 68,
} as const

/** A feature that a control command may need. */
export type NetCommandFeature = keyof typeof netFeatureBits | keyof typeof wideNetFeatureBits

const featureBits = { ...netFeatureBits, ...wideNetFeatureBits }

/** The bit number of a feature that a control command needs. */
export function netFeatureBit(feature: NetCommandFeature): number {
  return featureBits[feature]
}

/** The bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, each with the feature that it switches: the same number, but for the two that lie beyond the word. */
export const netGuestOffloads: readonly (readonly [number: number, feature: NetCommandFeature])[] = [
  [netFeatureBits.VIRTIO_NET_F_GUEST_CSUM, 'VIRTIO_NET_F_GUEST_CSUM'],
  [netFeatureBits.VIRTIO_NET_F_GUEST_TSO4, 'VIRTIO_NET_F_GUEST_TSO4'],
  [netFeatureBits.VIRTIO_NET_F_GUEST_TSO6, 'VIRTIO_NET_F_GUEST_TSO6'],
  [netFeatureBits.VIRTIO_NET_F_GUEST_ECN, 'VIRTIO_NET_F_GUEST_ECN'],
  [netFeatureBits.VIRTIO_NET_F_GUEST_UFO, 'VIRTIO_NET_F_GUEST_UFO'],
  [46, 'VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO'],
  [47, 'VIRTIO_NET_F_GUEST_UDP_TUNNEL_GSO_CSUM'],
  [netFeatureBits.VIRTIO_NET_F_GUEST_USO4, 'VIRTIO_NET_F_GUEST_USO4'],
  [netFeatureBits.VIRTIO_NET_F_GUEST_USO6, 'VIRTIO_NET_F_GUEST_USO6'],
]

/** What a command is answered with besides the acknowledgement, which it follows. */
export interface NetAnswer<T, A> {
  /** The room that the whole answer to `value` takes, in bytes. */
  bytes(value: T): number
  /** The room that it is given where there is more, in bytes: newer devices may have more to say. Absent: `bytes` is all. */
  room?(value: T): number
  /** The answer as bytes. */
  encode(answer: A): Uint8Array
  /** RangeError when the bytes are no answer of this command. */
  decode(answer: Uint8Array): A
}

/** A control command: class, number within the class, and the codec of what follows the two-byte head. */
export interface NetCommand<T, A = undefined> {
  /** The header's name: `'VIRTIO_NET_CTRL_MAC_ADDR_SET'`. */
  readonly name: string
  /** The first byte of the head. */
  readonly class: number
  /** The second byte of the head. */
  readonly command: number
  /** The feature without which a driver may not send it. */
  readonly feature: NetCommandFeature
  /** The answer behind the acknowledgement; undefined for commands that have none. */
  readonly answer: NetAnswer<T, A> | undefined
  /** The payload, without the head. Throws a TypeError or RangeError when the value is not one of this command. */
  encode(value: T): Uint8Array
  /** Throws a RangeError when the bytes are not a payload of this command. */
  decode(payload: Uint8Array): T
}

function command<T>(
  name: string,
  [commandClass, number]: readonly [number, number],
  feature: NetCommandFeature,
  codec: NetPayload<T>,
): NetCommand<T> {
  return { name, class: commandClass, command: number, feature, answer: undefined, ...codec }
}

function asking<T, A>(
  name: string,
  [commandClass, number]: readonly [number, number],
  feature: NetCommandFeature,
  { payload, answer, ...lengths }: Asking<T, A>,
): NetCommand<T, A> {
  return { name, class: commandClass, command: number, feature, answer: { ...lengths, ...answer }, ...payload }
}

interface Asking<T, A> {
  readonly payload: NetPayload<T>
  readonly answer: NetPayload<A>
  readonly bytes: (value: T) => number
  readonly room?: (value: T) => number
}

const { onOff, mac, macTable, nothing, offloads, coalescing, queueCoalescing, askedQueue, word32 } = payloads
const { rss, hash, rssContext } = steering
const vlan = payloads.fixed<number>('vlan', 2)
const pairs = payloads.fixed<number>('pairs', 2)
const contexts = payloads.fixed<number>('contexts', 2)
const id = payloads.fixed<number>('id', 2)

/** Every control command that the specification defines, apart from IPsec and flow filters. */
export const netCommands = {
  VIRTIO_NET_CTRL_RX_PROMISC: command('VIRTIO_NET_CTRL_RX_PROMISC', [0, 0], 'VIRTIO_NET_F_CTRL_RX', onOff),
  VIRTIO_NET_CTRL_RX_ALLMULTI: command('VIRTIO_NET_CTRL_RX_ALLMULTI', [0, 1], 'VIRTIO_NET_F_CTRL_RX', onOff),
  VIRTIO_NET_CTRL_RX_ALLUNI: command('VIRTIO_NET_CTRL_RX_ALLUNI', [0, 2], 'VIRTIO_NET_F_CTRL_RX_EXTRA', onOff),
  VIRTIO_NET_CTRL_RX_NOMULTI: command('VIRTIO_NET_CTRL_RX_NOMULTI', [0, 3], 'VIRTIO_NET_F_CTRL_RX_EXTRA', onOff),
  VIRTIO_NET_CTRL_RX_NOUNI: command('VIRTIO_NET_CTRL_RX_NOUNI', [0, 4], 'VIRTIO_NET_F_CTRL_RX_EXTRA', onOff),
  VIRTIO_NET_CTRL_RX_NOBCAST: command('VIRTIO_NET_CTRL_RX_NOBCAST', [0, 5], 'VIRTIO_NET_F_CTRL_RX_EXTRA', onOff),
  VIRTIO_NET_CTRL_MAC_TABLE_SET: command('VIRTIO_NET_CTRL_MAC_TABLE_SET', [1, 0], 'VIRTIO_NET_F_CTRL_RX', macTable),
  VIRTIO_NET_CTRL_MAC_ADDR_SET: command('VIRTIO_NET_CTRL_MAC_ADDR_SET', [1, 1], 'VIRTIO_NET_F_CTRL_MAC_ADDR', mac),
  VIRTIO_NET_CTRL_VLAN_ADD: command('VIRTIO_NET_CTRL_VLAN_ADD', [2, 0], 'VIRTIO_NET_F_CTRL_VLAN', vlan),
  VIRTIO_NET_CTRL_VLAN_DEL: command('VIRTIO_NET_CTRL_VLAN_DEL', [2, 1], 'VIRTIO_NET_F_CTRL_VLAN', vlan),
  VIRTIO_NET_CTRL_ANNOUNCE_ACK: command('VIRTIO_NET_CTRL_ANNOUNCE_ACK', [3, 0], 'VIRTIO_NET_F_GUEST_ANNOUNCE', nothing),
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: command('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', [4, 0], 'VIRTIO_NET_F_MQ', pairs),
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: command('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', [4, 1], 'VIRTIO_NET_F_RSS', rss),
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: command('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', [4, 2], 'VIRTIO_NET_F_HASH_REPORT', hash),
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET: command(
    'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET',
    [5, 0],
    'VIRTIO_NET_F_CTRL_GUEST_OFFLOADS',
    offloads,
  ),
  VIRTIO_NET_CTRL_NOTF_COAL_TX_SET: command(
    'VIRTIO_NET_CTRL_NOTF_COAL_TX_SET',
    [6, 0],
    'VIRTIO_NET_F_NOTF_COAL',
    coalescing,
  ),
  VIRTIO_NET_CTRL_NOTF_COAL_RX_SET: command(
    'VIRTIO_NET_CTRL_NOTF_COAL_RX_SET',
    [6, 1],
    'VIRTIO_NET_F_NOTF_COAL',
    coalescing,
  ),
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET: command(
    'VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET',
    [6, 2],
    'VIRTIO_NET_F_VQ_NOTF_COAL',
    queueCoalescing,
  ),
  VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET: asking('VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET', [6, 3], 'VIRTIO_NET_F_VQ_NOTF_COAL', {
    payload: askedQueue,
    answer: coalescing,
    bytes: () => 8,
  }),
  VIRTIO_NET_CTRL_HASH_TUNNEL_SET: command(
    'VIRTIO_NET_CTRL_HASH_TUNNEL_SET',
    [7, 0],
    'VIRTIO_NET_F_HASH_TUNNEL',
    word32,
  ),
  VIRTIO_NET_CTRL_STATS_QUERY: asking('VIRTIO_NET_CTRL_STATS_QUERY', [8, 0], 'VIRTIO_NET_F_DEVICE_STATS', {
    payload: nothing,
    answer: offloads,
    bytes: () => 8,
  }),
  VIRTIO_NET_CTRL_STATS_GET: asking('VIRTIO_NET_CTRL_STATS_GET', [8, 1], 'VIRTIO_NET_F_DEVICE_STATS', {
    payload: stats.statsWishes,
    answer: stats.statsReplies,
    bytes: stats.statsReplyBytes,
    room: stats.statsReplyRoom,
  }),
  VIRTNET_RSS_CTX_CTRL_CAP_GET: asking('VIRTNET_RSS_CTX_CTRL_CAP_GET', [9, 0], 'VIRTIO_NET_F_RSS_CONTEXT', {
    payload: nothing,
    answer: contexts,
    bytes: () => 2,
  }),
  VIRTNET_RSS_CTX_CTRL_ADD: command('VIRTNET_RSS_CTX_CTRL_ADD', [9, 1], 'VIRTIO_NET_F_RSS_CONTEXT', rssContext),
  VIRTNET_RSS_CTX_CTRL_MOD: command('VIRTNET_RSS_CTX_CTRL_MOD', [9, 2], 'VIRTIO_NET_F_RSS_CONTEXT', rssContext),
  VIRTNET_RSS_CTX_CTRL_DEL: command('VIRTNET_RSS_CTX_CTRL_DEL', [9, 3], 'VIRTIO_NET_F_RSS_CONTEXT', id),
} as const

/** The name of a control command, as the kernel has it, or the specification where the kernel has none. */
export type NetCommandName = keyof typeof netCommands

/** A command that the device is to be given again, as plain data. */
export interface StateCommand {
  /** Its name in `netCommands`. */
  readonly name: NetCommandName
  /** The payload as bytes, without the two-byte head. */
  readonly payload: Uint8Array
}
/** The payload of a control command. */
export type NetCommandPayload<N extends NetCommandName> =
  (typeof netCommands)[N] extends NetCommand<infer T, infer _> ? T : never
/** What a control command is answered with behind the acknowledgement; undefined for most. */
export type NetCommandAnswer<N extends NetCommandName> =
  (typeof netCommands)[N] extends NetCommand<infer _, infer A> ? A : never

const byHead = new Map<number, NetCommand<unknown, unknown>>(
  Object.values(netCommands).map((entry) => [
    (entry.class << 8) | entry.command,
    entry as unknown as NetCommand<unknown, unknown>,
  ]),
)

/** The command of a two-byte head, or undefined when the table has none. */
export function netCommandOf(commandClass: number, number: number): NetCommand<unknown, unknown> | undefined {
  if (typeof commandClass !== 'number') throw typeError('commandClass', 'a number', commandClass)
  if (typeof number !== 'number') throw typeError('number', 'a number', number)
  return byHead.get((commandClass << 8) | number)
}
