// What becomes of a chain's memory when it is done with: bytes that were bounced are copied back, pages that the device may have written are marked in the log, what was taken for it is given up.

import type { WriteMarks } from '../memory/write-marks.js'
import type { Bounce } from './bounce.js'
import type { GuestWindows } from './guest-windows.js'
import type { SegmentBook } from './segment-book.js'

/** What a settlement works with. */
export interface SettlementParts {
  readonly windows: GuestWindows
  readonly bounce: Bounce | undefined
  readonly log: WriteMarks | undefined
}

/** The chains of one queue, by their numbers. */
export class Settlement {
  readonly #book: SegmentBook
  readonly #windows: GuestWindows
  readonly #bounce: Bounce | undefined
  readonly #log: WriteMarks | undefined

  constructor(book: SegmentBook, { windows, bounce, log }: SettlementParts) {
    this.#book = book
    this.#windows = windows
    this.#bounce = bounce
    this.#log = log
  }

  /** Of a chain that the device used: copies what was bounced, marks what was written, and gives up what the chain had. */
  settle(id: number, used: number): void {
    const book = this.#book
    const only = book.onlyLength[id] as number
    if (only !== 0) {
      this.#log?.mark(book.onlyAddress[id] as number, only)
      book.onlyLength[id] = 0
      return
    }
    const first = book.first(id)
    if (first >= 0) this.#settleEach(id, first, used)
  }

  /** Of a chain that the device never had. */
  release(id: number): void {
    const book = this.#book
    for (let entry = book.first(id); entry >= 0; entry = book.next(entry)) {
      const chunk = book.chunk[entry] as number
      if (chunk >= 0) this.#bounce?.release(chunk)
    }
    book.clear(id)
  }

  /** Of a chain that the device goes on with, and may write meanwhile. */
  markWritten(id: number): void {
    const log = this.#log
    const book = this.#book
    if (log === undefined) return
    const only = book.onlyLength[id] as number
    if (only !== 0) log.mark(book.onlyAddress[id] as number, only)
    for (let entry = book.first(id); entry >= 0; entry = book.next(entry))
      if (book.isWritten[entry] === 1 && (book.chunk[entry] as number) < 0)
        log.mark(book.address[entry] as number, book.length[entry] as number)
  }

  #settleEach(id: number, first: number, used: number): void {
    const book = this.#book
    const log = this.#log
    const bounce = this.#bounce
    let done = 0
    for (let entry = first; entry >= 0; entry = book.next(entry)) {
      const length = book.length[entry] as number
      const chunk = book.chunk[entry] as number
      if (book.isWritten[entry] === 1) {
        const address = book.address[entry] as number
        if (chunk >= 0 && bounce !== undefined) this.#copyBack(address, chunk, Math.min(length, used - done))
        else log?.mark(address, length)
        done += length
      }
      if (chunk >= 0) bounce?.release(chunk)
    }
    book.clear(id)
  }

  /** Only what the device says that it wrote, since that is all that was changed. */
  #copyBack(address: number, chunk: number, length: number): void {
    const bounce = this.#bounce
    if (length <= 0 || bounce === undefined) return
    const into = this.#windows.bytes(address, length)
    // Unplugged meanwhile: nobody can see the bytes.
    if (into === undefined) return
    into.set(bounce.bytes(chunk, length))
    this.#log?.mark(address, length)
  }
}
