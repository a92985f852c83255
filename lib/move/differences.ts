// What keeps a device from going on where another one stood, as sentences, before anything is asked of it that changes it.

import { parseRange } from './words.js'
import { checkNetLimits } from '../control/net-limits.js'
import type { DeviceSnapshot, QueueState } from '../device/snapshot.js'
import { FeatureSet } from '../device/feature-set.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { decodeBlockConfig } from '../uapi/virtio-blk.js'
import { featureNames } from '../uapi/virtio-features.js'
import { decodeNetConfig, type NetConfig } from '../uapi/virtio-net.js'
import { netCommands, netFeatureBit, type NetCommandName } from '../uapi/virtio-net-commands.js'
import { bytesOf, checkSnapshot } from './check-snapshot.js'

/**
 * Why a device cannot go on from a snapshot, one sentence for each reason; none where it can. Nothing of the device is changed. Errors of checkSnapshot().
 */
export function compareSnapshot(device: VdpaDevice, snapshot: DeviceSnapshot): string[] {
  return differences(device, checkSnapshot(snapshot))
}

/** The same of a snapshot that was looked through. */
export function differences(device: VdpaDevice, snapshot: DeviceSnapshot): string[] {
  if (device.deviceId !== snapshot.deviceId)
    return [`it is a device of id ${device.deviceId}, and the snapshot is of one of id ${snapshot.deviceId}`]
  return [
    ...featureDifferences(device, snapshot),
    ...queueDifferences(device, snapshot),
    ...spaceDifferences(device, snapshot),
    ...configDifferences(device, snapshot),
    ...commandDifferences(device, snapshot),
  ]
}

function featureDifferences(device: VdpaDevice, { features }: DeviceSnapshot): string[] {
  const wanted = new FeatureSet(BigInt(features), featureNames(device.deviceId))
  const missing = wanted.without(device.offeredFeatures)
  if (missing.bits === 0n) return []
  const byItself = BROUGHT_BY_LISTS.filter((name) => missing.has(name))
  const how = byItself.map((name) => `, by a word of bits: a list of features brings ${name} wherever it is offered`)
  const remedy = `where such devices are to be targets, negotiate without ${missing.names.length === 1 ? 'it' : 'them'}`
  return [`it does not offer ${missing.names.join(', ')} (${remedy}${how.join('')})`]
}

/** What negotiate() adds to a list where it is offered, and does not to a word: what it adds to either, every device has that a driver of today works with. */
const BROUGHT_BY_LISTS = ['VIRTIO_F_ORDER_PLATFORM']

const UNKNOWN_POSITION =
  'its position is null: the device that it is of does not say it, and the ring does not show it; ' +
  'have a ShadowQueue serve it before the stop, or put the position that its driver knows there'

function queueDifferences(device: VdpaDevice, { queues }: DeviceSnapshot): string[] {
  const count = device.queueCount ?? Infinity
  return queues.flatMap((queue) => {
    const { index, size, position, books, isControl } = queue
    if (index >= count) return [`queue ${index} is not there: it has ${count}`]
    // What a queue itself can have may depend on features that are not negotiated yet; a control queue is made anew, of the size that it can have.
    if (isControl !== true && size > device.maxQueueSize)
      return [`queue ${index} has ${size} descriptors, and ${device.maxQueueSize} are the most`]
    const isDriven = books !== undefined || isControl === true
    return position === null && !isDriven ? [`nobody can tell where queue ${index} stands (${UNKNOWN_POSITION})`] : []
  })
}

function spaceDifferences(device: VdpaDevice, snapshot: DeviceSnapshot): string[] {
  const asids = new Set([...snapshot.queues.flatMap(asidsOf), ...snapshot.spaces.map(({ asid }) => asid)])
  const { addressSpaceCount, iovaRange } = device
  const result: string[] = []
  const last = Math.max(0, ...asids)
  if (last >= addressSpaceCount) result.push(`it has ${addressSpaceCount} address spaces, and asid ${last} is in use`)
  else if (last > 0 && !device.backendFeatures.has('VHOST_BACKEND_F_IOTLB_ASID'))
    result.push(`asid ${last} is in use, and it cannot tell address spaces apart`)
  for (const { index, isControl, addresses } of snapshot.queues) {
    const places = isControl === true ? [] : Object.values(addresses).map(BigInt)
    if (places.some((at) => at < iovaRange.first || at > iovaRange.last))
      result.push(`the ring of queue ${index} is out of its reach`)
  }
  for (const { asid, mappings } of snapshot.spaces) {
    const outside = mappings
      .map(parseRange)
      .find(({ first, last: end }) => first < iovaRange.first || end > iovaRange.last)
    if (outside !== undefined)
      result.push(`0x${outside.first.toString(16)} is mapped in asid ${asid}, which is out of its reach`)
  }
  return result
}

function asidsOf({ asid, descriptorAsid = 0 }: QueueState): number[] {
  return [asid, descriptorAsid]
}

function configDifferences(device: VdpaDevice, { config, features }: DeviceSnapshot): string[] {
  const before = bytesOf(config)
  const word = new FeatureSet<string>(BigInt(features), featureNames(device.deviceId))
  if (device.kind === 'net' && before.length >= 12) return netDifferences(device, before, word)
  if (device.kind === 'block' && before.length >= 60) return blockDifferences(device, before)
  return []
}

function netDifferences(device: VdpaDevice, bytes: Uint8Array, features: FeatureSet): string[] {
  const [before, now] = [decodeNetConfig(bytes), device.config.net()]
  const result: string[] = []
  const has = (name: string) => features.has(name)
  if (
    has('VIRTIO_NET_F_MAC') &&
    before.mac !== now.mac &&
    !(has('VIRTIO_NET_F_CTRL_MAC_ADDR') && has('VIRTIO_NET_F_CTRL_VQ'))
  )
    result.push(`its address is ${now.mac}, not ${before.mac}, and no command sets it`)
  if (has('VIRTIO_NET_F_MTU') && before.mtu !== now.mtu)
    result.push(`its MTU is ${String(now.mtu)}, not ${String(before.mtu)}`)
  // The control queue is behind the pairs that there are (spec section 5.1.2).
  const isMultiqueue = has('VIRTIO_NET_F_MQ') || has('VIRTIO_NET_F_RSS')
  if (isMultiqueue && before.maxVirtqueuePairs !== now.maxVirtqueuePairs)
    result.push(`it has ${String(now.maxVirtqueuePairs)} queue pairs, not ${String(before.maxVirtqueuePairs)}`)
  return result
}

/** What the control queue had set, and the device says that it cannot; what the device before had taken beyond what it said itself is left to be tried. */
function commandDifferences(device: VdpaDevice, { control, config, features }: DeviceSnapshot): string[] {
  if (device.kind !== 'net' || control.length === 0) return []
  const before = bytesOf(config)
  const [was, now] = [before.length < 12 ? undefined : decodeNetConfig(before), device.config.net()]
  return control.flatMap((command) => {
    const name = command.name as NetCommandName
    const { feature } = netCommands[name]
    if (((BigInt(features) >> BigInt(netFeatureBit(feature))) & 1n) === 0n)
      return [`it is to be told ${name}, which needs ${feature}, and that was not negotiated`]
    const payload = bytesOf(command.payload)
    const excess = excessOf(name, payload, now)
    if (excess === undefined || (was !== undefined && excessOf(name, payload, was) !== undefined)) return []
    return [`it cannot be told ${name}: ${excess}`]
  })
}

/** What a command asks for beyond what a configuration allows, as a sentence; undefined where it asks for no more. */
function excessOf(name: NetCommandName, payload: Uint8Array, config: NetConfig): string | undefined {
  try {
    checkNetLimits(name, payload, () => config)
    return undefined
  } catch (failure) {
    return (failure as Error).message
  }
}

function blockDifferences(device: VdpaDevice, bytes: Uint8Array): string[] {
  const [before, now] = [decodeBlockConfig(bytes), device.config.block()]
  return (['capacity', 'sizeMax', 'segMax', 'blockSize'] as const).flatMap((field) =>
    before[field] === now[field] ? [] : [`its ${field} is ${String(now[field])}, not ${String(before[field])}`],
  )
}
