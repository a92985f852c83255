// Making a queue that this process drives: everything is checked first, and what was done is undone when a step fails.

import { rangeError } from '../base/checks.js'
import { CloseStack } from '../base/closeable.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { whole, type Steps } from '../base/steps.js'
import type { Doorbell } from '../backend/backend.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import { checkNegotiated, checkNoResetDue, refusal, type DeviceContext } from './context.js'
import type { AddressSpace } from './address-space.js'
import { DeviceQueue, type QueueParts } from './device-queue.js'
import { saysGone } from './gone.js'
import { absent } from './groups.js'
import { layOut, makeRing } from './queue-layout.js'
import type { QueueWish } from './queue-options.js'
import { failedAsLost } from './reset.js'
import { takeBackSteps } from './take-back.js'
import type { Vring } from './vring.js'

/** Allocates, maps, builds the ring, sets the vring up and enables it. `when`: `'suspended'` allows it while the device stands still as well. */
export function* queueSteps(
  context: DeviceContext,
  vring: Vring,
  wish: QueueWish,
  when?: 'suspended',
): Steps<DeviceQueue> {
  const features = checkNegotiated(context, 'a queue')
  const { hasDriverOk, phase } = context.state
  if (hasDriverOk && phase !== when) throw refusal(context, 'ERR_VDPA_STATE', 'queues are made before start()')
  checkNoResetDue(context)
  context.queues.checkFree(context, vring.index)
  const groups = checkSpace(context, vring.index, wish)
  const shape = { ...wish, format: vring.format, size: ringSize(vring, wish) }
  const layout = layOut(shape)
  if (wish.restore !== undefined && wish.restore.memory.length < layout.total)
    throw rangeError('restore.memory', `at least ${layout.total} bytes long`, wish.restore.memory.length)

  const undo = new CloseStack()
  try {
    const memory = wish.restore?.memory ?? allocate(context, vring.index, layout.total, { wish, undo })
    const iova = yield* mapSteps(context, memory, wish, undo)
    const ring = makeRing(shape, layout, { memory, iova }, features, wish.restore?.ring)
    const kick = context.backend.eventfd()
    undo.push(() => kick.close())
    const call = context.backend.eventfd()
    undo.push(() => call.close())
    const hasNotificationData = features.has('VIRTIO_F_NOTIFICATION_DATA')
    const doorbell = mapDoorbell(context, vring.index, wish, hasNotificationData)
    undo.push(() => doorbell?.close())
    undo.push(() => vring.forget())
    const at = (offset: number) => iova + BigInt(offset)
    vring.setUpOwned({
      size: shape.size,
      addresses: { descriptor: iova, driver: at(layout.driver), device: at(layout.device) },
      kick,
      call,
    })
    undo.pushSteps(() => takeBackSteps(context, vring))
    if (!wish.isLate) vring.enableOwned()
    const parts = { vring, ring, wish, groups, layout, memory, iova, kick, call, doorbell, hasNotificationData }
    const queue = new DeviceQueue(context, parts)
    context.queues.add(queue)
    return queue
  } catch (failure) {
    yield* undoSteps(context, vring.index, undo, failure)
    throw failure
  }
}

function ringSize(vring: Vring, { size }: QueueWish): number {
  if (size === undefined) return vring.defaultSize
  vring.checkSize(size)
  // VHOST_SET_VRING_NUM takes nothing else, also for packed rings.
  if ((size & (size - 1)) !== 0) throw rangeError('size', 'a power of two', size)
  return size
}

/** The device reaches the memory through the address space that the queue's group is in, and the ring through that of its descriptors' group. */
function checkSpace(
  context: DeviceContext,
  index: number,
  { addressSpace, ringSpace }: QueueWish,
): QueueParts['groups'] {
  const { transport, backendFeatures, asidOfGroup } = context
  const group = absent(() => transport.vringGroup(index))
  const ofDescriptors = backendFeatures.has('VHOST_BACKEND_F_DESC_ASID')
    ? absent(() => transport.vringDescGroup(index))
    : undefined
  const check = (what: string, asid: number, space: AddressSpace) => {
    if (asid === space.asid) return
    const text = `${what} asid ${asid}, not ${space.asid}: call groups.assign() first, or give that address space`
    throw refusal(context, 'ERR_VDPA_STATE', text)
  }
  if (group === undefined) check(`queue ${index} has no group, and is in`, 0, addressSpace)
  if (ofDescriptors === undefined && ringSpace !== addressSpace)
    throw refusal(context, 'ERR_VDPA_NOT_SUPPORTED', `the descriptors of queue ${index} have no group of their own`)
  const groups: [number, AddressSpace][] = []
  if (group !== undefined) groups.push([group, addressSpace])
  if (ofDescriptors !== undefined) groups.push([ofDescriptors, ringSpace])
  for (const [one, space] of groups) {
    const what = one === group ? `queue ${index} is` : `the descriptors of queue ${index} are`
    check(`${what} of group ${one}, which is in`, asidOfGroup.get(one) ?? 0, space)
  }
  return new Map(groups)
}

/** The memory of a queue to come. Where it was mapped, and unmapping it is refused, it is freed with the device. */
function allocate(
  context: DeviceContext,
  index: number,
  bytes: number,
  { wish: { ringSpace: space }, undo }: { readonly wish: QueueWish; readonly undo: CloseStack },
): MemoryRegion {
  const memory = context.backend.allocate(bytes, { name: `queue ${index} of ${context.facts.path}` })
  undo.push(() => {
    const mapped = space.mappings.find(({ region }) => region === memory)
    if (mapped === undefined) memory.close()
    else context.queues.leave({ space, iova: mapped.iova, memory, isOurs: true })
  })
  return memory
}

function* mapSteps(
  context: DeviceContext,
  memory: MemoryRegion,
  { ringSpace, iova: wanted }: QueueWish,
  undo: CloseStack,
): Steps<bigint> {
  const iova = yield* ringSpace.mapRegionSteps(memory, wanted === undefined ? {} : { iova: wanted })
  undo.pushSteps(() => ringSpace.unmapSteps({ iova, size: BigInt(memory.length) }))
  return iova
}

/**
 * The page, or undefined for who is content with an eventfd. A parent may refuse by any errno: EINVAL, ENXIO, 524 … With NOTIFICATION_DATA a notification says where
 * the ring stands (spec section 2.9), which an eventfd cannot.
 */
function mapDoorbell(
  context: DeviceContext,
  index: number,
  { notifyBy }: QueueWish,
  hasNotificationData: boolean,
): Doorbell | undefined {
  if (notifyBy === 'eventfd' && !hasNotificationData) return undefined
  const { backend, transport, facts } = context
  let cause: unknown
  try {
    const doorbell = transport.handle.mapDoorbell?.(BigInt(index) * BigInt(backend.pageSize))
    if (doorbell !== undefined) return doorbell
  } catch (failure) {
    if (!isVdpaError(failure) || failure.errno === undefined) throw failure
    cause = failure
  }
  if (notifyBy === 'auto' && !hasNotificationData) return undefined
  const why = hasNotificationData ? ', and an eventfd does not carry what VIRTIO_F_NOTIFICATION_DATA asks for' : ''
  throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `queue ${index} has no doorbell page${why}`, {
    path: facts.path,
    ...(cause === undefined ? {} : { cause }),
  })
}

/** Undoes what was done, whatever fails; throws what that met beside the failure that led to it. */
function* undoSteps(context: DeviceContext, index: number, undo: CloseStack, failure: unknown): Steps<void> {
  try {
    yield* whole(undo.closeSteps())
  } catch (met) {
    if (saysGone(failure)) throw failedAsLost(context, failure)
    const sentence = `queue ${index} of ${context.facts.path} was not made, nor all of it undone`
    throw new AggregateError([failure, met], sentence, { cause: met })
  }
}
