// Who wants to know of faults. What one of them throws is uncaught, and the others are told.

import { checkFunction } from '../base/checks.js'
import { callUnasked } from '../base/program-calls.js'
import type { IommuFault } from './translate.js'

export class FaultListeners {
  readonly #listeners = new Set<(fault: IommuFault) => void>()

  /** Until the returned function is called. Who listens twice is told twice, and stops each by itself. */
  add(listener: (fault: IommuFault) => void): () => void {
    checkFunction(listener, 'listener')
    const entry = (fault: IommuFault) => listener(fault)
    this.#listeners.add(entry)
    return () => this.#listeners.delete(entry)
  }

  tell(fault: IommuFault): void {
    for (const listener of [...this.#listeners]) callUnasked(() => listener(fault))
  }
}
