// The one error class of the package and its two makers: what the operating system refused, and what we refused ourselves.
// Errors are recognised by brand, because `instanceof` fails across realms (a second copy of the package, a test runner's sandbox).

const brand = Symbol.for('vhost-vdpa.error')

/** What an error may carry beside its sentence. */
export interface VdpaErrorDetails {
  /** The negative errno of the refusal, as Node's own errors have it; absent on refusals of our own. */
  readonly errno?: number
  /** The system call that was refused: `'open'`, `'ioctl'`, `'write'`, `'mmap'` ... */
  readonly syscall?: string
  /** The kernel's name of the request, such as `'VHOST_VDPA_SET_GROUP_ASID'`, or of the IOTLB message. */
  readonly request?: string
  /** The device node or file. */
  readonly path?: string
  /** What a person can do about it. */
  readonly hint?: string
  /** What led to this one: the system's refusal behind a sentence of ours, the reason of an AbortSignal, the `TraceDifference` of a replay. */
  readonly cause?: unknown
}

/**
 * Every failure that this package reports. `code` is the errno's name (`'EINVAL'`) where the operating system refused, and `'ERR_VDPA_…'`
 * where the package refused before asking. Misuse of an argument is a `TypeError` or `RangeError` instead.
 */
export class VdpaError extends Error {
  /** The errno's name (`'EBUSY'`) where the operating system refused, a `VdpaErrorCode` where the package did. Compare this, not the message. */
  readonly code: string
  /** The errno, negative as in Node's own errors (`-16` is EBUSY); absent on refusals of the package. */
  declare readonly errno?: number
  /** The system call that was refused: `'open'`, `'ioctl'`, `'write'` …; absent where none was made. */
  declare readonly syscall?: string
  /** The kernel's name of the request or of the IOTLB message, such as `'VHOST_VDPA_SET_GROUP_ASID'`; `'ioctl 0x…'` for a number without a name. */
  declare readonly request?: string
  /** The device node or file that the call was about. */
  declare readonly path?: string
  /** What a person can do about it; also at the end of the message, in brackets. */
  declare readonly hint?: string
  /** What isVdpaError() looks for. */
  readonly [brand] = true

  constructor(code: string, message: string, details: VdpaErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.name = 'VdpaError'
    this.code = code
    for (const key of ['errno', 'syscall', 'request', 'path', 'hint'] as const) {
      const value = details[key]
      if (value !== undefined) Object.defineProperty(this, key, { value, enumerable: true, writable: false })
    }
    Object.defineProperty(this, brand, { value: true, enumerable: false })
  }
}

/** True for an error of this package, whichever realm or copy of the package made it. */
export function isVdpaError(value: unknown): value is VdpaError {
  return typeof value === 'object' && value !== null && brand in value
}

/** The parts of a sentence such as `EINVAL: VHOST_VDPA_SET_GROUP_ASID on /dev/vhost-vdpa-0: asid 9 is not below 2`. */
function sentence(code: string, details: VdpaErrorDetails, text: string): string {
  const what = details.request ?? details.syscall
  const subject =
    what === undefined ? (details.path ?? '') : details.path === undefined ? what : `${what} on ${details.path}`
  const hint = details.hint === undefined ? '' : ` (${details.hint})`
  return [code, subject, text].filter((part) => part !== '').join(': ') + hint
}

/** Makes the error of a system call that was refused. `errno` is the positive number the kernel gave; `text` says why, when we know. */
export function systemError(
  code: string,
  errno: number,
  text: string,
  details: Omit<VdpaErrorDetails, 'errno'> = {},
): VdpaError {
  return new VdpaError(code, sentence(code, details, text), { ...details, errno: -errno })
}

/** Codes of the refusals that come from this package and not from the operating system. */
export type VdpaErrorCode =
  | 'ERR_VDPA_CLOSED' // the object was closed
  | 'ERR_VDPA_CANCELED' // the caller, or destroy(), gave up waiting
  | 'ERR_VDPA_STATE' // the device or object is not in a state that allows this
  | 'ERR_VDPA_NOT_SUPPORTED' // this device, kernel or backend has no such capability
  | 'ERR_VDPA_NO_ADDON' // the native addon is not there; only the simulator works
  | 'ERR_VDPA_WRONG_DEVICE' // the device is not of the kind that was asked for, or not the one that is meant
  | 'ERR_VDPA_FEATURES' // features were not offered, not accepted, or contradict each other
  | 'ERR_VDPA_NO_OWNER' // the handle has not claimed the device
  | 'ERR_VDPA_IOVA_RANGE' // outside the addresses that the device can reach
  | 'ERR_VDPA_OVERLAP' // overlaps an existing mapping
  | 'ERR_VDPA_NOT_MAPPED' // is not exactly one mapping
  | 'ERR_VDPA_ASID' // no such address space
  | 'ERR_VDPA_ALIGNMENT' // not aligned to pages
  | 'ERR_VDPA_BATCH' // another address space's batch is open
  | 'ERR_VDPA_ENTRY_LIMIT' // the device's IOTLB has no room left
  | 'ERR_VDPA_MEMLOCK' // RLIMIT_MEMLOCK does not allow pinning so much
  | 'ERR_VDPA_NOT_SHARED' // memory that the kernel would skip without saying so, or that is another backend's
  | 'ERR_VDPA_NO_SPACE' // an allocator, arena or ring is full
  | 'ERR_VDPA_MEMORY_HELD' // memory is mapped for DMA and cannot be freed
  | 'ERR_VDPA_RING_BROKEN' // the other side of a virtqueue broke a rule; the queue is out of use
  | 'ERR_VDPA_REFUSED' // the device answered with a refusal of its own
  | 'ERR_VDPA_TIMEOUT' // the device did not answer in time
  | 'ERR_VDPA_DEVICE_BROKEN' // the device asked to be reset, or was taken away
  | 'ERR_VDPA_PROTOCOL' // the kernel's answer cannot be understood
  | 'ERR_VDPA_TRACE' // a replayed trace met another answer
  | 'ERR_VDPA_PLAN' // a plan is not one: each mistake with its line and column

/** Makes an error of our own: a refusal before, or instead of, a system call. */
export function vdpaError(code: VdpaErrorCode, text: string, details: VdpaErrorDetails = {}): VdpaError {
  return new VdpaError(code, sentence(code, details, text), details)
}
