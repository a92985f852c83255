// The verbs of the public classes, a row each: what comes before, and the verb whose system calls are refused one after another. A new verb is covered by a row.

import { deviceRows } from './device-rows.js'
import { driverRows } from './driver-rows.js'
import { shadowRows } from './shadow-rows.js'
import { moveRows } from './move-rows.js'
import { iommuRows } from './iommu-rows.js'
import { vhostNetRows } from './vhost-net-rows.js'
import type { Row } from './steps.js'

export const rows: readonly Row[] = [
  ...deviceRows,
  ...driverRows,
  ...shadowRows,
  ...moveRows,
  ...vhostNetRows,
  ...iommuRows,
]
