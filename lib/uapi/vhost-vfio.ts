// The messages of the vhost-vfio proposals (April 2018 and July 2019), which Linux never merged: vhost requests written to a region of a VFIO device. The numbers
// are vhost's own but for one; interrupts are VFIO's.

import { struct, u32, u64 } from './struct.js'
import { ioctlNumber, VHOST_VIRTIO } from './vhost.js'

/** The head of a message; `size` bytes of payload follow. `request` is the number of a vhost request, zero-extended. */
export const vhostVfioOp = struct('vhost_vfio_op', { request: u64, flags: u32, size: u32 })

/** Bits of the flags of a message. The second one is not in the drafts: who sets it is answered with a result, errno included. */
export const vhostVfioFlags = { VHOST_VFIO_NEED_REPLY: 1, REPLY_RESULT: 2 } as const

/** Starts and stops the device. The number is that of a later request of another size (VHOST_VDPA_GET_DEVICE_ID), so that the whole of it is compared. */
export const VHOST_DEVICE_SET_STATE = ioctlNumber('write', VHOST_VIRTIO, 0x70, 8)

/** What VHOST_DEVICE_SET_STATE sets. */
export const vhostDeviceStates = { STOPPED: 0, RUNNING: 1 } as const

/** How far the regions of a VFIO device lie apart in its file: the index of a region is in bits 40 and up of an offset. */
export const VFIO_REGION_SHIFT = 40n

/** The head of VFIO_DEVICE_SET_IRQS; `count` descriptors of 4 bytes follow where the flags say so. */
export const vfioIrqSet = struct('vfio_irq_set', { argsz: u32, flags: u32, index: u32, start: u32, count: u32 })

/** VFIO_DEVICE_SET_IRQS. */
export const VFIO_DEVICE_SET_IRQS = 0x3b6e

/** Bits of the flags of `vfioIrqSet`. */
export const vfioIrqFlags = {
  VFIO_IRQ_SET_DATA_NONE: 1,
  VFIO_IRQ_SET_DATA_EVENTFD: 4,
  VFIO_IRQ_SET_ACTION_TRIGGER: 32,
} as const
