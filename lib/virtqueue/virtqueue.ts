// What a virtqueue is to its two users, whatever its format: the driver's side adds buffers and takes them back, the device's side takes
// chains and completes them. The algorithms are in split-*.ts and packed-*.ts; memory is injected. Addresses are two 32-bit halves and
// nothing here allocates per buffer, because this is the hot path. Section numbers are those of virtio 1.2.

import type { RingBytes } from '../memory/parted-ring-memory.js'
import type { RingMemory } from '../memory/ring-memory.js'

/** `'split'` (section 2.7) or `'packed'` (section 2.8, VIRTIO_F_RING_PACKED). */
export type RingFormat = 'split' | 'packed'

/** The three areas of a queue, in virtio's words (section 2.6): bytes as this side can reach them. `areaSizes()` says how long they are. */
export interface RingAreas<Bytes extends RingBytes = RingMemory> {
  /** Descriptor table (split) or descriptor ring (packed): 16 bytes × size. */
  readonly descriptor: Bytes
  /** Driver area: available ring, or driver event suppression structure. */
  readonly driver: Bytes
  /** Device area: used ring, or device event suppression structure. */
  readonly device: Bytes
}

/** Negotiated features that change how a ring is used. All default to false. */
export interface RingFeatures {
  /** VIRTIO_F_EVENT_IDX: notification suppression by position. */
  readonly eventIdx?: boolean
  /** VIRTIO_F_INDIRECT_DESC: a descriptor may refer to a table of descriptors. */
  readonly indirect?: boolean
  /** VIRTIO_F_IN_ORDER: the device uses chains in the order in which they came, and may announce several with one entry. */
  readonly inOrder?: boolean
}

/**
 * Where a queue stands, enough to go on: 16-bit free-running indices for split (`used` equals `available` unless buffers are in
 * flight), for packed the 15-bit index with the wrap counter in bit 15. As GET_VRING_BASE: low half `available`, high half `used` (packed).
 */
export interface RingState {
  /**
   * Where the next chain goes (driver) or is looked for (device), 0..0xffff: an index (split), or a ring position with the wrap counter in bit 15
   * (packed).
   */
  readonly available: number
  /** Where the next used chain is announced, in the same form. */
  readonly used: number
}

/** A chain in flight, as plain data: everything that is needed to make it again. */
export interface ChainRecord {
  /** What commit() was given, 0..2^31-1. */
  readonly token: number
  /** Whether it lies in an indirect table, and so takes one descriptor of the ring. */
  readonly isIndirect: boolean
  /** What was pushed, in that order. */
  readonly segments: readonly ChainSegment[]
}

/** One segment of a chain, as push() takes it. */
export interface ChainSegment {
  /** The upper 32 bits of its IOVA. */
  readonly iovaHigh: number
  /** The lower 32 bits of the same. */
  readonly iovaLow: number
  /** Bytes, 1..2^32-1. */
  readonly length: number
  /** Whether it is for the device to write. */
  readonly deviceWrites: boolean
}

/** A chain that the device has used and that nobody has taken yet. */
export interface UsedRecord {
  /** What commit() was given. */
  readonly token: number
  /** Bytes that the device wrote, as `usedLength` will say. */
  readonly length: number
}

/**
 * The books of a driver ring, as plain data: what the device has not answered, and what it has and nobody took. A ring that is made of them begins anew, with
 * the unanswered chains in their order, whatever the device says about where it stood.
 */
export interface DriverSnapshot {
  /** Must be that of the ring that goes on. */
  readonly format: RingFormat
  /** Descriptors of the ring; must be that of the ring that goes on. */
  readonly size: number
  /** Chains that the device has not used, in the order in which they were committed. */
  readonly chains: readonly ChainRecord[]
  /** Chains that it has used, which take() gives first. */
  readonly used: readonly UsedRecord[]
}

/** The driver's side of one queue. Not thread-safe; one owner. A device that breaks a rule makes it broken: every verb then throws ERR_VDPA_RING_BROKEN. */
export interface DriverRing {
  /** As it was made. */
  readonly format: RingFormat
  /** Descriptors: a power of two up to 32768 (split), any number from 1 to 32768 (packed). */
  readonly size: number
  /** Descriptors that a chain may still take now. */
  readonly freeCount: number
  /** Chains committed and not yet taken back. */
  readonly inFlight: number
  /** Whether the device broke a rule: only reset() is of use then. */
  readonly isBroken: boolean

  /** Starts a chain. A chain that was started and not committed is forgotten. */
  begin(): void
  /**
   * Adds one segment: device-readable ones first, then device-writable ones (sections 2.7.4.2 and 2.8.17). `length` 1..2^32-1 bytes, 2^32 in the whole
   * chain (section 2.7.5.2). RangeError otherwise.
   */
  push(iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): void
  /** Like push, for bigint addresses (allocates nothing that lasts, but is slower). */
  pushAddress(iova: bigint, length: number, deviceWrites: boolean): void
  /**
   * Puts the chain in the ring under `token` (0..2^31-1), which take() will give back. Throws ERR_VDPA_NO_SPACE, ring unchanged, when it does not fit now, and RangeError for a chain of more segments than the ring has descriptors, which never fits;
   * the chain stays started, so that commit() may be tried again after take(). A chain of more than one segment goes to an indirect table when there is a free one.
   */
  commit(token: number): void
  /**
   * A chain of one segment: what begin(), push() and commit() do, in one step, which costs half as much. Errors as of these; a chain that was begun and not committed is forgotten.
   * Since 0.1.
   */
  commitOne(token: number, iovaHigh: number, iovaLow: number, length: number, deviceWrites: boolean): void
  /** Makes all committed chains visible to the device at once; true when the device wants to be kicked. */
  publish(): boolean
  /** The token of the next chain the device has used, or -1; `usedLength` then says how many bytes the device wrote. */
  take(): number
  /** Bytes that the device says it wrote to the chain that take() gave last, cut to its writable bytes; 0 before the first. */
  readonly usedLength: number
  /** How many chains came back with a longer length than could be written to them. Some devices give the length of the whole chain where nobody needs it. */
  readonly overlongCount: number
  /** Asks for an interrupt at the next used chain; false when one is there already (take it first: it may raise none). */
  enableCalls(): boolean
  /** Says that interrupts are not wanted. Some may come nevertheless (section 2.7.7: suppression is advice). */
  disableCalls(): void
  /** The 32-bit notification of VIRTIO_F_NOTIFICATION_DATA (section 2.9): queue index (0..65535) in the low half, position in the high half. */
  notificationData(queueIndex: number): number
  /** Where the queue stands: chains published, chains taken back. */
  state(): RingState
  /**
   * The chains in flight, for `createDriverRing({ snapshot })`, published or not. What the device has used is read first, and is a part of it: only while the device
   * does not use the queue. This ring can go on afterwards as if nothing had been asked.
   */
  save(): DriverSnapshot
  /** Forgets all chains and writes the ring's memory as a new ring begins (section 2.6.1, RING_RESET). Only while the device does not use the queue. Mends a broken ring. */
  reset(): void
}

/** A chain as the device side sees it: parallel columns, valid until the next `next()`. Copied from the ring once; the driver cannot change it any more. */
export interface DescriptorChain {
  /** What complete() wants: a number below the ring's size, the chain's own while it is in flight. */
  readonly id: number
  /** Segments in all; the first `readableCount` are device-readable, the rest device-writable. */
  readonly count: number
  /** Segments that the device may read; they come first. */
  readonly readableCount: number
  /** Ring slots that the chain took (1 for an indirect one). */
  readonly slots: number
  /** The upper 32 bits of the IOVA of each segment; only the first `count` entries are of this chain. */
  readonly iovaHigh: Uint32Array
  /** The lower 32 bits of the same. */
  readonly iovaLow: Uint32Array
  /** Bytes of each segment; 0 is allowed, because the specification does not forbid it. */
  readonly lengths: Uint32Array
  /** Bytes the device may read in all (below 2^53; with `writableLength` at most 2^32 in a split ring). */
  readonly readableLength: number
  /** Bytes the device may write in all: the most that complete() takes. */
  readonly writableLength: number
}

/** Where the bytes of an IOVA range begin. */
export interface TableLocation {
  /** What the bytes are in. */
  readonly memory: RingMemory
  /** Bytes into `memory`. */
  readonly offset: number
}

/**
 * Finds the bytes of an IOVA range for the device's own bookkeeping (indirect tables), or undefined when the device cannot reach the whole range
 * for reading. The ring reads the answer before it calls again, so one object may be filled again each time, and a range in several
 * pieces may be gathered in a scratch memory.
 */
export type TranslateTable = (iovaHigh: number, iovaLow: number, length: number) => TableLocation | undefined

/** The device's side of one queue. A driver that breaks a rule makes it broken: every verb then throws ERR_VDPA_RING_BROKEN naming the rule. */
export interface DeviceRing {
  /** As it was made. */
  readonly format: RingFormat
  /** Descriptors: a power of two up to 32768 (split), any number from 1 to 32768 (packed). */
  readonly size: number
  /** Whether the driver broke a rule: only reset() is of use then. */
  readonly isBroken: boolean
  /** Chains loaded and not yet completed. */
  readonly inFlight: number
  /** Loads the next available chain into `chain`; false when there is none. */
  next(): boolean
  /** The chain that next() loaded last: one object, filled again each time. */
  readonly chain: DescriptorChain
  /** Takes back the chain that next() loaded last, as if it had not been looked at. ERR_VDPA_STATE when something was completed or rewound since. */
  rewind(): void
  /**
   * Marks a chain used, with `written` bytes written (0..writableLength). RangeError for a chain that is not in flight. With IN_ORDER chains must be
   * completed in the order they came (ERR_VDPA_STATE otherwise); only the last of a run that was written full gets an entry.
   */
  complete(id: number, written: number): void
  /** Makes completed chains visible at once; true when the driver wants an interrupt. */
  publish(): boolean
  /** Asks for a kick at the next available chain; false when one is there already. A device that begins or goes on from a state calls it first. */
  enableKicks(): boolean
  /** Says that kicks are not wanted. Some may come nevertheless. */
  disableKicks(): void
  /** Where the queue stands (GET_VRING_BASE): chains loaded, chains completed. Publish first; chains in flight are not part of it. */
  state(): RingState
  /** Forgets all and begins at `state` (default: a new ring's). Touches no memory, which is the driver's to prepare. Mends a broken ring. */
  reset(state?: RingState): void
}

/** The indirect tables of a driver: `memory.byteLength / (16 × tableSize)` of them, one after the other. */
export interface IndirectTables {
  /** The tables, for the ring alone. RangeError when there is not room for one. */
  readonly memory: RingMemory
  /** Where the device finds `memory`. */
  readonly iova: bigint
  /** Descriptors a table: the longest chain that goes into one. */
  readonly tableSize: number
}
