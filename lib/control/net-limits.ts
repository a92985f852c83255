// What a device says in its configuration space of the largest commands that it takes (spec section 5.1.4): a driver must not ask for more. And the room for its answers.

import { rangeError } from '../base/checks.js'
import type { NetConfig } from '../uapi/virtio-net.js'
import { netCommands, type NetAnswer, type NetCommandName } from '../uapi/virtio-net-commands.js'
import type { HashConfig, RssConfig } from '../uapi/virtio-net-steering.js'

type Check = (payload: Uint8Array, config: NetConfig) => void

/**
 * A field that is not in the space, because the device or the kernel is older, limits nothing here. Nor does one that is 0: bytes behind those that a device has are read
 * as that, and a device that can do nothing of what it negotiated is left to say so.
 */
function checkMost(name: string, value: number, most: number | undefined, field: string): void {
  if (most !== undefined && most !== 0 && value > most)
    throw rangeError(name, `at most ${most}, the device's ${field}`, value)
}

function checkBits(name: string, value: number, allowed: number | undefined, field: string): void {
  if (allowed === undefined || allowed === 0 || (value & ~allowed) === 0) return
  throw rangeError(name, `bits of 0x${allowed.toString(16)}, the device's ${field}`, `0x${value.toString(16)}`)
}

function checkQueue(name: string, queue: number, pairs: number | undefined): void {
  if (pairs !== undefined && pairs !== 0 && queue >= pairs)
    throw rangeError(name, `below ${pairs}, the device's max_virtqueue_pairs`, queue)
}

function checkHash({ hashTypes, key }: HashConfig, config: NetConfig): void {
  checkBits('hashTypes', hashTypes, config.supportedHashTypes, 'supported_hash_types')
  checkMost('key.length', key.length, config.rssMaxKeySize, 'rss_max_key_size')
}

function checkRss(rss: RssConfig, config: NetConfig): void {
  checkHash(rss, config)
  const { maxVirtqueuePairs: pairs, rssMaxIndirectionTableLength: entries } = config
  checkMost('indirectionTable.length', rss.indirectionTable.length, entries, 'rss_max_indirection_table_length')
  checkMost('maxTxVq', rss.maxTxVq, pairs, 'max_virtqueue_pairs')
  checkQueue('unclassifiedQueue', rss.unclassifiedQueue, pairs)
  for (const [index, queue] of rss.indirectionTable.entries()) checkQueue(`indirectionTable[${index}]`, queue, pairs)
}

// Sections 5.1.6.5.5.2, 5.1.6.5.6, 5.1.6.5.7.1.1 and 5.1.6.4.4.
const checks: Partial<Record<NetCommandName, Check>> = {
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET: (payload, { maxVirtqueuePairs }) => {
    const pairs = netCommands.VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.decode(payload)
    if (pairs === 0) throw rangeError('pairs', 'at least 1', pairs)
    checkMost('pairs', pairs, maxVirtqueuePairs, 'max_virtqueue_pairs')
  },
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: (payload, config) =>
    checkRss(netCommands.VIRTIO_NET_CTRL_MQ_RSS_CONFIG.decode(payload), config),
  VIRTIO_NET_CTRL_MQ_HASH_CONFIG: (payload, config) =>
    checkHash(netCommands.VIRTIO_NET_CTRL_MQ_HASH_CONFIG.decode(payload), config),
  VIRTIO_NET_CTRL_HASH_TUNNEL_SET: (payload, { supportedTunnelTypes }) => {
    const types = netCommands.VIRTIO_NET_CTRL_HASH_TUNNEL_SET.decode(payload)
    checkBits('types', types, supportedTunnelTypes, 'supported_tunnel_types')
  },
}

/** RangeError where a command asks for more than the device's configuration says it can. `config` reads that, and is called only for commands that it limits. */
export function checkNetLimits(name: NetCommandName, payload: Uint8Array, config: () => NetConfig): void {
  checks[name]?.(payload, config())
}

/** Bytes for an answer: all that it may have, as far as there is room for so much. */
export function answerRoom<T>(
  answer: Pick<NetAnswer<T, unknown>, 'bytes' | 'room'> | undefined,
  value: T,
  most: number,
): number {
  const bytes = answer?.bytes(value) ?? 0
  return Math.max(bytes, Math.min(answer?.room?.(value) ?? 0, most))
}
