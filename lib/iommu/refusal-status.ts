// The status that a driver is told when a sink refuses.

import { isVdpaError } from '../base/errors.js'
import { iommuStatus } from '../uapi/virtio-iommu.js'

const { VIRTIO_IOMMU_S_DEVERR: DEVERR, VIRTIO_IOMMU_S_RANGE: RANGE, VIRTIO_IOMMU_S_NOMEM: NOMEM } = iommuStatus

/** What a sink's refusal is for a driver. */
export function statusOf(failure: unknown): number {
  if (!isVdpaError(failure)) return DEVERR
  if (['ERR_VDPA_ENTRY_LIMIT', 'ERR_VDPA_MEMLOCK', 'ENOMEM', 'ENOSPC'].includes(failure.code)) return NOMEM
  return failure.code === 'ERR_VDPA_IOVA_RANGE' ? RANGE : DEVERR
}
