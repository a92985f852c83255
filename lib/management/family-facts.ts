// What the family `vdpa` tells, as plain data: from the attributes of its answers, in whatever order they come. It asks nothing.

import { checkObject } from '../base/checks.js'
import { namesOfBits } from '../base/bits.js'
import { attributeInteger, attributeText, type GenericMessage } from '../uapi/netlink.js'
import { vdpaAttributes as attributes } from '../uapi/vdpa.js'
import { featureNames, netFeatureBits } from '../uapi/virtio-features.js'
import { deviceIds, deviceKind } from '../uapi/virtio-ids.js'
import { formatMac, netStatus } from '../uapi/virtio-net.js'

/** A set of feature bits, of any width. Plain data: it survives JSON. */
export interface FeatureBits {
  /** The bits as one hexadecimal number, `0x300830028`. */
  readonly bits: string
  /** Their names, lowest first; `bit_<n>` where the kind of device has no name for one. */
  readonly names: readonly string[]
}

/** Something that makes vDPA devices: a PCI function's driver, a simulator's module, VDUSE. */
export interface ManagementDevice {
  /** How commands name it: `vdpasim_net`, `pci/0000:65:00.2`. */
  readonly handle: string
  /** The bus; absent where there is none. */
  readonly bus?: string
  /** The name on that bus. */
  readonly name: string
  /** The kinds of device that it makes; `id <n>` for one without a name. */
  readonly kinds: readonly string[]
  /** The most virtqueues of one device; 0 where the driver does not say. */
  readonly maxQueues: number
  /** What its devices can offer; no bits where the driver does not say. */
  readonly features: FeatureBits
}

/** A vDPA device as its management device knows it. */
export interface ManagedDevice {
  /** The device's name. */
  readonly name: string
  /** The handle of what made it. */
  readonly managementDevice: string
  /** The kind; `id <n>` for an id without a name. */
  readonly kind: string
  /** The virtio device id. */
  readonly deviceId: number
  /** The virtio vendor id. */
  readonly vendorId: number
  /** Virtqueues, the control queue included. */
  readonly maxQueues: number
  /** Descriptors of the largest ring. */
  readonly maxQueueSize: number
  /** Descriptors of the smallest ring. */
  readonly minQueueSize: number
}

/** A network device's configuration; what the device has no feature for is absent. */
export interface NetworkFacts {
  /** `00:11:22:33:44:55` */
  readonly mac?: string
  /** Bytes. */
  readonly mtu?: number
  /** Pairs of receive and transmit queues. */
  readonly maxQueuePairs?: number
  /** Whether the link is up. */
  readonly isLinkUp?: boolean
  /** Whether the device wants the driver to announce itself. */
  readonly wantsAnnouncement?: boolean
}

/** A block device's configuration (kernels from 6.9 on); what the device has no feature for is absent. */
export interface BlockFacts {
  /** Sectors of 512 bytes, as a decimal string: it may be past 2^53. */
  readonly capacity?: string
  /** Bytes of the largest segment. */
  readonly sizeMax?: number
  /** Segments of the largest request. */
  readonly segMax?: number
  /** Bytes. */
  readonly blockSize?: number
  /** Request queues. */
  readonly queues?: number
  /** Logical blocks per physical block, as a power of two. */
  readonly physicalBlockExponent?: number
  /** Logical blocks. */
  readonly alignmentOffset?: number
  /** Logical blocks. */
  readonly minIoSize?: number
  /** Logical blocks. */
  readonly optIoSize?: number
  /** Sectors of one discard request. */
  readonly maxDiscardSectors?: number
  /** Ranges of one discard request. */
  readonly maxDiscardSegments?: number
  /** Sectors. */
  readonly discardSectorAlignment?: number
  /** Sectors of one write-zeroes request. */
  readonly maxWriteZeroesSectors?: number
  /** Ranges of one write-zeroes request. */
  readonly maxWriteZeroesSegments?: number
  /** Whether the disk refuses to be written. */
  readonly isReadOnly?: boolean
  /** Whether the disk has a flush command. */
  readonly hasFlush?: boolean
}

/** A device's configuration as the kernel reads it without disturbing it. */
export interface DeviceConfiguration {
  /** The device's name. */
  readonly name: string
  /** The virtio device id. */
  readonly deviceId: number
  /** The kind; `id <n>` for an id without a name. */
  readonly kind: string
  /** What driver and device agreed on; absent until they did. */
  readonly negotiatedFeatures?: FeatureBits
  /** What the device offers; absent where the kernel does not say. */
  readonly deviceFeatures?: FeatureBits
  /** Of a network device. */
  readonly network?: NetworkFacts
  /** Of a block device. */
  readonly block?: BlockFacts
}

/** What a driver counted for one queue. */
export interface QueueStatistics {
  /** The device's name. */
  readonly name: string
  /** The queue's index. */
  readonly queue: number
  /** What the queue is for. */
  readonly queueKind: 'receive' | 'transmit' | 'control'
  /** Counters by the driver's own names, such as `rx packets`, in its order. */
  readonly counters: Readonly<Record<string, bigint>>
}

/** The attributes of an answer by type; of those that are repeated, the first. */
class Facts {
  readonly #byType = new Map<number, Uint8Array>()

  constructor(message: GenericMessage) {
    for (const { type, bytes } of message.attributes) if (!this.#byType.has(type)) this.#byType.set(type, bytes)
  }

  bytes(type: number): Uint8Array | undefined {
    return this.#byType.get(type)
  }

  word(type: number): bigint | undefined {
    const bytes = this.#byType.get(type)
    return bytes === undefined ? undefined : attributeInteger(bytes)
  }

  integer(type: number): number | undefined {
    const word = this.word(type)
    return word === undefined ? undefined : Number(word)
  }

  text(type: number): string | undefined {
    const bytes = this.#byType.get(type)
    return bytes === undefined ? undefined : attributeText(bytes)
  }

  /** What every answer of its kind has. */
  name(type: number, what: string): string {
    const text = this.text(type)
    if (text === undefined || text === '') throw new RangeError(`${what} is missing`)
    return text
  }

  /** An object of the integers that are there. */
  integers<K extends string>(table: Readonly<Record<K, number>>): { [P in K]?: number } {
    const result: { [P in K]?: number } = {}
    for (const [key, type] of Object.entries<number>(table)) {
      const value = this.integer(type)
      if (value !== undefined) result[key as K] = value
    }
    return result
  }
}

/** The word of features of a device id as data. */
export function featureBits(word: bigint, deviceId: number): FeatureBits {
  return { bits: `0x${word.toString(16)}`, names: namesOfBits(word, featureNames(deviceId)) }
}

function kindName(deviceId: number): string {
  return deviceKind(deviceId) ?? `id ${deviceId}`
}

function handleOf(facts: Facts): { readonly handle: string; readonly bus?: string; readonly name: string } {
  const name = facts.name(attributes.VDPA_ATTR_MGMTDEV_DEV_NAME, 'the management device')
  const bus = facts.text(attributes.VDPA_ATTR_MGMTDEV_BUS_NAME)
  return bus === undefined ? { handle: name, name } : { handle: `${bus}/${name}`, bus, name }
}

/** Reads an answer to MGMTDEV_GET. RangeError for one that names nothing. */
export function decodeManagementDevice(message: GenericMessage): ManagementDevice {
  const facts = new Facts(message)
  const classes = facts.word(attributes.VDPA_ATTR_MGMTDEV_SUPPORTED_CLASSES) ?? 0n
  const ids = namesOfBits(classes, {}).map((name) => Number(name.slice('bit_'.length)))
  // Bits of a device that makes several kinds have no names but the transport's: they mean something else for each kind.
  const onlyId = ids.length === 1 ? (ids[0] ?? 0) : 0
  return {
    ...handleOf(facts),
    kinds: ids.map(kindName),
    maxQueues: facts.integer(attributes.VDPA_ATTR_DEV_MGMTDEV_MAX_VQS) ?? 0,
    features: featureBits(facts.word(attributes.VDPA_ATTR_DEV_SUPPORTED_FEATURES) ?? 0n, onlyId),
  }
}

/** Reads an answer to DEV_GET. RangeError for one that names nothing. */
export function decodeManagedDevice(message: GenericMessage): ManagedDevice {
  const facts = new Facts(message)
  const deviceId = facts.integer(attributes.VDPA_ATTR_DEV_ID) ?? 0
  return {
    name: facts.name(attributes.VDPA_ATTR_DEV_NAME, 'the device'),
    managementDevice: handleOf(facts).handle,
    kind: kindName(deviceId),
    deviceId,
    vendorId: facts.integer(attributes.VDPA_ATTR_DEV_VENDOR_ID) ?? 0,
    maxQueues: facts.integer(attributes.VDPA_ATTR_DEV_MAX_VQS) ?? 0,
    maxQueueSize: facts.integer(attributes.VDPA_ATTR_DEV_MAX_VQ_SIZE) ?? 0,
    minQueueSize: facts.integer(attributes.VDPA_ATTR_DEV_MIN_VQ_SIZE) ?? 1,
  }
}

/** Reads an answer to DEV_CONFIG_GET. RangeError for one that names nothing. */
export function decodeConfiguration(message: GenericMessage): DeviceConfiguration {
  const facts = new Facts(message)
  const deviceId = facts.integer(attributes.VDPA_ATTR_DEV_ID) ?? 0
  const negotiated = facts.word(attributes.VDPA_ATTR_DEV_NEGOTIATED_FEATURES)
  const offered = facts.word(attributes.VDPA_ATTR_DEV_FEATURES)
  return {
    name: facts.name(attributes.VDPA_ATTR_DEV_NAME, 'the device'),
    deviceId,
    kind: kindName(deviceId),
    ...(negotiated !== undefined && { negotiatedFeatures: featureBits(negotiated, deviceId) }),
    ...(offered !== undefined && { deviceFeatures: featureBits(offered, deviceId) }),
    ...(deviceId === deviceIds.net && { network: networkFacts(facts) }),
    ...(deviceId === deviceIds.block && { block: blockFacts(facts) }),
  }
}

function networkFacts(facts: Facts): NetworkFacts {
  const mac = facts.bytes(attributes.VDPA_ATTR_DEV_NET_CFG_MACADDR)
  if (mac !== undefined && mac.length !== 6) throw new RangeError(`a MAC address has 6 bytes, not ${mac.length}`)
  const status = facts.integer(attributes.VDPA_ATTR_DEV_NET_STATUS)
  return {
    ...(mac !== undefined && { mac: formatMac(mac) }),
    ...facts.integers({
      mtu: attributes.VDPA_ATTR_DEV_NET_CFG_MTU,
      maxQueuePairs: attributes.VDPA_ATTR_DEV_NET_CFG_MAX_VQP,
    }),
    ...(status !== undefined && {
      isLinkUp: (status & netStatus.VIRTIO_NET_S_LINK_UP) !== 0,
      wantsAnnouncement: (status & netStatus.VIRTIO_NET_S_ANNOUNCE) !== 0,
    }),
  }
}

const blockIntegers = {
  sizeMax: attributes.VDPA_ATTR_DEV_BLK_CFG_SIZE_MAX,
  segMax: attributes.VDPA_ATTR_DEV_BLK_CFG_SEG_MAX,
  blockSize: attributes.VDPA_ATTR_DEV_BLK_CFG_BLK_SIZE,
  queues: attributes.VDPA_ATTR_DEV_BLK_CFG_NUM_QUEUES,
  physicalBlockExponent: attributes.VDPA_ATTR_DEV_BLK_CFG_PHY_BLK_EXP,
  alignmentOffset: attributes.VDPA_ATTR_DEV_BLK_CFG_ALIGN_OFFSET,
  minIoSize: attributes.VDPA_ATTR_DEV_BLK_CFG_MIN_IO_SIZE,
  optIoSize: attributes.VDPA_ATTR_DEV_BLK_CFG_OPT_IO_SIZE,
  maxDiscardSectors: attributes.VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEC,
  maxDiscardSegments: attributes.VDPA_ATTR_DEV_BLK_CFG_MAX_DISCARD_SEG,
  discardSectorAlignment: attributes.VDPA_ATTR_DEV_BLK_CFG_DISCARD_SEC_ALIGN,
  maxWriteZeroesSectors: attributes.VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEC,
  maxWriteZeroesSegments: attributes.VDPA_ATTR_DEV_BLK_CFG_MAX_WRITE_ZEROES_SEG,
} as const

function blockFacts(facts: Facts): BlockFacts {
  const capacity = facts.word(attributes.VDPA_ATTR_DEV_BLK_CFG_CAPACITY)
  const readOnly = facts.integer(attributes.VDPA_ATTR_DEV_BLK_READ_ONLY)
  const flush = facts.integer(attributes.VDPA_ATTR_DEV_BLK_FLUSH)
  return {
    ...(capacity !== undefined && { capacity: capacity.toString() }),
    ...facts.integers(blockIntegers),
    ...(readOnly !== undefined && { isReadOnly: readOnly !== 0 }),
    ...(flush !== undefined && { hasFlush: flush !== 0 }),
  }
}

/** Reads an answer to DEV_VSTATS_GET about queue `queue`. RangeError for one that names nothing, or has a value without a name. */
export function decodeStatistics(message: GenericMessage, queue: number): QueueStatistics {
  const facts = new Facts(message)
  const negotiated = facts.word(attributes.VDPA_ATTR_DEV_NEGOTIATED_FEATURES) ?? 0n
  const pairs = facts.integer(attributes.VDPA_ATTR_DEV_NET_CFG_MAX_VQP) ?? 1
  const counters: Record<string, bigint> = {}
  let counter: string | undefined
  for (const { type, bytes } of message.attributes) {
    if (type === attributes.VDPA_ATTR_DEV_VENDOR_ATTR_NAME) counter = attributeText(bytes)
    if (type !== attributes.VDPA_ATTR_DEV_VENDOR_ATTR_VALUE) continue
    if (counter === undefined) throw new RangeError('a counter has no name')
    Object.defineProperty(counters, counter, { value: attributeInteger(bytes), enumerable: true })
    counter = undefined
  }
  const name = facts.name(attributes.VDPA_ATTR_DEV_NAME, 'the device')
  return { name, queue, queueKind: queueKind(queue, pairs, negotiated), counters }
}

/** Section 5.1.2: pairs of receive and transmit queues, then the control queue. Without MQ or RSS there is one pair, whatever the attribute says. */
function queueKind(queue: number, pairs: number, negotiated: bigint): QueueStatistics['queueKind'] {
  const has = (number: number) => ((negotiated >> BigInt(number)) & 1n) === 1n
  const hasPairs = has(netFeatureBits.VIRTIO_NET_F_MQ) || has(netFeatureBits.VIRTIO_NET_F_RSS)
  const controlQueue = hasPairs ? pairs * 2 : 2
  if (has(netFeatureBits.VIRTIO_NET_F_CTRL_VQ) && queue === controlQueue) return 'control'
  return queue % 2 === 0 ? 'receive' : 'transmit'
}

/** The rates between two looks at one queue: counter by counter, per second. A counter that went back, or is new, has none. */
export function statisticsRates(
  before: QueueStatistics,
  after: QueueStatistics,
  milliseconds: number,
): Readonly<Record<string, number>> {
  for (const [name, one] of Object.entries({ before, after })) {
    checkObject(one, name)
    checkObject(one.counters, `${name}.counters`)
  }
  const rates: Record<string, number> = {}
  for (const [name, value] of Object.entries(after.counters)) {
    const earlier = before.counters[name]
    if (earlier === undefined || value < earlier || !(milliseconds > 0)) continue
    Object.defineProperty(rates, name, { value: (Number(value - earlier) * 1000) / milliseconds, enumerable: true })
  }
  return rates
}
