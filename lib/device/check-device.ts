// What passes for an open device where a program gives one: not more than that it is one.

import { typeError } from '../base/checks.js'
import type { VdpaDevice } from './vdpa-device.js'

/** An open device, of whichever copy of this package. */
export function checkDevice(value: unknown, name: string): asserts value is VdpaDevice {
  if (typeof (value as Partial<VdpaDevice> | null | undefined)?.changeQueues !== 'function')
    throw typeError(name, 'a VdpaDevice', value)
}
