// Features by name as a word, for devices that offer what the models do not have.

import { netFeatureBits, transportFeatureBits } from '../../lib/uapi/virtio-features.js'

const bits = { ...netFeatureBits, ...transportFeatureBits }

export type FeatureName = keyof typeof bits

export function featureBits(names: readonly FeatureName[]): bigint {
  return names.reduce((word, name) => word | (1n << BigInt(bits[name])), 0n)
}
