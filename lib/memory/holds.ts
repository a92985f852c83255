// Who holds a piece of memory, for every implementation of MemoryRegion: the list of holders, and the refusal to free what is held.
// It does not know what a hold means to the memory itself; the region is told when the first comes and when the last goes.

import { checkString } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import type { MemoryHold } from './memory-region.js'

/**
 * The holds on one region. It does not refer to the region, but each hold does: memory is not collected while anybody still has a hold on it,
 * and what is left in the list when the region was collected are holds that nobody can give up any more.
 */
export class Holds {
  readonly #holders = new Map<number, string>()
  #nextKey = 0

  /** What holds the memory now, oldest first. */
  get names(): readonly string[] {
    return [...this.#holders.values()]
  }

  /**
   * Takes a hold on `region`. `holder` is what a person would say, such as `/dev/vhost-vdpa-0 asid 1 [0x1000, 0x1fff]`. `onChange` is called with
   * true if this is the first hold, and with false if it is the last to be given up.
   */
  take(holder: string, region: object, onChange?: (isHeld: boolean) => void): MemoryHold {
    checkString(holder, 'holder')
    const key = this.#nextKey++
    this.#holders.set(key, holder)
    if (this.#holders.size === 1) onChange?.(true)
    return new Hold(holder, region, () => {
      this.#holders.delete(key)
      if (this.#holders.size === 0) onChange?.(false)
    })
  }

  /** Throws ERR_VDPA_MEMORY_HELD, naming the holders, while there are any. `memory` is the subject of the sentence. */
  refuseWhileHeld(memory: string): void {
    if (this.#holders.size === 0) return
    const [first, second, ...others] = this.names
    const named = [first, second].filter((name) => name !== undefined).join(' and ')
    const rest = others.length === 0 ? '' : ` and ${others.length} more`
    throw vdpaError('ERR_VDPA_MEMORY_HELD', `${memory} is held by ${named}${rest}: unmap it there first`)
  }
}

class Hold implements MemoryHold {
  readonly holder: string
  // Forgotten with the claim: a hold that was given up keeps nothing.
  #claim: { readonly region: object; readonly giveUp: () => void } | undefined

  constructor(holder: string, region: object, giveUp: () => void) {
    this.holder = holder
    this.#claim = { region, giveUp }
  }

  get isClosed(): boolean {
    return this.#claim === undefined
  }

  close(): void {
    const claim = this.#claim
    this.#claim = undefined
    claim?.giveUp()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
