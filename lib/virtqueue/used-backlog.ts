// Chains that a device has used and that were taken out of its ring before anybody asked for them: when a ring is saved. take() gives them first.

import type { UsedRecord } from './virtqueue.js'

/** Used chains in the order in which the device used them. */
export class UsedBacklog {
  readonly #records: readonly UsedRecord[]
  #at = 0
  /** What the device wrote to the chain that take() gave last. */
  usedLength = 0

  constructor(records: readonly UsedRecord[]) {
    this.#records = records
  }

  /** How many are left. */
  get count(): number {
    return this.#records.length - this.#at
  }

  /** The token of the next one; only while there is one. */
  take(): number {
    const { token, length } = this.#records[this.#at++] as UsedRecord
    this.usedLength = length
    return token
  }

  /** Those that are left, as plain data. */
  records(): UsedRecord[] {
    return this.#records.slice(this.#at)
  }
}
