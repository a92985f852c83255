// Chains of one descriptor by the many, in columns: what stands between two rings takes them from the one and gives them to the other in short loops. Only split rings offer it; the verbs of
// DeviceRing and DriverRing do the same one by one, for all chains.

/** Columns for so many chains, filled again each time. */
export class PlainChains {
  /** How many there is room for. */
  readonly size: number
  /** As `chain.id` of the one ring, and the token of the other. */
  readonly ids: Uint32Array
  /** The upper 32 bits of the address of the one segment. */
  readonly iovaHigh: Uint32Array
  /** The lower 32 bits of the same. */
  readonly iovaLow: Uint32Array
  /** Its bytes; of chains that came back, the bytes that were written. */
  readonly lengths: Uint32Array
  /** 1 where the device writes it. */
  readonly isWritten: Uint8Array

  constructor(size: number) {
    this.size = size
    this.ids = new Uint32Array(size)
    this.iovaHigh = new Uint32Array(size)
    this.iovaLow = new Uint32Array(size)
    this.lengths = new Uint32Array(size)
    this.isWritten = new Uint8Array(size)
  }
}

/** What a device's side may offer besides. */
export interface PlainDeviceRing {
  /**
   * Copies the chains that come next into `chains`, up to `most`, as far as they have one descriptor each: how many. Nothing is loaded by it. It ends before one that next() has to look at: longer, of no
   * bytes, or against a rule. What is in `chains` was read from the ring once.
   */
  peekPlain(chains: PlainChains, most: number): number
  /** Loads the first `count` of what peekPlain() gave last, with nothing between the two: how many. It ends before one that is in flight, which next() refuses. There is nothing to rewind then. */
  loadPlain(chains: PlainChains, count: number): number
  /** complete() for the first `count`, with the lengths in `chains`. */
  completeEach(chains: PlainChains, count: number): void
}

/** What a driver's side may offer besides. */
export interface PlainDriverRing {
  /** commitOne() for the first `count` in `chains`, which peekPlain() gave. ERR_VDPA_NO_SPACE, and nothing done, where there is not room for all. */
  commitPlain(chains: PlainChains, count: number): void
  /** take() up to `most` times: ids and lengths of chains of one descriptor. It ends before one that take() has to look at; 0 does not say that there is none. */
  takePlain(chains: PlainChains, most: number): number
}

/** Whether a device's side has those verbs. */
export function isPlainDevice<T extends object>(ring: T): ring is T & PlainDeviceRing {
  return 'peekPlain' in ring
}

/** Whether a driver's side has. */
export function isPlainDriver<T extends object>(ring: T): ring is T & PlainDriverRing {
  return 'commitPlain' in ring
}
