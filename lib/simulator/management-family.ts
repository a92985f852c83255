// The pretended kernel's side of generic netlink: the controller, and the family `vdpa` with its checks in the kernel's order and its words. What devices
// there are, and what becomes of them, is in management.ts.

import { bit } from '../base/bits.js'
import { errno } from '../uapi/errno.js'
import {
  attributeInteger,
  attributeText,
  controlAttributes as control,
  controlCommands,
  decodeGeneric,
  decodeMessages,
  encodeAttributes,
  encodeGeneric,
  encodeMessage,
  GENL_ID_CTRL,
  integerAttribute,
  netlinkErrorAttributes,
  netlinkFlags as flags,
  netlinkTypes,
  textAttribute,
  type GenericMessage,
  type NetlinkMessage,
} from '../uapi/netlink.js'
import { vdpaAttributes as attributes, vdpaCommands as commands, VDPA_GENL_NAME } from '../uapi/vdpa.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { formatMac } from '../uapi/virtio-net.js'
import {
  configurationAnswer,
  deviceAnswer,
  isNegotiated,
  parentAnswer,
  statisticsAnswer,
  type FamilyDevice,
} from './management-answers.js'
import type { DeviceWishes, SimulatedParent } from './management-parents.js'

/** What the family may do to the host. */
export interface FamilyHost {
  /** Management devices. */
  readonly parents: readonly SimulatedParent[]
  /** All devices, also those without a parent. */
  devices(): Iterable<FamilyDevice>
  /** The one of this name. */
  device(name: string): FamilyDevice | undefined
  /** Makes one. */
  make(name: string, parent: SimulatedParent, wishes: DeviceWishes): void
  /** Takes one away; `done` is called when that is done, which is when nobody has its node open. */
  take(name: string, done: () => void): void
}

/** What a request comes to: messages, or a refusal in the kernel's words. */
interface Result {
  readonly messages?: readonly GenericMessage[]
  readonly errno?: number
  readonly text?: string
  /** Called with what goes on when it is done; until then the whole family waits. */
  readonly later?: (done: () => void) => void
}

const FAMILY_ID = 0x1c
const MTU_FIRST = 68
const QUEUE_INDEX_LAST = 0x8000
const FAMILIES: ReadonlyMap<string, number> = new Map([
  ['nlctrl', GENL_ID_CTRL],
  [VDPA_GENL_NAME, FAMILY_ID],
])

/** The attributes of a request by type. */
type Asked = ReadonlyMap<number, Uint8Array>

/** Answers datagrams; a device that is being taken away stalls the family until it is gone. */
export class SimulatedFamily {
  readonly #host: FamilyHost
  readonly #backlog: (() => void)[] = []
  #isStalled = false

  constructor(host: FamilyHost) {
    this.#host = host
  }

  /** Carries out what a datagram asks; each answer is one datagram for `reply`. */
  answer(datagram: Uint8Array, reply: (datagram: Uint8Array) => void): void {
    for (const message of decodeMessages(datagram)) {
      if (message.type === GENL_ID_CTRL) respond(message, controller(message), reply)
      else if (message.type === FAMILY_ID) this.#serve(message, reply)
      else respond(message, { errno: errno.ENOENT }, reply)
    }
  }

  #serve(message: NetlinkMessage, reply: (datagram: Uint8Array) => void): void {
    if (this.#isStalled) {
      this.#backlog.push(() => this.#serve(message, reply))
      return
    }
    const { later, ...result } = this.#perform(message)
    if (later === undefined) return respond(message, result, reply)
    this.#isStalled = true
    later(() => {
      respond(message, result, reply)
      this.#isStalled = false
      for (const work of this.#backlog.splice(0)) work()
    })
  }

  #perform(message: NetlinkMessage): Result {
    const { command, attributes: list } = decodeGeneric(message.payload)
    const asked: Asked = new Map(list.map(({ type, bytes }) => [type, bytes]))
    const isDump = (message.flags & flags.NLM_F_DUMP) === flags.NLM_F_DUMP
    if (isDump) return this.#dump(command)
    if (command === commands.VDPA_CMD_MGMTDEV_GET) return this.#parent(asked)
    if (command === commands.VDPA_CMD_DEV_NEW) return this.#make(asked)
    if (command < commands.VDPA_CMD_DEV_DEL || command > commands.VDPA_CMD_DEV_ATTR_SET)
      return { errno: errno.EOPNOTSUPP }
    const name = asked.get(attributes.VDPA_ATTR_DEV_NAME)
    if (name === undefined) return { errno: errno.EINVAL }
    const device = this.#host.device(attributeText(name))
    if (device === undefined) return { errno: errno.ENODEV, text: 'vdpa: device not found' }
    return this.#ofDevice(command, device, asked)
  }

  #ofDevice(command: number, device: FamilyDevice, asked: Asked): Result {
    if (command === commands.VDPA_CMD_DEV_DEL) {
      if (device.parent === undefined)
        return { errno: errno.EINVAL, text: 'vdpa: Only user created device can be deleted by user' }
      return { later: (done) => this.#host.take(device.name, done) }
    }
    if (device.parent === undefined)
      return command === commands.VDPA_CMD_DEV_GET
        ? { errno: errno.EINVAL }
        : { errno: errno.EINVAL, text: 'vdpa: unmanaged vdpa device' }
    if (command === commands.VDPA_CMD_DEV_GET) return { messages: [deviceAnswer(device)] }
    if (command === commands.VDPA_CMD_DEV_VSTATS_GET) return statistics(device, asked)
    if (command === commands.VDPA_CMD_DEV_ATTR_SET) return changeMac(device, asked)
    const answer = configurationAnswer(device)
    return answer === undefined ? { errno: errno.EOPNOTSUPP } : { messages: [answer] }
  }

  #dump(command: number): Result {
    const managed = [...this.#host.devices()].filter(({ parent }) => parent !== undefined)
    if (command === commands.VDPA_CMD_MGMTDEV_GET) return { messages: this.#host.parents.map(parentAnswer) }
    if (command === commands.VDPA_CMD_DEV_GET) return { messages: managed.map(deviceAnswer) }
    if (command !== commands.VDPA_CMD_DEV_CONFIG_GET) return { errno: errno.EOPNOTSUPP }
    return { messages: managed.map(configurationAnswer).filter((answer) => answer !== undefined) }
  }

  #parentOf(asked: Asked): SimulatedParent | undefined {
    const name = textOf(asked, attributes.VDPA_ATTR_MGMTDEV_DEV_NAME)
    const bus = textOf(asked, attributes.VDPA_ATTR_MGMTDEV_BUS_NAME)
    return this.#host.parents.find((parent) => parent.name === name && parent.bus === bus)
  }

  #parent(asked: Asked): Result {
    const parent = this.#parentOf(asked)
    if (parent !== undefined) return { messages: [parentAnswer(parent)] }
    return { errno: errno.ENODEV, text: 'vdpa: Fail to find the specified mgmt device' }
  }

  #make(asked: Asked): Result {
    // kobject_set_name() has no slashes in names.
    const name = textOf(asked, attributes.VDPA_ATTR_DEV_NAME)?.replaceAll('/', '!')
    if (name === undefined) return { errno: errno.EINVAL }
    const mtu = integerOf(asked, attributes.VDPA_ATTR_DEV_NET_CFG_MTU)
    if (mtu !== undefined && mtu < MTU_FIRST) return { errno: errno.ERANGE, text: 'integer out of range' }
    const parent = this.#parentOf(asked)
    if (parent === undefined) return { errno: errno.ENODEV, text: 'vdpa: Fail to find the specified management device' }
    const refused = refusedWishes(parent, asked)
    if (refused !== undefined) return refused
    if (this.#host.device(name) !== undefined) return { errno: errno.EEXIST }
    const mac = asked.get(attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR)
    const features = asked.get(attributes.VDPA_ATTR_DEV_FEATURES)
    this.#host.make(name, parent, {
      ...(mac !== undefined && { mac: formatMac(mac) }),
      ...(mtu !== undefined && { mtu }),
      ...(features !== undefined && { features: attributeInteger(features) }),
    })
    return {}
  }
}

const wishes = [
  attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR,
  attributes.VDPA_ATTR_DEV_NET_CFG_MAX_VQP,
  attributes.VDPA_ATTR_DEV_NET_CFG_MTU,
  attributes.VDPA_ATTR_DEV_FEATURES,
] as const

/** What the management device cannot be told, or what contradicts itself. */
function refusedWishes(parent: SimulatedParent, asked: Asked): Result | undefined {
  if (integerOf(asked, attributes.VDPA_ATTR_DEV_NET_CFG_MAX_VQP) === 0)
    return { errno: errno.EINVAL, text: 'vdpa: At least one pair of VQs is required' }
  const given = wishes.filter((type) => asked.has(type))
  const wrong = given.filter((type) => !parent.takes.includes(type)).reduce((word, type) => word | bit(type), 0n)
  if (given.some((type) => !parent.takes.includes(type)))
    return {
      errno: errno.EOPNOTSUPP,
      text: `vdpa: Some provided attributes are not supported: 0x${wrong.toString(16)}`,
    }
  const features = asked.get(attributes.VDPA_ATTR_DEV_FEATURES)
  if (features === undefined) return undefined
  let needed = 0n
  if (asked.has(attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR)) needed |= bit(netFeatureBits.VIRTIO_NET_F_MAC)
  if (asked.has(attributes.VDPA_ATTR_DEV_NET_CFG_MTU)) needed |= bit(netFeatureBits.VIRTIO_NET_F_MTU)
  const word = attributeInteger(features)
  const missing = needed & ~word
  if (missing !== 0n)
    return { errno: errno.EINVAL, text: `vdpa: Missing features 0x${missing.toString(16)} for provided attributes` }
  return (word & ~parent.features) === 0n ? undefined : { errno: errno.EINVAL }
}

function statistics(device: FamilyDevice, asked: Asked): Result {
  const queue = integerOf(asked, attributes.VDPA_ATTR_DEV_QUEUE_INDEX)
  if (queue === undefined) return { errno: errno.EINVAL }
  if (queue > QUEUE_INDEX_LAST) return { errno: errno.ERANGE, text: 'vdpa: queue index exceeds max value' }
  const answer = statisticsAnswer(device, queue)
  if (answer === undefined) return { errno: errno.EOPNOTSUPP }
  if (!isNegotiated(device.ops)) return { errno: errno.EAGAIN, text: 'vdpa: feature negotiation not complete' }
  return answer === null ? { errno: errno.EINVAL } : { messages: [answer] }
}

function changeMac({ name, ops }: FamilyDevice, asked: Asked): Result {
  // The kernel tells of this kind of device in the text of a success.
  if (ops.deviceId !== deviceIds.net) return { text: `vdpa: ${name} device not supported` }
  const mac = asked.get(attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR)
  const isUnicast = mac !== undefined && ((mac[0] ?? 0) & 1) === 0 && mac.some((byte) => byte !== 0)
  if (!isUnicast) return { errno: errno.EOPNOTSUPP, text: 'vdpa: Invalid MAC address' }
  if (ops.changeConfig === undefined)
    return { errno: errno.EOPNOTSUPP, text: 'vdpa: Operation not supported by the device.' }
  ops.changeConfig(0, mac)
  return {}
}

function textOf(asked: Asked, type: number): string | undefined {
  const bytes = asked.get(type)
  return bytes === undefined ? undefined : attributeText(bytes)
}

function integerOf(asked: Asked, type: number): number | undefined {
  const bytes = asked.get(type)
  return bytes === undefined ? undefined : Number(attributeInteger(bytes))
}

function controller(message: NetlinkMessage): Result {
  const { command, attributes: list } = decodeGeneric(message.payload)
  if (command !== controlCommands.CTRL_CMD_GETFAMILY) return { errno: errno.EOPNOTSUPP }
  const asked: Asked = new Map(list.map(({ type, bytes }) => [type, bytes]))
  const id = integerOf(asked, control.CTRL_ATTR_FAMILY_ID)
  const named = textOf(asked, control.CTRL_ATTR_FAMILY_NAME)
  const found = [...FAMILIES].find(([name, number]) => name === named || number === id)
  return found === undefined ? { errno: errno.ENOENT } : { messages: [familyAnswer(...found)] }
}

function familyAnswer(name: string, id: number): GenericMessage {
  const known = id === FAMILY_ID ? [2, 3, 4, 5, 6, 7, 8] : [controlCommands.CTRL_CMD_GETFAMILY]
  const operations = known.map((number, index) => ({
    type: index + 1,
    bytes: encodeAttributes([{ type: control.CTRL_ATTR_OP_ID, bytes: integerAttribute(number, 4) }]),
  }))
  return {
    command: controlCommands.CTRL_CMD_NEWFAMILY,
    attributes: [
      { type: control.CTRL_ATTR_FAMILY_NAME, bytes: textAttribute(name) },
      { type: control.CTRL_ATTR_FAMILY_ID, bytes: integerAttribute(id, 2) },
      { type: control.CTRL_ATTR_VERSION, bytes: integerAttribute(1, 4) },
      { type: control.CTRL_ATTR_HDRSIZE, bytes: integerAttribute(0, 4) },
      { type: control.CTRL_ATTR_MAXATTR, bytes: integerAttribute(id === FAMILY_ID ? 37 : 10, 4) },
      { type: control.CTRL_ATTR_OPS, bytes: encodeAttributes(operations) },
    ],
  }
}

/** Datagrams as the kernel sends them: the answers, then the end of a dump, the acknowledgement that was asked for, or the refusal. */
function respond(message: NetlinkMessage, result: Result, reply: (datagram: Uint8Array) => void): void {
  const { sequence, type } = message
  const isDump = (message.flags & flags.NLM_F_DUMP) === flags.NLM_F_DUMP
  const messageFlags = isDump ? flags.NLM_F_MULTI : 0
  for (const answer of result.messages ?? [])
    reply(encodeMessage({ type, flags: messageFlags, sequence, payload: encodeGeneric(answer) }))
  const failed = result.errno !== undefined
  if (isDump && !failed)
    return reply(
      encodeMessage({ type: netlinkTypes.NLMSG_DONE, flags: messageFlags, sequence, payload: new Uint8Array(4) }),
    )
  if (failed || (message.flags & flags.NLM_F_ACK) !== 0) reply(verdict(message, result))
}

function verdict(
  { sequence, type, flags: asked, payload: request }: NetlinkMessage,
  { errno: code = 0, text }: Result,
) {
  const head = encodeMessage({ type, flags: asked, sequence, payload: request }).slice(0, 16)
  const words =
    text === undefined ? [] : [{ type: netlinkErrorAttributes.NLMSGERR_ATTR_MSG, bytes: textAttribute(text) }]
  const tail = encodeAttributes(words)
  const payload = new Uint8Array(4 + head.length + tail.length)
  new DataView(payload.buffer).setInt32(0, 0 - code, true)
  payload.set(head, 4)
  payload.set(tail, 4 + head.length)
  const verdictFlags = flags.NLM_F_CAPPED | (text === undefined ? 0 : flags.NLM_F_ACK_TLVS)
  return encodeMessage({ type: netlinkTypes.NLMSG_ERROR, flags: verdictFlags, sequence, payload })
}
