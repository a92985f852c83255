// What commands have set in a network device, as the commands that set it again elsewhere: for hosts that move a device from one place to another.

import { formatMac } from '../uapi/virtio-net.js'
import {
  netCommands,
  netFeatureBit,
  type NetCommandName,
  type NetCommandPayload,
  type StateCommand,
} from '../uapi/virtio-net-commands.js'
import { carryOut } from './network-control-acts.js'
import { newControlState, type NetControlState, type NetControlTarget } from './network-control-state.js'

/** The commands of which the driver may send each; what is as for a new driver is left out, and so is the coalescing of single queues, which ends with the queue. */
export function saveControl({ state, hasFeature }: Pick<NetControlTarget, 'state' | 'hasFeature'>): StateCommand[] {
  const saved: StateCommand[] = []
  const fresh = newControlState(state.mac, state.status)
  const put = <N extends NetCommandName>(name: N, value: NetCommandPayload<N>) => {
    const command = netCommands[name]
    if (!hasFeature(netFeatureBit(command.feature))) return
    saved.push({ name, payload: (command.encode as (value: NetCommandPayload<N>) => Uint8Array)(value) })
  }
  put('VIRTIO_NET_CTRL_MAC_ADDR_SET', formatMac(state.mac))
  if (state.rss !== undefined) put('VIRTIO_NET_CTRL_MQ_RSS_CONFIG', state.rss)
  else if (state.queuePairs !== fresh.queuePairs) put('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET', state.queuePairs)
  if (state.hash !== undefined) put('VIRTIO_NET_CTRL_MQ_HASH_CONFIG', state.hash)
  if (state.tunnels !== 0) put('VIRTIO_NET_CTRL_HASH_TUNNEL_SET', state.tunnels)
  for (const [id, rss] of state.rssContexts) put('VIRTNET_RSS_CTX_CTRL_ADD', { id, rss })
  if (state.offloads !== undefined) put('VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET', state.offloads)
  const { table } = state
  if (table.unicast.length + table.multicast.length > 0) put('VIRTIO_NET_CTRL_MAC_TABLE_SET', table)
  for (const [name, key] of flags) if (state[key] !== fresh[key]) put(name, state[key])
  for (const vlan of state.vlans) put('VIRTIO_NET_CTRL_VLAN_ADD', vlan)
  if (state.transmitCoalescing !== fresh.transmitCoalescing)
    put('VIRTIO_NET_CTRL_NOTF_COAL_TX_SET', state.transmitCoalescing)
  if (state.receiveCoalescing !== fresh.receiveCoalescing)
    put('VIRTIO_NET_CTRL_NOTF_COAL_RX_SET', state.receiveCoalescing)
  return saved
}

const flags = [
  ['VIRTIO_NET_CTRL_RX_PROMISC', 'isPromiscuous'],
  ['VIRTIO_NET_CTRL_RX_ALLMULTI', 'acceptsAllMulticast'],
  ['VIRTIO_NET_CTRL_RX_ALLUNI', 'acceptsAllUnicast'],
  ['VIRTIO_NET_CTRL_RX_NOMULTI', 'refusesMulticast'],
  ['VIRTIO_NET_CTRL_RX_NOUNI', 'refusesUnicast'],
  ['VIRTIO_NET_CTRL_RX_NOBCAST', 'refusesBroadcast'],
] as const satisfies readonly (readonly [NetCommandName, keyof NetControlState])[]

/** Carries saved commands out; the name of the first that the device refuses, of which some before it were carried out. */
export function loadControl(target: NetControlTarget, commands: readonly StateCommand[]): NetCommandName | undefined {
  return commands.find(({ name, payload }) => carryOut(netCommands[name], payload, target) === undefined)?.name
}

/** The same on a device that is like `target` and nobody's. */
export function rehearseControl(
  target: NetControlTarget,
  commands: readonly StateCommand[],
  hasFeature: (number: number) => boolean,
): NetCommandName | undefined {
  const { maxQueuePairs, controlIndex } = target
  const state = newControlState(target.state.mac.slice(), target.state.status.slice())
  const scratch: NetControlTarget = {
    state,
    counters: { commands: 0, commandErrors: 0 },
    hasFeature,
    maxQueuePairs,
    dataQueue: () => undefined,
    controlIndex,
    deviates: () => false,
    isTurnOver: false,
  }
  return loadControl(scratch, commands)
}
