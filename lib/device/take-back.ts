// Taking back that a queue was enabled, before its memory is taken away. Not every parent can.

import { sleeping, type Steps } from '../base/steps.js'
import type { DeviceContext } from './context.js'
import { isAbsence } from './groups.js'
import type { Vring } from './vring.js'

/**
 * Disables a queue of a device that does not run. A parent that drives a virtio device by virtio's own registers (vp_vdpa) cannot: a driver must not write 0
 * to queue_enable (virtio 1.2, section 4.1.4.3.2), and QEMU's devices break down when one does. Such a parent has no way to tell where a ring stands
 * either, and is known by that. The queue then stays enabled until a reset, and the device must not be started before it.
 */
export function* takeBackSteps(context: DeviceContext, vring: Vring): Steps<void> {
  if (!vring.isEnabled) return
  const { transport, state } = context
  const { index } = vring
  try {
    yield* sleeping({ now: () => transport.vringBase(index), later: () => transport.vringBaseAsync(index) })
    vring.disableOwned()
  } catch (failure) {
    state.needsReset(`queue ${index} was enabled and given up, which the device learns at a reset only`)
    if (!isAbsence(failure)) throw failure
  }
}
