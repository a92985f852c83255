// A network device: loopback or one end of a wire, with a control queue in a group of its own. By default it has the shape and features of
// Linux' vdpa_sim_net. How it works is in network-model.ts.

import { bit } from '../base/bits.js'
import { checkInteger, checkObject, rangeError } from '../base/checks.js'
import { missingFeatureNeed } from '../uapi/feature-needs.js'
import { deviceIds } from '../uapi/virtio-ids.js'
import { netFeatureBits } from '../uapi/virtio-features.js'
import { formatMac, netStatus, parseMac, virtioNetConfig } from '../uapi/virtio-net.js'
import { offerOf } from './device-shape.js'
import { ModelDevice } from './model-device.js'
import { NetworkModel } from './network-model.js'
import { DEFAULT_NET_FEATURES, type NetworkDevice, type NetworkDeviceOptions } from './network-options.js'
import { HASH_KEY_BYTES, SUPPORTED_HASH_TYPES, SUPPORTED_TUNNEL_TYPES } from './network-rss.js'

/** Entries of the longest indirection table: the largest power of two that the field can say. */
const RSS_TABLE_LAST = 0x8000

const models = new WeakMap<ModelDevice, NetworkModel>()

/** @internal How a network device works; undefined for a device of another kind. */
export function networkModelOf(device: object): NetworkModel | undefined {
  return models.get(device as ModelDevice)
}

/**
 * A network device with `queuePairs` receive and transmit queues and a control queue. A frame that is sent comes back when its destination is the device's
 * own address, or a group; `pair()` connects two devices instead. RangeError for options that contradict each other, features that need others included.
 */
export function networkDevice(options: NetworkDeviceOptions = {}): NetworkDevice {
  checkObject(options, 'options')
  return makeNetworkDevice(options, checkOffer)
}

/** @internal Of `features` as somebody wishes for them, whom the kernel does not ask whether they fit together. */
export function networkDeviceAsWished(options: NetworkDeviceOptions): NetworkDevice {
  return makeNetworkDevice(options, () => undefined)
}

function makeNetworkDevice(
  options: NetworkDeviceOptions,
  check: (features: bigint, offered: bigint, queuePairs: number) => void,
): NetworkDevice {
  const { queuePairs = 1, mtu = 1500, mac = '00:00:00:00:00:00' } = options
  checkInteger(queuePairs, 'queuePairs', 1, 0x8000)
  checkInteger(mtu, 'mtu', 68, 65535)
  const queueCount = 2 * queuePairs + 1
  const groups = options.groups ?? Array.from({ length: queueCount }, (_, index) => (index === queueCount - 1 ? 1 : 0))
  if (groups.length !== queueCount)
    throw rangeError('groups.length', `${queueCount}, a group for each queue`, groups.length)
  const pairsFeature = queuePairs > 1 ? bit(netFeatureBits.VIRTIO_NET_F_MQ) : 0n
  const features = offerOf(DEFAULT_NET_FEATURES, options.features, options.moreFeatures) | pairsFeature
  check(offerOf(DEFAULT_NET_FEATURES, options.features), features, queuePairs)
  const offers = (feature: number) => (features & bit(feature)) !== 0n
  const hasRss = offers(netFeatureBits.VIRTIO_NET_F_RSS)
  const isMultiqueue = hasRss || offers(netFeatureBits.VIRTIO_NET_F_MQ)
  const hashes = hasRss || offers(netFeatureBits.VIRTIO_NET_F_HASH_REPORT)
  const configured = virtioNetConfig.encode({
    mac: parseMac(mac),
    status: netStatus.VIRTIO_NET_S_LINK_UP,
    max_virtqueue_pairs: isMultiqueue ? queuePairs : 0,
    mtu,
    speed: 0,
    duplex: 0,
    rss_max_key_size: hashes ? HASH_KEY_BYTES : 0,
    rss_max_indirection_table_length: hasRss ? RSS_TABLE_LAST : 0,
    supported_hash_types: hashes ? SUPPORTED_HASH_TYPES : 0,
  })
  // A field behind those that Linux names, where the feature is that makes it be there.
  const config = offers(netFeatureBits.VIRTIO_NET_F_HASH_TUNNEL)
    ? Uint8Array.of(...configured, SUPPORTED_TUNNEL_TYPES, 0, 0, 0)
    : configured
  const model = new NetworkModel(config, queuePairs)
  const device = new ModelDevice(
    {
      deviceId: deviceIds.net,
      queueCount,
      groups,
      addressSpaceCount: options.addressSpaces ?? 2,
      features,
      config,
      // A buffer that was taken ahead waits for a frame, and for nothing else.
      answersAtOnce: (index) => index % 2 === 0 && index < queueCount - 1,
      ...(options.path !== undefined && { path: options.path }),
      ...(options.descriptorGroups !== undefined && { descriptorGroups: options.descriptorGroups }),
      ...(options.maxQueueSize !== undefined && { maxQueueSize: options.maxQueueSize }),
      ...(options.capabilities !== undefined && { capabilities: options.capabilities }),
    },
    model,
  )
  models.set(device, model)
  return Object.defineProperties(device, {
    counters: { value: model.counters, enumerable: true },
    control: { value: model.state, enumerable: true },
    mac: { get: () => formatMac(model.state.mac), enumerable: true },
  }) as NetworkDevice
}

/** A device must not offer what needs another feature that it does not offer (section 2.2.1). What is offered besides is the test's own affair: drivers meet such devices. */
function checkOffer(features: bigint, offered: bigint, queuePairs: number): void {
  if (queuePairs > 1 && (offered & bit(netFeatureBits.VIRTIO_NET_F_CTRL_VQ)) === 0n) {
    const needed = `VIRTIO_NET_F_CTRL_VQ among them, by which a driver puts ${queuePairs} queue pairs to use (section 5.1.3.1)`
    throw rangeError('features', `given with ${needed}; without it, queuePairs is 1`, features)
  }
  const lack = missingFeatureNeed(features, deviceIds.net)
  if (lack !== undefined)
    throw rangeError('features', `an offer without contradiction: ${lack.what} (section ${lack.section})`, features)
}

/**
 * Connects two network devices as by a wire: what one sends, the other receives, in its own turn, with a header of its own, subject to its filter and its
 * buffers. A frame that it cannot take is lost and counted.
 */
export function pair(first: ModelDevice, second: ModelDevice): void {
  const [a, b] = [models.get(first), models.get(second)]
  if (a === undefined || b === undefined) throw rangeError('pair()', 'given two devices of networkDevice()', undefined)
  a.peer = { device: second, model: b }
  b.peer = { device: first, model: a }
}
