// Makes the ring of the right format. The only place that knows all four.

import { PackedDeviceRing } from './packed-device.js'
import { PackedDriverRing } from './packed-driver.js'
import type { DeviceRingOptions, DriverRingOptions } from './ring-options.js'
import { SplitDeviceRing } from './split-device.js'
import { SplitDriverRing } from './split-driver.js'
import type { DeviceRing, DriverRing } from './virtqueue.js'

/**
 * A driver's side. Without a `snapshot` it writes the beginning of a ring into the areas, so the device must not use them yet.
 * Errors: RangeError or TypeError for a size the format does not allow, short or oddly placed areas, a state or snapshot that contradicts itself.
 */
export function createDriverRing(options: DriverRingOptions): DriverRing {
  return options.format === 'packed' ? new PackedDriverRing(options) : new SplitDriverRing(options)
}

/** A device's side. Touches no memory before its first verb. Errors as createDriverRing. */
export function createDeviceRing(options: DeviceRingOptions): DeviceRing {
  return options.format === 'packed' ? new PackedDeviceRing(options) : new SplitDeviceRing(options)
}
