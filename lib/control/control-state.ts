// What a network device's control queue has set, as the shortest list of commands that sets it again: for a device that was reset, or another one. It is a
// book of what the device acknowledged, and asks nothing of it.

import { checkArray, checkObject, plainBytes, rangeError } from '../base/checks.js'
import { netAck } from '../uapi/virtio-net.js'
import { netCommandOf, netCommands, type NetCommandName, type StateCommand } from '../uapi/virtio-net-commands.js'

export type { StateCommand } from '../uapi/virtio-net-commands.js'

/** The order of restoring: address, filters and steering before what depends on them; what is not here sets nothing that lasts. */
const order: readonly NetCommandName[] = [
  'VIRTIO_NET_CTRL_MAC_ADDR_SET',
  'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET',
  'VIRTIO_NET_CTRL_MQ_RSS_CONFIG',
  'VIRTIO_NET_CTRL_MQ_HASH_CONFIG',
  'VIRTIO_NET_CTRL_HASH_TUNNEL_SET',
  'VIRTNET_RSS_CTX_CTRL_ADD',
  'VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET',
  'VIRTIO_NET_CTRL_MAC_TABLE_SET',
  'VIRTIO_NET_CTRL_RX_PROMISC',
  'VIRTIO_NET_CTRL_RX_ALLMULTI',
  'VIRTIO_NET_CTRL_RX_ALLUNI',
  'VIRTIO_NET_CTRL_RX_NOMULTI',
  'VIRTIO_NET_CTRL_RX_NOUNI',
  'VIRTIO_NET_CTRL_RX_NOBCAST',
  'VIRTIO_NET_CTRL_VLAN_ADD',
  'VIRTIO_NET_CTRL_NOTF_COAL_TX_SET',
  'VIRTIO_NET_CTRL_NOTF_COAL_RX_SET',
  'VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET',
]

/** What the last of these commands says is what the device does (section 5.1.6.5.5): they stay in the order in which they were acknowledged. */
const multiqueue: readonly NetCommandName[] = [
  'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET',
  'VIRTIO_NET_CTRL_MQ_RSS_CONFIG',
  'VIRTIO_NET_CTRL_MQ_HASH_CONFIG',
]

const ONE_COALESCING = 'VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET'
/** Commands of which several hold beside one another, each about what its payload begins with. */
const several = new Set<NetCommandName>(['VIRTIO_NET_CTRL_VLAN_ADD', 'VIRTNET_RSS_CTX_CTRL_ADD', ONE_COALESCING])

/** The book. One entry for each thing that can be set; the last word counts. */
export class ControlState {
  /** By name, and by what of several the command is about: a VLAN, a queue, a context. */
  readonly #entries = new Map<string, StateCommand>()
  readonly #doubts = new Set<StateCommand>()

  /** The device has acknowledged a command. One that the table does not have, or that sets nothing, changes nothing. */
  note(commandClass: number, command: number, payload: Uint8Array): void {
    const name = netCommandOf(commandClass, command)?.name as NetCommandName | undefined
    if (name !== undefined) this.#note(name, payload)
  }

  /** It is not known whether the device has carried a command out: it was sent, and no answer came. Returns what settles that, given the acknowledgement, if one comes. */
  doubt(commandClass: number, command: number, payload: Uint8Array): (ack: number | undefined) => void {
    const name = netCommandOf(commandClass, command)?.name as NetCommandName | undefined
    if (name === undefined || !setsSomething(name)) return () => undefined
    const entry: StateCommand = { name, payload: payload.slice() }
    this.#doubts.add(entry)
    return (ack) => {
      // What was acknowledged since about the same thing counts, whenever this one comes back. A device that gives it back without a word leaves the doubt.
      if (ack === undefined || !this.#doubts.delete(entry)) return
      if (ack === netAck.VIRTIO_NET_OK) this.#note(name, entry.payload)
    }
  }

  /** Commands of which it is not known whether the device has carried them out, in the order in which they were sent. A copy. */
  uncertain(): StateCommand[] {
    return [...this.#doubts].map(({ name, payload }) => ({ name, payload: payload.slice() }))
  }

  /** What sets all of it, in the order in which it is to be sent. A copy. */
  commands(): StateCommand[] {
    const entries = [...this.#entries.values()].sort((a, b) => placeOf(a.name) - placeOf(b.name))
    return entries.map(({ name, payload }) => ({ name, payload: payload.slice() }))
  }

  #note(name: NetCommandName, payload: Uint8Array): void {
    // The device carries commands out in their order: what came before about the same thing does not count any more, whether it was carried out or not.
    const thing = thingOf(name, payload)
    for (const entry of this.#doubts) if (thingOf(entry.name, entry.payload) === thing) this.#doubts.delete(entry)
    const about = subject(payload)
    const isAbout = (one: number) => one === about
    if (name === 'VIRTIO_NET_CTRL_VLAN_DEL') this.#forget('VIRTIO_NET_CTRL_VLAN_ADD', isAbout)
    if (name === 'VIRTNET_RSS_CTX_CTRL_DEL') this.#forget('VIRTNET_RSS_CTX_CTRL_ADD', isAbout)
    if (name === 'VIRTNET_RSS_CTX_CTRL_MOD') this.#set('VIRTNET_RSS_CTX_CTRL_ADD', payload, about)
    // The last of the two decides how packets are spread (section 5.1.6.5.5).
    if (name === 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET') this.#forget('VIRTIO_NET_CTRL_MQ_RSS_CONFIG')
    if (name === 'VIRTIO_NET_CTRL_MQ_RSS_CONFIG') this.#forget('VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET')
    // What is said of all queues of a direction holds for those of which something else was said before (section 5.1.6.5.8).
    if (name === 'VIRTIO_NET_CTRL_NOTF_COAL_RX_SET') this.#forget(ONE_COALESCING, (queue) => queue % 2 === 0)
    if (name === 'VIRTIO_NET_CTRL_NOTF_COAL_TX_SET') this.#forget(ONE_COALESCING, (queue) => queue % 2 === 1)
    if (order.includes(name)) this.#set(name, payload, several.has(name) ? about : 0)
  }

  #set(name: NetCommandName, payload: Uint8Array, about: number): void {
    const key = `${name} ${about}`
    // Behind what was acknowledged before it.
    this.#entries.delete(key)
    this.#entries.set(key, { name, payload: payload.slice() })
  }

  /** What was set, or may have been, does not count any more. */
  #forget(name: NetCommandName, isMeant: (about: number) => boolean = () => true): void {
    for (const doubt of this.#doubts)
      if (doubt.name === name && isMeant(subject(doubt.payload))) this.#doubts.delete(doubt)
    for (const [key, entry] of this.#entries)
      if (entry.name === name && isMeant(Number(key.slice(name.length + 1)))) this.#entries.delete(key)
  }
}

function placeOf(name: NetCommandName): number {
  return order.findIndex((one) => one === name || (multiqueue.includes(name) && multiqueue.includes(one)))
}

/** What takes away, or changes, what another command has set. */
const sameAs: Readonly<Partial<Record<NetCommandName, NetCommandName>>> = {
  VIRTIO_NET_CTRL_VLAN_DEL: 'VIRTIO_NET_CTRL_VLAN_ADD',
  VIRTNET_RSS_CTX_CTRL_DEL: 'VIRTNET_RSS_CTX_CTRL_ADD',
  VIRTNET_RSS_CTX_CTRL_MOD: 'VIRTNET_RSS_CTX_CTRL_ADD',
  VIRTIO_NET_CTRL_MQ_RSS_CONFIG: 'VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET',
}

function setsSomething(name: NetCommandName): boolean {
  return order.includes(sameAs[name] ?? name)
}

/** What a command is about: of two about the same thing the last counts. */
function thingOf(name: NetCommandName, payload: Uint8Array): string {
  const thing = sameAs[name] ?? name
  return several.has(thing) ? `${thing} ${subject(payload)}` : thing
}

/** The 16 bits with which the payloads of these commands begin. */
function subject(payload: Uint8Array): number {
  return (payload[0] ?? 0) | ((payload[1] ?? 0) << 8)
}

/** The command of a list as the table has it. RangeError for a name that it does not have: lists may come from elsewhere. */
export function tableCommand(name: string): (typeof netCommands)[NetCommandName] {
  if (typeof name !== 'string' || !Object.hasOwn(netCommands, name))
    throw rangeError('name', 'that of a control command', name)
  return netCommands[name as NetCommandName]
}

/** A command of a list, looked through. */
export interface CheckedCommand extends StateCommand {
  /** What the payload says. */
  readonly value: unknown
}

/** A list that may have been stored, or come from another program, looked through and copied: TypeError and RangeError for one that is none. */
export function checkCommands(commands: readonly StateCommand[]): CheckedCommand[] {
  checkArray(commands, 'commands')
  return commands.map((command) => {
    checkObject(command, 'a command')
    const { name } = command
    const payload = plainBytes(command.payload, 'payload').slice()
    return { name, value: tableCommand(name).decode(payload), payload }
  })
}
