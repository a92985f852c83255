// The generic netlink family `vdpa`: what can be asked of the kernel about vDPA devices, and done to them. Looking needs no privilege and disturbs no
// device; it opens no node. What blocks while a node is open (deleting) is guarded elsewhere.

import type { Backend } from '../backend/backend.js'
import { checkInteger, checkObject, checkString, rangeError, toU64, typeError } from '../base/checks.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { integerAttribute, textAttribute, type GenericMessage, type NetlinkAttribute } from '../uapi/netlink.js'
import { vdpaAttributes as attributes, vdpaCommands as commands, VDPA_GENL_NAME } from '../uapi/vdpa.js'
import { parseMac } from '../uapi/virtio-net.js'
import {
  decodeConfiguration,
  decodeManagedDevice,
  decodeManagementDevice,
  decodeStatistics,
  type DeviceConfiguration,
  type ManagedDevice,
  type ManagementDevice,
  type QueueStatistics,
} from './family-facts.js'
import { GenericNetlink, understood, type Answer, type AskOptions, type NetlinkFamily } from './generic-netlink.js'

/** A device to be made. */
export interface NewDevice {
  /** Its name, which must be free. */
  readonly name: string
  /** The handle of what makes it: `vdpasim_net`, `pci/0000:65:00.2`. */
  readonly managementDevice: string
  /** `02:00:00:00:00:01`; network devices. */
  readonly mac?: string
  /** Bytes, 68..65535; network devices. */
  readonly mtu?: number
  /** Pairs of receive and transmit queues, 1..0x8000; network devices. */
  readonly maxQueuePairs?: number
  /** All features that the device is to offer, as a word of bits. Since Linux 6.1. */
  readonly features?: bigint
}

type Command = keyof typeof commands

/** What is asked, and what errors say it is about. */
interface Errand {
  readonly name: Command
  readonly about?: string
}

const moduleHint =
  'load the module with `modprobe vdpa` (it is never loaded by itself); the family is seen in the initial network namespace only'

/** Questions to the family, over a socket of its own. Equivalents in iproute2 are named at each. */
export class VdpaFamily implements AsyncDisposable {
  readonly #netlink: GenericNetlink
  readonly #options: AskOptions
  #family: NetlinkFamily | undefined

  /** `options` hold for every question that has none of its own. */
  constructor(netlink: GenericNetlink, options: AskOptions = {}) {
    this.#netlink = netlink
    this.#options = options
  }

  /** Opens a socket of the backend. ERR_VDPA_NOT_SUPPORTED where it has no netlink. */
  static open(backend: Backend, options: AskOptions = {}): VdpaFamily {
    checkObject(options, 'options')
    return new VdpaFamily(GenericNetlink.open(backend), options)
  }

  /** The commands that this kernel has, by name; one without a name is left out. ENOENT when the module is not loaded. */
  async commands(): Promise<string[]> {
    const { commands: numbers } = await this.#resolve(this.#options)
    return Object.keys(commands).filter((name) => numbers.includes(commands[name as Command]))
  }

  /** All management devices. `vdpa mgmtdev show` (VDPA_CMD_MGMTDEV_GET). */
  managementDevices(options?: AskOptions): Promise<ManagementDevice[]> {
    return this.#list('VDPA_CMD_MGMTDEV_GET', decodeManagementDevice, options)
  }

  /** One of them by its handle; ENODEV. `vdpa mgmtdev show HANDLE`. */
  managementDevice(handle: string, options?: AskOptions): Promise<ManagementDevice> {
    return this.#one(
      { name: 'VDPA_CMD_MGMTDEV_GET', about: handle },
      handleAttributes(handle),
      decodeManagementDevice,
      options,
    )
  }

  /** All devices that a management device made. Those of drivers without one are in sysfs only. `vdpa dev show` (VDPA_CMD_DEV_GET). */
  devices(options?: AskOptions): Promise<ManagedDevice[]> {
    return this.#list('VDPA_CMD_DEV_GET', decodeManagedDevice, options)
  }

  /** One of them; ENODEV. `vdpa dev show NAME`. */
  device(name: string, options?: AskOptions): Promise<ManagedDevice> {
    return this.#one({ name: 'VDPA_CMD_DEV_GET', about: name }, [nameAttribute(name)], decodeManagedDevice, options)
  }

  /** A device's configuration, of block devices too; ENODEV, EOPNOTSUPP for other kinds. `vdpa dev config show NAME` (VDPA_CMD_DEV_CONFIG_GET). */
  configuration(name: string, options?: AskOptions): Promise<DeviceConfiguration> {
    return this.#one(
      { name: 'VDPA_CMD_DEV_CONFIG_GET', about: name },
      [nameAttribute(name)],
      decodeConfiguration,
      options,
    )
  }

  /**
   * What the driver counted for one queue (CAP_NET_ADMIN). EOPNOTSUPP where it does not count, EAGAIN before features are negotiated.
   * `vdpa dev vstats show NAME qidx QUEUE` (VDPA_CMD_DEV_VSTATS_GET).
   */
  statistics(name: string, queue: number, options?: AskOptions): Promise<QueueStatistics> {
    checkInteger(queue, 'queue', 0, 0xffff_ffff)
    const asked = [nameAttribute(name), attribute('VDPA_ATTR_DEV_QUEUE_INDEX', integerAttribute(queue, 4))]
    return this.#one(
      { name: 'VDPA_CMD_DEV_VSTATS_GET', about: name },
      asked,
      (message) => decodeStatistics(message, queue),
      options,
    )
  }

  /**
   * Makes a device (CAP_NET_ADMIN). EEXIST, ENODEV, EOPNOTSUPP for what the management device cannot be told, EINVAL. `vdpa dev add` (VDPA_CMD_DEV_NEW).
   */
  async add(device: NewDevice, options?: AskOptions): Promise<void> {
    const asked = newDeviceAttributes(device)
    await this.#do({ name: 'VDPA_CMD_DEV_NEW', about: device.name }, asked, options)
  }

  /**
   * Deletes a device (CAP_NET_ADMIN). ENODEV; EINVAL for one that no management device made. The kernel does not answer, nor anybody's question, while
   * the device's node is open: find the holder first. `vdpa dev del NAME` (VDPA_CMD_DEV_DEL).
   */
  async delete(name: string, options?: AskOptions): Promise<void> {
    await this.#do({ name: 'VDPA_CMD_DEV_DEL', about: name }, [nameAttribute(name)], options)
  }

  /**
   * Gives a network device another address (CAP_NET_ADMIN). ERR_VDPA_NOT_SUPPORTED on kernels before 6.12 and where the kernel only says so in words;
   * EOPNOTSUPP. `vdpa dev set name NAME mac MAC` (VDPA_CMD_DEV_ATTR_SET).
   */
  async setMac(name: string, mac: string, options?: AskOptions): Promise<void> {
    const asked = [nameAttribute(name), macAttribute(mac, 'mac')]
    const { commands: numbers } = await this.#resolve(options ?? this.#options)
    if (!numbers.includes(commands.VDPA_CMD_DEV_ATTR_SET))
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'this kernel cannot change an address', {
        path: name,
        hint: 'Linux 6.12 can',
      })
    const { warning } = await this.#do({ name: 'VDPA_CMD_DEV_ATTR_SET', about: name }, asked, options)
    // For a device that is no network device the kernel says so in the text of a success.
    if (warning !== undefined)
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', warning, { path: name, request: 'VDPA_CMD_DEV_ATTR_SET' })
  }

  /** Ends what is asked with ERR_VDPA_CLOSED and closes the socket. */
  close(): Promise<void> {
    return this.#netlink.close()
  }

  /** close(). */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #list<T>(name: Command, decode: (message: GenericMessage) => T, options?: AskOptions): Promise<T[]> {
    const { messages } = await this.#do({ name }, [], options, true)
    return understood({ name }, () => messages.map(decode))
  }

  async #one<T>(
    errand: Errand,
    asked: readonly NetlinkAttribute[],
    decode: (message: GenericMessage) => T,
    options?: AskOptions,
  ): Promise<T> {
    const { messages } = await this.#do(errand, asked, options)
    return understood(errand, () => {
      const [message] = messages
      if (message === undefined) throw new RangeError('there is none')
      return decode(message)
    })
  }

  async #do(
    errand: Errand,
    asked: readonly NetlinkAttribute[],
    options: AskOptions = this.#options,
    isDump = false,
  ): Promise<Answer> {
    const { id: family } = await this.#resolve(options)
    const question = { command: commands[errand.name], attributes: asked, isDump, ...errand }
    try {
      return await this.#netlink.ask({ ...question, family }, options)
    } catch (failure) {
      if (!isVdpaError(failure) || failure.code !== 'ENOENT') throw failure
      // Nobody has this id any more: the module was loaded anew, and has another.
      this.#family = undefined
      const { id } = await this.#resolve(options)
      if (id === family) throw failure
      return this.#netlink.ask({ ...question, family: id }, options)
    }
  }

  /** What is known is not asked again. Each asks for itself until then: another may be canceled. */
  async #resolve(options: AskOptions): Promise<NetlinkFamily> {
    try {
      this.#family ??= await this.#netlink.family(VDPA_GENL_NAME, options)
      return this.#family
    } catch (failure) {
      if (!isVdpaError(failure) || failure.code !== 'ENOENT') throw failure
      throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'this kernel has no vDPA management', {
        hint: moduleHint,
        cause: failure,
      })
    }
  }
}

/** configuration(); undefined where the kernel has no words for the kind of device, which it has for network and block devices alone. */
export async function configurationIfTold(family: VdpaFamily, name: string): Promise<DeviceConfiguration | undefined> {
  try {
    return await family.configuration(name)
  } catch (failure) {
    if (isVdpaError(failure) && failure.code === 'EOPNOTSUPP') return undefined
    throw failure
  }
}

/** The request of add(), attribute by attribute, in the order of their numbers. TypeError and RangeError for what no device can be. */
export function newDeviceAttributes(device: NewDevice): NetlinkAttribute[] {
  if (typeof device !== 'object' || device === null) throw typeError('device', 'an object', device)
  const { name, managementDevice, mac, mtu, maxQueuePairs, features } = device
  const result = [...handleAttributes(managementDevice), nameAttribute(name)]
  if (mac !== undefined) result.push(macAttribute(mac, 'device.mac'))
  if (mtu !== undefined) {
    checkInteger(mtu, 'device.mtu', 68, 0xffff)
    result.push(attribute('VDPA_ATTR_DEV_NET_CFG_MTU', integerAttribute(mtu, 2)))
  }
  if (maxQueuePairs !== undefined) {
    checkInteger(maxQueuePairs, 'device.maxQueuePairs', 1, 0x8000)
    result.push(attribute('VDPA_ATTR_DEV_NET_CFG_MAX_VQP', integerAttribute(maxQueuePairs, 2)))
  }
  if (features !== undefined)
    result.push(attribute('VDPA_ATTR_DEV_FEATURES', integerAttribute(toU64(features, 'device.features'), 8)))
  return result
}

function attribute(name: keyof typeof attributes, bytes: Uint8Array): NetlinkAttribute {
  return { type: attributes[name], bytes }
}

function nameAttribute(name: string): NetlinkAttribute {
  checkString(name, 'name')
  return attribute('VDPA_ATTR_DEV_NAME', textAttribute(name))
}

function macAttribute(mac: string, what: string): NetlinkAttribute {
  checkString(mac, what)
  return attribute('VDPA_ATTR_DEV_NET_CFG_MACADDR', parseMac(mac))
}

/** `bus/name`, or a name alone. */
function handleAttributes(handle: string): NetlinkAttribute[] {
  checkString(handle, 'managementDevice')
  const [first = '', second, ...more] = handle.split('/')
  if (first === '' || second === '' || more.length > 0)
    throw rangeError('managementDevice', 'a name, or a bus and a name with one slash between them', handle)
  if (second === undefined) return [attribute('VDPA_ATTR_MGMTDEV_DEV_NAME', textAttribute(first))]
  return [
    attribute('VDPA_ATTR_MGMTDEV_BUS_NAME', textAttribute(first)),
    attribute('VDPA_ATTR_MGMTDEV_DEV_NAME', textAttribute(second)),
  ]
}
