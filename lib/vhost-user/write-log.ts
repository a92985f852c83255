// What a front end wants logged of what its device writes, and where: a log, all that is written (LOG_ALL), and rings one by one (VHOST_VRING_F_LOG). It knows no message.

import type { WriteMarks } from '../memory/write-marks.js'
import type { DirtyLog } from './dirty-log.js'
import type { Vring } from './vring.js'

/** The area of a ring that only its device writes: split rings' used ring. */
export interface UsedArea {
  /** Guest address. */
  readonly at: number
  readonly bytes: number
}

/** What was asked for, to go back to. */
export interface LogWishes {
  readonly marksAll: boolean
  readonly usedLogs: readonly (number | undefined)[]
}

/** The log of one device. */
export class WriteLog implements WriteMarks {
  /** As SET_LOG_BASE gave it; its owner is who closes it. */
  base: DirtyLog | undefined
  /** LOG_ALL was accepted: all that is written is marked where it lies. */
  marksAll = false
  readonly #vrings: readonly Vring[]

  constructor(vrings: readonly Vring[]) {
    this.#vrings = vrings
  }

  /** Whether anything is to be marked. */
  get isWanted(): boolean {
    return this.base !== undefined && (this.marksAll || this.#vrings.some(({ usedLog }) => usedLog !== undefined))
  }

  /** Whether the front end made its log shorter. */
  get isTorn(): boolean {
    return this.base?.isTorn === true
  }

  mark(address: number, length: number): void {
    if (this.marksAll) this.base?.mark(address, length)
  }

  /** The marks of one queue: what is written to its used area is told where the front end wants that besides, which may be none of the guest's addresses. */
  ofQueue(vring: Vring, used: UsedArea): WriteMarks {
    return {
      mark: (address, length) => {
        this.mark(address, length)
        const { usedLog } = vring
        if (usedLog === undefined) return
        const first = Math.max(address, used.at)
        const end = Math.min(address + length, used.at + used.bytes)
        if (first < end) this.base?.mark(usedLog + (first - used.at), end - first)
      },
    }
  }

  get wishes(): LogWishes {
    return { marksAll: this.marksAll, usedLogs: this.#vrings.map(({ usedLog }) => usedLog) }
  }

  /** As it was when `wishes` was read. */
  goBackTo({ marksAll, usedLogs }: LogWishes): void {
    this.marksAll = marksAll
    for (const [index, vring] of this.#vrings.entries()) vring.usedLog = usedLogs[index]
  }

  /** The front end has gone: nobody asks. */
  clear(): void {
    this.base = undefined
    this.marksAll = false
    for (const vring of this.#vrings) vring.usedLog = undefined
  }
}
