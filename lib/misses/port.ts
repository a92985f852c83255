// Where misses come from and answers go: a vhost node that can be read, or what stands for one.

import { checkObject } from '../base/checks.js'
import type { Backend, Handle } from '../backend/backend.js'
import { isVdpaError, vdpaError } from '../base/errors.js'
import { RECORD_BYTES } from '../iotlb/message.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** One device IOTLB, as its server sees it. */
export interface MissPort {
  /** A name for sentences: the node's path. */
  readonly path: string
  /** The next record, valid until the next call; undefined when there is none now. Never waits. */
  read(): Uint8Array | undefined
  /** Gives the device a record. EFAULT, EINVAL: the device refused it. */
  write(record: Uint8Array): void
  /** Calls `listener` while there is a record to be read, again and again. One listener at a time. */
  onReadable(listener: () => void): Disposable
  /** Whether the device finds the bytes of a region at its address. Absent: it is not known, and not asked. */
  reaches?(region: MemoryRegion): boolean
}

/** Whether the device did not take a record; what else write() throws leaves that open. */
export function isRefusal(failure: unknown): boolean {
  return isVdpaError(failure) && (failure.code === 'EFAULT' || failure.code === 'EINVAL')
}

/**
 * The port of an open node: `/dev/vhost-net` or `/dev/vhost-vsock`, opened without blocking. Whoever opened the node closes it, after the server. With the `backend` that
 * opened it, the device is given no translation into memory that is not that backend's. ERR_VDPA_NOT_SUPPORTED for a node that cannot be read, as vhost-vdpa, whose mappings are pushed.
 */
export function missPort(handle: Handle, backend?: Pick<Backend, 'reaches'>): MissPort {
  checkObject(handle, 'handle')
  if (backend !== undefined) checkObject(backend, 'backend')
  const { path } = handle
  if (handle.read === undefined || handle.onReadable === undefined)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'it has no misses to be read: its memory is mapped beforehand', { path })
  const bytes = new Uint8Array(RECORD_BYTES)
  return {
    path,
    read: () => {
      const length = readRecord(handle, bytes)
      // A record that is short is no record, and is said to be none.
      return length === RECORD_BYTES ? bytes : length === 0 ? undefined : bytes.subarray(0, length)
    },
    write: (record) => void handle.write(record),
    onReadable: (listener) => (handle.onReadable as NonNullable<Handle['onReadable']>)(listener),
    ...(backend?.reaches !== undefined && { reaches: backend.reaches.bind(backend) }),
  }
}

/** How many bytes came; 0 when there are none now. */
function readRecord(handle: Handle, bytes: Uint8Array): number {
  try {
    return handle.read?.(bytes) ?? 0
  } catch (failure) {
    if (isVdpaError(failure) && (failure.code === 'EAGAIN' || failure.code === 'EINTR')) return 0
    throw failure
  }
}
