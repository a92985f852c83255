// Every row of the suite.

import type { Place } from './place.js'
import { backendPlaces } from './places/backend.js'
import { devicePlaces } from './places/device.js'
import { driverPlaces } from './places/drivers.js'
import { iommuPlaces } from './places/iommu.js'
import { missPlaces } from './places/misses.js'
import { partPlaces } from './places/parts.js'
import { shadowPlaces } from './places/shadow.js'
import { vhostNetPlaces } from './places/vhost-net.js'

export const places: readonly Place[] = [
  ...driverPlaces,
  ...devicePlaces,
  ...backendPlaces,
  ...partPlaces,
  ...shadowPlaces,
  ...iommuPlaces,
  ...missPlaces,
  ...vhostNetPlaces,
]
