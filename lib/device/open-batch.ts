// A batch that may have been left open: the device sees nothing of what comes after it, so it is ended before anything else is asked.

import { sleeping, type Steps } from '../base/steps.js'
import type { WriteEachOutcome } from '../backend/backend.js'
import { MessageWriter } from '../iotlb/message.js'
import { refusal, type DeviceContext } from './context.js'

/** The address space whose batch may be open, by device: a batch is the device's, and survives its reset. */
const openBatches = new WeakMap<DeviceContext, number>()

/** Once more, because a device whose batch is open sees no change of any address space. Where that is refused as well, endOpenBatch() tries again from now on. */
export function* endAgain(context: DeviceContext, asid: number): Steps<boolean> {
  const isEnded = yield* endBatch(context, asid)
  if (!isEnded) openBatches.set(context, asid)
  return isEnded
}

/** Ends a batch that may be open. ERR_VDPA_BATCH when it cannot: what is unmapped now, the device would still see. */
export function* endOpenBatch(context: DeviceContext): Steps<void> {
  const asid = openBatches.get(context)
  if (asid === undefined) return
  if (!(yield* endBatch(context, asid))) {
    const text = `a batch of asid ${asid} may be open and cannot be ended: what is changed now, the device would not see`
    throw refusal(context, 'ERR_VDPA_BATCH', text, 'VHOST_IOTLB_BATCH_END')
  }
  openBatches.delete(context)
}

/** Ends the batch of `asid`, open or not: an empty one is begun first, because an address space that never had a message takes no end. Whether it was accepted. */
function* endBatch(context: DeviceContext, asid: number): Steps<boolean> {
  const writer = new MessageWriter(context.backendFeatures.has('VHOST_BACKEND_F_IOTLB_MSG_V2') ? 2 : 1, 2)
  writer.batchBegin(asid)
  writer.batchEnd(asid)
  return (yield* writeSteps(context, writer.bytes)).completed === 2
}

/** Writes records; a handle that takes none, because somebody closed it, took none. */
export function* writeSteps(context: DeviceContext, records: Uint8Array): Steps<WriteEachOutcome> {
  const { transport } = context
  try {
    return yield* sleeping({
      now: () => transport.writeIotlb(records),
      later: () => transport.writeIotlbAsync(records),
    })
  } catch (failure) {
    return { completed: 0, failure }
  }
}
