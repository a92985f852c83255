// The numbers of a snapshot that was looked through, as numbers.

import type { Range } from '../base/ranges.js'
import type { MappingState, QueueState } from '../device/snapshot.js'
import type { VringAddresses } from '../transport/vhost-vdpa.js'

/** The addresses of a mapping, both ends included. */
export function parseRange({ iova, size }: Pick<MappingState, 'iova' | 'size'>): Range {
  const first = BigInt(iova)
  return { first, last: first + BigInt(size) - 1n }
}

/** The areas of a queue. */
export function parseAddresses({ addresses }: Pick<QueueState, 'addresses'>): VringAddresses {
  const { descriptor, driver, device } = addresses
  return { descriptor: BigInt(descriptor), driver: BigInt(driver), device: BigInt(device) }
}
