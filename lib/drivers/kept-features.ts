// Whether a driver that was saved can go on under what was negotiated now: what lies in its rings was made under what was negotiated then.

import { toU64 } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { FeatureSet } from '../device/feature-set.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { featureNames, type BlockFeature, type NetFeature } from '../uapi/virtio-features.js'

/** The features that matter to what is in the rings of a kind of driver. */
interface KeptFeatures {
  /** Those that must be there again where they were. */
  readonly kept: readonly string[]
  /** Those that must be there again where they were, and nowhere else. */
  readonly same: readonly string[]
}

/** Frames and their headers, those that were not sent and those that were not taken. */
const net: KeptFeatures & { readonly kept: readonly NetFeature[]; readonly same: readonly NetFeature[] } = {
  kept: [
    'VIRTIO_NET_F_CSUM',
    'VIRTIO_NET_F_HOST_TSO4',
    'VIRTIO_NET_F_HOST_TSO6',
    'VIRTIO_NET_F_HOST_ECN',
    'VIRTIO_NET_F_HOST_UFO',
    'VIRTIO_NET_F_HOST_USO',
    'VIRTIO_NET_F_GUEST_CSUM',
    'VIRTIO_NET_F_GUEST_TSO4',
    'VIRTIO_NET_F_GUEST_TSO6',
    'VIRTIO_NET_F_GUEST_ECN',
    'VIRTIO_NET_F_GUEST_UFO',
    'VIRTIO_NET_F_GUEST_USO4',
    'VIRTIO_NET_F_GUEST_USO6',
    'VIRTIO_NET_F_RSC_EXT',
  ],
  same: ['VIRTIO_NET_F_HASH_REPORT', 'VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_NET_F_MTU'],
}

/** Requests that were not answered, and tables that they lie in. */
const block: KeptFeatures & { readonly kept: readonly BlockFeature[] } = {
  kept: ['VIRTIO_BLK_F_FLUSH', 'VIRTIO_BLK_F_DISCARD', 'VIRTIO_BLK_F_WRITE_ZEROES', 'VIRTIO_F_RING_INDIRECT_DESC'],
  same: [],
}

const byKind = { net, block } as const

/** ERR_VDPA_FEATURES where `before`, the word that was negotiated when a driver was saved, allowed what `now` does not. Without it nothing can be told. */
export function checkKeptFeatures(
  device: VdpaDevice<'net'> | VdpaDevice<'block'>,
  kind: keyof typeof byKind,
  before: bigint | undefined,
  now: { readonly bits: bigint },
): void {
  if (before === undefined) return
  const then = toU64(before, 'restore.features')
  const names = featureNames(device.deviceId)
  const { kept, same } = byKind[kind]
  const [keptBits, sameBits] = [kept, same].map((list) => FeatureSet.of(list, names).bits)
  const refuse = (bits: bigint, was: string) => {
    const text = `${new FeatureSet(bits, names).names.join(', ')} ${was} negotiated when the driver was saved`
    throw vdpaError('ERR_VDPA_FEATURES', text, { path: device.path, hint: 'negotiate what was negotiated then' })
  }
  const missing = then & ~now.bits & ((keptBits ?? 0n) | (sameBits ?? 0n))
  if (missing !== 0n) refuse(missing, 'was')
  const added = now.bits & ~then & (sameBits ?? 0n)
  if (added !== 0n) refuse(added, 'was not')
}
