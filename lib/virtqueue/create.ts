// Makes the ring of the right format. The only place that knows all four.

import { checkObject, checkOneOf, typeError } from '../base/checks.js'
import type { RingMemory } from '../memory/ring-memory.js'
import { PackedDeviceRing } from './packed-device.js'
import { PackedDriverRing } from './packed-driver.js'
import type { DeviceRingOptions, DriverRingOptions, RingOptions } from './ring-options.js'
import { SplitDeviceRing } from './split-device.js'
import { SplitDriverRing } from './split-driver.js'
import type { DeviceRing, DriverRing } from './virtqueue.js'

/**
 * A driver's side. Without a `snapshot` it writes the beginning of a ring into the areas, so the device must not use them yet.
 * Errors: RangeError or TypeError for a size the format does not allow, short or oddly placed areas, a state or snapshot that contradicts itself.
 */
export function createDriverRing(options: DriverRingOptions): DriverRing {
  checkParts(options)
  return options.format === 'packed' ? new PackedDriverRing(options) : new SplitDriverRing(options)
}

/** A device's side. Touches no memory before its first verb. Errors as createDriverRing. */
export function createDeviceRing(options: DeviceRingOptions): DeviceRing {
  checkParts(options)
  return options.format === 'packed' ? new PackedDeviceRing(options) : new SplitDeviceRing(options)
}

/** What the rings themselves look no more at. */
function checkParts(options: RingOptions): void {
  checkObject(options, 'options')
  checkOneOf(options.format, 'format', ['split', 'packed'])
  checkObject(options.areas, 'areas')
  const { descriptor, driver, device } = options.areas
  for (const [name, area] of Object.entries({ descriptor, driver, device }) as [string, unknown][]) {
    if (typeof (area as Partial<RingMemory> | null | undefined)?.u16 !== 'function')
      throw typeError(`areas.${name}`, 'a RingMemory', area)
  }
}
