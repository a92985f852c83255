// What went wrong with a block request, as errors that name the request and its sector. Statuses are the device's (spec section 5.2.6).

import { rangeError, typeError } from '../base/checks.js'
import { vdpaError, type VdpaError } from '../base/errors.js'
import { blockRequestTypes, blockStatus, SECTOR_BYTES } from '../uapi/virtio-blk.js'

/** What a request's callback is told instead of a status when the device gave none that can be believed, or will give none any more. */
export const BLOCK_NO_STATUS = -1

const nameOfType = new Map<number, string>(Object.entries(blockRequestTypes).map(([name, type]) => [type, name]))
const nameOfStatus = new Map<number, string>(Object.entries(blockStatus).map(([name, status]) => [status, name]))

/** A request, for a sentence. */
export interface RequestPlace {
  readonly path: string
  readonly type: number
  readonly sector: number
  /** Bytes the device wrote, as it says. */
  readonly usedLength: number
}

/** ERR_VDPA_NOT_SUPPORTED for UNSUPP, ERR_VDPA_REFUSED for every other status and for none. */
export function statusError(place: RequestPlace, status: number): VdpaError {
  const { path, type, sector, usedLength } = place
  const details = { path, request: nameOfType.get(type) ?? `request type ${type}` }
  if (status === BLOCK_NO_STATUS)
    return vdpaError(
      'ERR_VDPA_REFUSED',
      `sector ${sector}: the device used the request and wrote only ${usedLength} bytes, without a status or with too little data`,
      details,
    )
  const name = nameOfStatus.get(status) ?? `an unknown status, ${status}`
  const isUnsupported = status === blockStatus.VIRTIO_BLK_S_UNSUPP
  const code = isUnsupported ? 'ERR_VDPA_NOT_SUPPORTED' : 'ERR_VDPA_REFUSED'
  return vdpaError(code, `sector ${sector}: the device answered ${name}`, details)
}

/** Throws the error of a range that is not of whole sectors, does not fit into a slot, or ends behind the disk. */
export function refuseSectors(sector: number, length: number, slotBytes: number, capacity: number): never {
  for (const [name, value] of Object.entries({ sector, length }))
    if (typeof value !== 'number') throw typeError(name, 'a number', value)
  const last = Math.floor(slotBytes / SECTOR_BYTES) * SECTOR_BYTES
  if (!(length > 0 && length <= last && length % SECTOR_BYTES === 0))
    throw rangeError('length', `a multiple of ${SECTOR_BYTES} from ${SECTOR_BYTES} to ${last}`, length)
  throw rangeError(
    'sector',
    `such that ${length / SECTOR_BYTES} sectors end within the ${capacity} of the disk`,
    sector,
  )
}
