// Requests that only the owner may make: those about one queue, and what is left. They share an order of checks: owner, argument, queue index.

import type { Deviation } from './profiles.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { bit } from '../base/bits.js'
import { errno } from '../uapi/errno.js'
import { backendFeatureBits, VHOST_FILE_UNBIND, VHOST_VRING_F_LOG } from '../uapi/vhost-types.js'
import { requests, type RequestName } from '../uapi/vhost.js'
import { handlersByNumber, requestsOfAll, type Argument, type Handler, type OpenFile } from './chardev.js'

const OK = 0

function isPacked(file: OpenFile): boolean {
  return (file.ops.driverFeatures() & bit(transportFeatureBits.VIRTIO_F_RING_PACKED)) !== 0n
}

const index = ({ view }: Argument) => view.getUint32(0, true)
const number = ({ view }: Argument) => view.getUint32(4, true)

/** Where a queue lies, and how far it is, may change only while the device does not use it. */
function isInUse(file: OpenFile): boolean {
  return file.hasDriverOk && !file.isSuspended
}

function setVringNum(file: OpenFile, argument: Argument): number {
  const size = number(argument)
  if (size === 0 || size > 0xffff || (size & (size - 1)) !== 0 || size > file.ops.maxQueueSize) return -errno.EINVAL
  file.ops.setQueueSize(index(argument), size)
  return OK
}

function setVringAddr(file: OpenFile, argument: Argument): number {
  const { view } = argument
  if ((view.getUint32(4, true) & ~(1 << VHOST_VRING_F_LOG)) !== 0) return -errno.EOPNOTSUPP
  const [descriptor, used, available] = [8, 16, 24].map((offset) => view.getBigUint64(offset, true))
  if (descriptor === undefined || used === undefined || available === undefined) return -errno.EFAULT
  if ((available & 1n) !== 0n || (used & 3n) !== 0n || (view.getBigUint64(32, true) & 3n) !== 0n) return -errno.EINVAL
  if (isInUse(file)) return -errno.EINVAL
  return file.ops.setQueueAddresses(index(argument), descriptor, available, used) ? OK : -errno.EINVAL
}

function setVringBase(file: OpenFile, argument: Argument): number {
  if (isInUse(file)) return -errno.EINVAL
  const base = number(argument)
  if (!isPacked(file) && base > 0xffff) return -errno.EINVAL
  const isTaken = file.ops.setQueueState(index(argument), base)
  if (isTaken === undefined) return -errno.EOPNOTSUPP
  return isTaken ? OK : -errno.EINVAL
}

function getVringBase(file: OpenFile, argument: Argument): number {
  const state = file.ops.queueState(index(argument))
  if (state === undefined) return -errno.EOPNOTSUPP
  argument.view.setUint32(4, state, true)
  return OK
}

function setVringKick(file: OpenFile, argument: Argument): number {
  const at = index(argument)
  const fd = argument.view.getInt32(4, true)
  const counter = fd === VHOST_FILE_UNBIND ? undefined : file.table.counter(fd)
  if (typeof counter === 'number') return counter
  const vring = file.vring(at)
  if (counter === vring.kick) return OK
  vring.stopKick?.()
  vring.kick = counter
  const { ops } = file
  vring.stopKick = counter?.watch(() => (ops.kickByDriver === undefined ? ops.kick(at) : ops.kickByDriver(at)))
  // The counter is looked at, never taken: an eventfd that was signaled before is a kick, though not one of now.
  if (counter?.isSignaled === true) ops.kick(at)
  return OK
}

function setVringCall(file: OpenFile, argument: Argument): number {
  const fd = argument.view.getInt32(4, true)
  const counter = fd === VHOST_FILE_UNBIND ? undefined : file.table.counter(fd)
  if (typeof counter === 'number') return counter
  file.ops.setQueueCallback(index(argument), counter === undefined ? undefined : () => void counter.add(1))
  return OK
}

/** Kept by the kernel and signaled by no vDPA device. */
function setVringErr(file: OpenFile, argument: Argument): number {
  const fd = argument.view.getInt32(4, true)
  if (fd === VHOST_FILE_UNBIND) return OK
  const counter = file.table.counter(fd)
  return typeof counter === 'number' ? counter : OK
}

/** A queue that begins after DRIVER_OK needs a device that allows it, and a driver that knows so. */
function setVringEnable(file: OpenFile, argument: Argument): number {
  const lateIsFine: Deviation = 'enable-after-driver-ok'
  const isEnabled = number(argument) !== 0
  const knows = (file.backendFeatures & bit(backendFeatureBits.VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK)) !== 0n
  if (isEnabled && file.hasDriverOk && !knows && !file.deviates(lateIsFine)) return -errno.EINVAL
  file.ops.setQueueReady(index(argument), isEnabled)
  return OK
}

function getVringGroup(file: OpenFile, argument: Argument): number {
  if (file.ops.queueGroup === undefined) return -errno.EOPNOTSUPP
  const group = file.ops.queueGroup(index(argument))
  if (group >= file.ops.groupCount) return -errno.EIO
  argument.view.setUint32(4, group, true)
  return OK
}

function getVringDescGroup(file: OpenFile, argument: Argument): number {
  if (file.ops.queueDescriptorGroup === undefined) return -errno.EOPNOTSUPP
  const group = file.ops.queueDescriptorGroup(index(argument))
  if (group >= file.ops.groupCount) return -errno.EIO
  argument.view.setUint32(4, group, true)
  return OK
}

function setGroupAsid(file: OpenFile, argument: Argument): number {
  const lateIsFine: Deviation = 'group-asid-after-driver-ok'
  const asid = number(argument)
  if (index(argument) >= file.ops.groupCount || asid >= file.ops.addressSpaceCount) return -errno.EINVAL
  // Since 7.0 this comes first, also where the parent lacks the operation.
  if (file.hasDriverOk && !file.deviates(lateIsFine)) return -errno.EBUSY
  if (file.ops.setGroupAsid === undefined) return -errno.EOPNOTSUPP
  return file.ops.setGroupAsid(index(argument), asid) ? OK : -errno.EINVAL
}

const ofOneQueue = handlersByNumber({
  VHOST_SET_VRING_NUM: setVringNum,
  VHOST_SET_VRING_ADDR: setVringAddr,
  VHOST_SET_VRING_BASE: setVringBase,
  VHOST_GET_VRING_BASE: getVringBase,
  VHOST_SET_VRING_KICK: setVringKick,
  VHOST_SET_VRING_CALL: setVringCall,
  VHOST_SET_VRING_ERR: setVringErr,
  VHOST_SET_VRING_BUSYLOOP_TIMEOUT: (file, argument) => {
    file.vring(index(argument)).busyloopTimeout = number(argument)
    return OK
  },
  VHOST_GET_VRING_BUSYLOOP_TIMEOUT: (file, argument) => {
    argument.view.setUint32(4, file.vring(index(argument)).busyloopTimeout, true)
    return OK
  },
  VHOST_VDPA_SET_VRING_ENABLE: setVringEnable,
  VHOST_VDPA_GET_VRING_GROUP: getVringGroup,
  VHOST_VDPA_GET_VRING_DESC_GROUP: getVringDescGroup,
  VHOST_VDPA_SET_GROUP_ASID: setGroupAsid,
  VHOST_VDPA_GET_VRING_SIZE: (file, argument) => {
    if (file.ops.queueMaxSize === undefined) return -errno.EOPNOTSUPP
    argument.view.setUint32(4, file.ops.queueMaxSize(index(argument)), true)
    return OK
  },
})

/** A table of guest memory is taken and not used: vDPA has its IOTLB. */
function setMemTable(_file: OpenFile, { view }: Argument): number {
  const count = view.getUint32(0, true)
  if (view.getUint32(4, true) !== 0) return -errno.EOPNOTSUPP
  return count > 64 ? -errno.E2BIG : OK
}

const ofTheOwner = handlersByNumber({ VHOST_SET_MEM_TABLE: setMemTable } satisfies Partial<
  Record<RequestName, Handler>
>)

/** Carries an ioctl out: what it returns, or a negative errno. `argument` has the bytes that the request moves; undefined where a null pointer was given. */
export function dispatch(file: OpenFile, request: number, argument: Argument | undefined): number {
  const ofAll = requestsOfAll.get(request)
  if (ofAll !== undefined) return argument === undefined ? nullArgument(file, request, ofAll) : ofAll(file, argument)
  if (!file.isOwned) return -errno.EPERM
  const ofOwner = ofTheOwner.get(request)
  if (ofOwner !== undefined) return argument === undefined ? -errno.EFAULT : ofOwner(file, argument)
  // What is left is taken for a request about a queue: the index is read and checked before the number is known to be one.
  if (argument === undefined || argument.bytes.byteLength < 4) return -errno.EFAULT
  if (index(argument) >= file.queueCount) return -errno.ENOBUFS
  const handler = ofOneQueue.get(request)
  return handler === undefined ? -errno.ENOTTY : handler(file, argument)
}

const empty: Argument = { bytes: new Uint8Array(0), view: new DataView(new ArrayBuffer(0)) }

/** Requests that do not look at their argument, or not before they have refused for another reason: a null pointer is no matter to them. */
const blindToArguments: ReadonlySet<number> = new Set([
  requests.VHOST_SET_OWNER.number,
  requests.VHOST_SET_FEATURES.number,
  requests.VHOST_VDPA_SUSPEND.number,
  requests.VHOST_VDPA_RESUME.number,
  requests.VHOST_SET_LOG_BASE.number,
  requests.VHOST_SET_LOG_FD.number,
  requests.VHOST_SET_FORK_FROM_OWNER.number,
])

function nullArgument(file: OpenFile, request: number, handler: Handler): number {
  return blindToArguments.has(request) ? handler(file, empty) : -errno.EFAULT
}
