// Which features need which others, by kind of device. Data for both ends: a driver asks it before it offers, a device before it accepts.

import { bit } from '../base/bits.js'
import { featureNames } from './virtio-features.js'
import { deviceIds } from './virtio-ids.js'

/** What a feature needs: one of each list. */
type Needs = readonly (readonly string[])[]

/** Needs of one kind of device, by the feature's name, and where they are written. */
interface KindNeeds {
  readonly section: string
  readonly needs: Readonly<Record<string, Needs>>
}

const controlQueue: Needs = [['VIRTIO_NET_F_CTRL_VQ']]
const checksum: Needs = [['VIRTIO_NET_F_CSUM']]
const guestChecksum: Needs = [['VIRTIO_NET_F_GUEST_CSUM']]
const hostTso: readonly string[] = ['VIRTIO_NET_F_HOST_TSO4', 'VIRTIO_NET_F_HOST_TSO6']
const guestTso: readonly string[] = ['VIRTIO_NET_F_GUEST_TSO4', 'VIRTIO_NET_F_GUEST_TSO6']

const net: KindNeeds = {
  section: '5.1.3.1',
  needs: {
    VIRTIO_NET_F_GUEST_TSO4: guestChecksum,
    VIRTIO_NET_F_GUEST_TSO6: guestChecksum,
    VIRTIO_NET_F_GUEST_ECN: [guestTso],
    VIRTIO_NET_F_GUEST_UFO: guestChecksum,
    VIRTIO_NET_F_GUEST_USO4: guestChecksum,
    VIRTIO_NET_F_GUEST_USO6: guestChecksum,
    VIRTIO_NET_F_HOST_TSO4: checksum,
    VIRTIO_NET_F_HOST_TSO6: checksum,
    VIRTIO_NET_F_HOST_ECN: [hostTso],
    VIRTIO_NET_F_HOST_UFO: checksum,
    VIRTIO_NET_F_HOST_USO: checksum,
    VIRTIO_NET_F_CTRL_RX: controlQueue,
    VIRTIO_NET_F_CTRL_VLAN: controlQueue,
    VIRTIO_NET_F_CTRL_RX_EXTRA: controlQueue,
    VIRTIO_NET_F_GUEST_ANNOUNCE: controlQueue,
    VIRTIO_NET_F_MQ: controlQueue,
    VIRTIO_NET_F_CTRL_MAC_ADDR: controlQueue,
    VIRTIO_NET_F_NOTF_COAL: controlQueue,
    VIRTIO_NET_F_VQ_NOTF_COAL: controlQueue,
    VIRTIO_NET_F_RSS: controlQueue,
    VIRTIO_NET_F_HASH_REPORT: controlQueue,
    // The list says HOST_TSO, section 5.1.6.4 says GUEST_TSO: who has either is within the law.
    VIRTIO_NET_F_RSC_EXT: [[...hostTso, ...guestTso]],
    VIRTIO_NET_F_HASH_TUNNEL: [['VIRTIO_NET_F_CTRL_VQ'], ['VIRTIO_NET_F_RSS', 'VIRTIO_NET_F_HASH_REPORT']],
    // Not in the list: what they are is carried by the control queue (sections 5.1.6.5.6 and 5.1.6.5.8).
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: controlQueue,
    VIRTIO_NET_F_DEVICE_STATS: controlQueue,
  },
}

const byDevice = new Map<number, KindNeeds>([[deviceIds.net, net]])

/** What a set of features lacks. */
export interface MissingNeed {
  /** `VIRTIO_NET_F_MQ needs VIRTIO_NET_F_CTRL_VQ` */
  readonly what: string
  /** The section of the specification that says so. */
  readonly section: string
}

/** A feature of a word that lacks another: its name, and the names of which it needs one. */
interface Lack {
  readonly name: string
  readonly needed: readonly string[]
  readonly section: string
}

function firstLack(features: bigint, deviceId: number): Lack | undefined {
  const kind = byDevice.get(deviceId)
  if (kind === undefined) return undefined
  const names = featureNames(deviceId)
  const has = (name: string) => {
    const number = names[name]
    return number !== undefined && (features & bit(number)) !== 0n
  }
  for (const [name, needs] of Object.entries(kind.needs)) {
    if (!has(name)) continue
    const needed = needs.find((alternatives) => !alternatives.some(has))
    if (needed !== undefined) return { name, needed, section: kind.section }
  }
  return undefined
}

/** The first feature of a word that lacks another, for a virtio device id; undefined when all is well, or nothing is known of the kind. */
export function missingFeatureNeed(features: bigint, deviceId: number): MissingNeed | undefined {
  const lack = firstLack(features, deviceId)
  return lack && { what: `${lack.name} needs ${lack.needed.join(' or ')}`, section: lack.section }
}

/** A word without the features that lack another in it, and without those that lack these: what is left of an offer when something was taken out of it. */
export function withoutUnmetNeeds(features: bigint, deviceId: number): bigint {
  const names = featureNames(deviceId)
  let left = features
  for (let lack = firstLack(left, deviceId); lack !== undefined; lack = firstLack(left, deviceId))
    left &= ~bit(names[lack.name] ?? 0)
  return left
}
