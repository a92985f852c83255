// What a network device tells of its queues when it is asked (spec sections 5.1.6.5.8 and 5.1.6.5.9): coalescing and statistics.

import { bit } from '../base/bits.js'
import type { Coalescing } from '../uapi/virtio-net-payloads.js'
import { netStatsTypes, type QueueStats, type QueueStatsWish } from '../uapi/virtio-net-stats.js'
import type { NetControlTarget, QueueTally } from './network-control-state.js'

const {
  VIRTIO_NET_STATS_TYPE_CVQ: CONTROL,
  VIRTIO_NET_STATS_TYPE_RX_BASIC: RECEIVE,
  VIRTIO_NET_STATS_TYPE_TX_BASIC: TRANSMIT,
} = netStatsTypes

/** The kinds of statistics that the model keeps. */
export const SUPPORTED_STATS = bit(CONTROL) | bit(RECEIVE) | bit(TRANSMIT)

/** What holds for an enabled queue: its own, or that of all queues of its direction; false where there is none. */
export function coalescingOf(target: NetControlTarget, index: number): Coalescing | false {
  const { state } = target
  const queue = target.dataQueue(index)
  if (queue?.isReady !== true) return false
  const own = state.queueCoalescing.get(index)
  if (own?.enabled === queue.enabled) return own.coalescing
  return index % 2 === 0 ? state.receiveCoalescing : state.transmitCoalescing
}

/** All that is asked, or false when one of the questions is wrong. */
export function statistics(target: NetControlTarget, wishes: readonly QueueStatsWish[]): QueueStats[] | false {
  const replies: QueueStats[] = []
  for (const { queue, types } of wishes) {
    const own = kindOf(target, queue)
    if (own === undefined || (types & ~bit(own.type)) !== 0n) return false
    if (types !== 0n) replies.push({ queue, type: own.type, counters: own.counters })
  }
  return replies
}

/** The one kind that a queue has. */
function kindOf(target: NetControlTarget, index: number): Omit<QueueStats, 'queue'> | undefined {
  if (index === target.controlIndex) {
    const { commands, commandErrors } = target.counters
    return { type: CONTROL, counters: { command_num: BigInt(commands), ok_num: BigInt(commands - commandErrors) } }
  }
  const queue = target.dataQueue(index)
  if (queue === undefined) return undefined
  return index % 2 === 0
    ? { type: RECEIVE, counters: basic('rx', queue.tally, 'rx_drop_overruns') }
    : { type: TRANSMIT, counters: basic('tx', queue.tally, 'tx_drop_malformed') }
}

function basic(direction: 'rx' | 'tx', tally: Readonly<QueueTally>, missed: string): Record<string, bigint> {
  return {
    [`${direction}_notifications`]: BigInt(tally.kicks),
    [`${direction}_packets`]: BigInt(tally.packets),
    [`${direction}_bytes`]: BigInt(tally.bytes),
    [`${direction}_interrupts`]: BigInt(tally.interrupts),
    [`${direction}_drops`]: BigInt(tally.drops),
    [missed]: BigInt(tally.missed),
  }
}
