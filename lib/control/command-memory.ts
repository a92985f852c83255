// The memory of commands under way: chunks of one buffer, a run of neighbours for each command. Who waits for room is not known here.

/** Bytes of one chunk, and of the longest descriptor where the ring has room for more of them. */
export const SLOT_BYTES = 4096

/** Chunks of `SLOT_BYTES`, given in runs. A run is known by the number of its first chunk. */
export class CommandMemory {
  /** How many chunks there are. */
  readonly chunks: number
  // By first chunk: the length of the run that is given, 0 where none begins.
  readonly #lengths: Uint16Array
  readonly #isTaken: Uint8Array
  #runs = 0

  constructor(byteLength: number) {
    this.chunks = Math.floor(byteLength / SLOT_BYTES)
    this.#lengths = new Uint16Array(this.chunks)
    this.#isTaken = new Uint8Array(this.chunks)
  }

  /** Whether nothing is given. */
  get isFree(): boolean {
    return this.#runs === 0
  }

  /** The first chunk of a run that holds `bytes`, or -1 while there is none. */
  take(bytes: number): number {
    const wanted = Math.ceil(bytes / SLOT_BYTES)
    for (let first = 0, free = 0; first + free < this.chunks;) {
      if (this.#isTaken[first + free] === 1) {
        first += free + 1
        free = 0
      } else if (++free === wanted) {
        this.#isTaken.fill(1, first, first + wanted)
        this.#lengths[first] = wanted
        this.#runs++
        return first
      }
    }
    return -1
  }

  /** Gives a run back. */
  release(first: number): void {
    const length = this.#lengths[first] ?? 0
    this.#isTaken.fill(0, first, first + length)
    this.#lengths[first] = 0
    this.#runs--
  }
}
