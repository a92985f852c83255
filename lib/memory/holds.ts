// Who holds a piece of memory, for every implementation of MemoryRegion: the list of holders, and the refusal to free what is held.
// It does not know what a hold means to the memory itself; the region is told when the first comes and when the last goes.

import { checkString, typeError } from '../base/checks.js'
import { vdpaError } from '../base/errors.js'
import { ProgramCalls } from '../base/program-calls.js'
import type { MemoryHold, MemoryHolder } from './memory-region.js'

/**
 * The holds on one region. It does not refer to the region, but each hold does: memory is not collected while anybody still has a hold on it,
 * and what is left in the list when the region was collected are holds that nobody can give up any more.
 */
export class Holds {
  readonly #holders = new Map<number, MemoryHolder>()
  readonly #last = new Map<number, string | WeakRef<MemoryHolder>>()
  #nextKey = 0

  /** The names for whoever must not keep the holders. */
  get last(): HolderNames {
    return namesIn(this.#last)
  }

  /** What holds the memory now, oldest first. */
  get names(): readonly string[] {
    return Array.from(this.#holders.values(), (holder) => holder.describe())
  }

  /**
   * Takes a hold on `region`. `holder` is what a person would say, such as `/dev/vhost-vdpa-0 asid 1`, or what says it. `onChange` is called with
   * true if this is the first hold, and with false if it is the last to be given up.
   */
  take(holder: string | MemoryHolder, region: object, onChange?: (isHeld: boolean) => void): MemoryHold {
    const who = holderOf(holder)
    const key = this.#nextKey++
    this.#holders.set(key, who)
    this.#last.set(key, typeof holder === 'string' ? holder : new WeakRef(holder))
    if (this.#holders.size === 1) onChange?.(true)
    return new Hold(who, region, () => {
      this.#holders.delete(key)
      this.#last.delete(key)
      if (this.#holders.size === 0) onChange?.(false)
    })
  }

  /** Has every holder that can let go do so. What they throw is thrown when all were asked. */
  letGo(): void {
    const calls = new ProgramCalls()
    for (const holder of [...this.#holders.values()]) calls.call(() => holder.letGo?.())
    calls.throwKept()
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

/** The names of holders, without what they belong to. */
export interface HolderNames {
  /** Oldest first; for a holder that was collected, what can still be said of it. */
  names(): string[]
}

/** Apart from `Holds`, so that no closure refers to one. */
function namesIn(last: ReadonlyMap<number, string | WeakRef<MemoryHolder>>): HolderNames {
  const nameOf = (holder: string | WeakRef<MemoryHolder>) =>
    typeof holder === 'string' ? holder : (holder.deref()?.describe() ?? 'a device that was lost with it')
  return { names: () => Array.from(last.values(), nameOf) }
}

function holderOf(holder: string | MemoryHolder): MemoryHolder {
  if (typeof holder === 'object' && holder !== null) {
    if (typeof holder.describe !== 'function') throw typeError('holder', 'a name, or a MemoryHolder', holder)
    return holder
  }
  checkString(holder, 'holder')
  return { describe: () => holder }
}

class Hold implements MemoryHold {
  readonly #holder: MemoryHolder
  // Forgotten with the claim: a hold that was given up keeps nothing.
  #claim: { readonly region: object; readonly giveUp: () => void } | undefined

  constructor(holder: MemoryHolder, region: object, giveUp: () => void) {
    this.#holder = holder
    this.#claim = { region, giveUp }
  }

  get holder(): string {
    return this.#holder.describe()
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
