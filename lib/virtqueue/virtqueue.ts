// What a virtqueue is to its two users, whatever its format: the driver's side adds buffers and takes them back, the device's side takes
// chains and completes them. The algorithms are in split-*.ts and packed-*.ts; memory is injected. Addresses are two 32-bit halves and
// nothing here allocates per buffer, because this is the hot path.

import type { RingMemory } from '../memory/ring-memory.js'

/** `'split'` (virtio 1.2 section 2.7) or `'packed'` (section 2.8, VIRTIO_F_RING_PACKED). */
export type RingFormat = 'split' | 'packed'

/** The three areas of a queue, in virtio's words (section 2.6): bytes as this side can reach them. */
export interface RingAreas {
  /** Descriptor table (split) or descriptor ring (packed): 16 bytes × size. */
  readonly descriptor: RingMemory
  /** Driver area: available ring, or driver event suppression structure. */
  readonly driver: RingMemory
  /** Device area: used ring, or device event suppression structure. */
  readonly device: RingMemory
}

/** Negotiated features that change how a ring is used. All default to false. */
export interface RingFeatures {
  readonly eventIdx?: boolean
  readonly indirect?: boolean
  readonly inOrder?: boolean
}

/**
 * Where a stopped queue stands, enough to go on: 16-bit free-running indices for split (`used` equals `available` unless buffers are in
 * flight), for packed the 15-bit index with the wrap counter in bit 15. As GET_VRING_BASE: low half `available`, high half `used` (packed).
 */
export interface RingState {
  readonly available: number
  readonly used: number
}

/** The driver's side of one queue. Not thread-safe; one owner. A device that breaks a rule makes it broken: every verb then throws ERR_VDPA_RING_BROKEN. */
export interface DriverRing {
  readonly format: RingFormat
  readonly size: number
  /** Descriptors that a chain may still take now. */
  readonly freeCount: number
  /** Chains given to the device and not yet taken back. */
  readonly inFlight: number
  readonly isBroken: boolean

  /** Starts a chain. A chain that was started and not committed is forgotten. */
  begin(): void
  /** Adds one segment: device-readable ones first, then device-writable ones (section 2.6.4.2). `length` 1..2^32-1 bytes. */
  push(iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): void
  /** Like push, for bigint addresses (allocates nothing that lasts, but is slower). */
  pushAddress(iova: bigint, length: number, deviceWrites: boolean): void
  /** Puts the chain in the ring under `token` (0..2^31-1), which take() will give back. Throws ERR_VDPA_NO_SPACE, ring unchanged, when it does not fit. */
  commit(token: number): void
  /** Makes all committed chains visible to the device at once; true when the device wants to be kicked. */
  publish(): boolean
  /** The token of the next chain the device has used, or -1; `usedLength` then says how many bytes the device wrote. */
  take(): number
  readonly usedLength: number
  /** Asks for an interrupt at the next used chain; false when one is there already (take it first: it may raise none). */
  enableCalls(): boolean
  disableCalls(): void
  /** The 32-bit notification of VIRTIO_F_NOTIFICATION_DATA (section 2.9): queue index in the low half, position in the high half. */
  notificationData(queueIndex: number): number
  /** Where the queue stands, for SET_VRING_BASE after a restore. */
  state(): RingState
}

/** A chain as the device side sees it: parallel columns, valid until the next `next()`. */
export interface DescriptorChain {
  /** What complete() wants: the head index (split) or the buffer id (packed). */
  readonly id: number
  /** Segments in all; the first `readableCount` are device-readable, the rest device-writable. */
  readonly count: number
  readonly readableCount: number
  /** Ring slots that the chain took (1 for an indirect one). */
  readonly slots: number
  readonly iovaHigh: Uint32Array
  readonly iovaLow: Uint32Array
  readonly lengths: Uint32Array
  /** Bytes the device may read, and may write, in all (each below 2^53). */
  readonly readableLength: number
  readonly writableLength: number
}

/**
 * Finds the bytes of an IOVA range for the device's own bookkeeping (indirect tables): the memory and where in it the range begins, or undefined
 * when the device cannot reach the whole range for reading.
 */
export type TranslateTable = (iovaHigh: number, iovaLow: number, length: number) => RingMemory | undefined

/** The device's side of one queue. A driver that breaks a rule makes it broken: every verb then throws ERR_VDPA_RING_BROKEN naming the rule. */
export interface DeviceRing {
  readonly format: RingFormat
  readonly size: number
  readonly isBroken: boolean
  /** Loads the next available chain into `chain`; false when there is none. */
  next(): boolean
  readonly chain: DescriptorChain
  /** Takes back the chain that next() loaded last, as if it had not been looked at (nothing completed since). */
  rewind(): void
  /** Marks a chain used, with `written` bytes written. With IN_ORDER chains must be completed in the order they came. */
  complete(id: number, written: number): void
  /** Makes completed chains visible at once; true when the driver wants an interrupt. */
  publish(): boolean
  /** Asks for a kick at the next available chain; false when one is there already. */
  enableKicks(): boolean
  disableKicks(): void
  /** Where the queue stands (GET_VRING_BASE). */
  state(): RingState
}
