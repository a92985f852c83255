// What may be said of a vhost-net device that is to be opened, and what is believed of it.

import { checkFunction, checkInteger, checkObject, checkString, rangeError, typeError } from '../base/checks.js'
import type { MissServerOptions } from '../misses/miss-server.js'
import type { RegionTranslator } from '../misses/region-translator.js'
import type { Translator } from '../misses/translator.js'
import { interfaceName } from './tap.js'

/** A tap device: by name, in which case it is made where it is not there, or as a descriptor with IFF_VNET_HDR and headers of 12 bytes, which stays its owner's. */
export type TapTarget = string | { readonly fd: number }

/** How a vhost-net device is made. */
export interface VhostNetOptions extends Omit<MissServerOptions, 'usedRings' | 'version'> {
  /** The node; `/dev/vhost-net` by default. */
  readonly path?: string
  /** Descriptors of each ring, and buffers of each queue: a power of two up to 32,768, 256 by default. */
  readonly size?: number
  /** Bytes of one buffer, header included; 2048 by default, 1526 to 66,560. The longest frame is 12 bytes shorter. */
  readonly bufferBytes?: number
  /** Who answers misses, made of who knows where the queues lie; by default that one. */
  readonly translator?: (own: RegionTranslator) => Translator
  /** The most bytes of one translation of ours, a power of two; by default the memory of a whole queue. */
  readonly granule?: number
}

/** Options as they were at the call, with the defaults. */
export type VhostNetWish = VhostNetOptions & Required<Pick<VhostNetOptions, 'path' | 'size' | 'bufferBytes'>>

const LEAST_BUFFER_BYTES = 1526
const MOST_BUFFER_BYTES = 66_560

/** TypeError or RangeError for options that are none. */
export function checkedWish(options: VhostNetOptions): VhostNetWish {
  checkObject(options, 'options')
  const { path = '/dev/vhost-net', size = 256, bufferBytes = 2048, granule = 0 } = options
  checkString(path, 'options.path')
  checkInteger(size, 'options.size', 1, 32_768)
  if (!Number.isInteger(Math.log2(size))) throw rangeError('options.size', 'a power of two', size)
  checkInteger(bufferBytes, 'options.bufferBytes', LEAST_BUFFER_BYTES, MOST_BUFFER_BYTES)
  for (const name of ['translator', 'onFault', 'onEnd'] as const)
    if (options[name] !== undefined) checkFunction(options[name], `options.${name}`)
  return { ...options, path, size, bufferBytes, granule }
}

/** A descriptor, or the bytes of a name. TypeError or RangeError for what is neither. */
export function checkedTap(tap: TapTarget): number | Uint8Array {
  if (typeof tap === 'string') return interfaceName(tap)
  if (typeof tap !== 'object' || tap === null) throw typeError('tap', 'a name, or an object with an fd', tap)
  const { fd } = tap
  checkInteger(fd, 'tap.fd', 0, 0x7fff_ffff)
  return fd
}
