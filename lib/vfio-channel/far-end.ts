// What a server of the channel stands in front of: one open vhost-vdpa node of any backend, its eventfds, and the way by which its devices reach memory. So the law of
// the requests is the backend's, and written once.

import type { Backend, Eventfd, Handle, Subscription } from '../backend/backend.js'
import type { Releasable } from '../base/closeable.js'
import { callUnasked } from '../base/program-calls.js'
import type { MemoryRegion } from '../memory/memory-region.js'

/** One opening of a node. */
export interface FarEnd extends Releasable {
  readonly handle: Handle
  readonly pageSize: number
  /** A new eventfd of the backend that has the node. */
  eventfd(): Eventfd
  /** Shows memory to the node's devices, who know it by the address of what is returned until that is closed. */
  show(region: MemoryRegion): MemoryRegion
}

/** A backend whose devices reach memory of other backends: a simulator. */
type Showing = Pick<Backend, 'open' | 'eventfd' | 'pageSize'> & { share(region: MemoryRegion): MemoryRegion }

/** Opens a node for one client. Errors: the open's own. */
export function openFarEnd(backend: Showing, path: string): FarEnd {
  const handle = backend.open(path)
  return {
    handle,
    pageSize: backend.pageSize,
    eventfd: () => backend.eventfd(),
    show: (region) => backend.share(region),
    get isClosed() {
      return handle.isClosed
    },
    close: () => handle.closeSync(),
    [Symbol.dispose]: () => handle.closeSync(),
  }
}

/** The interrupts of one vector, from an eventfd of the far end to one of the client, which stays whose it is. */
export class Relay implements Releasable {
  readonly #far: Eventfd
  readonly #subscription: Subscription

  /** `far` is this one's to close. */
  constructor(near: Eventfd, far: Eventfd) {
    this.#far = far
    // Whom the client's eventfd is refused to is nobody who called.
    this.#subscription = far.onSignal(() => callUnasked(() => near.signal()))
  }

  /** The descriptor for the far end. */
  get fd(): number {
    return this.#far.fd
  }

  get isClosed(): boolean {
    return this.#far.isClosed
  }

  close(): void {
    this.#subscription.close()
    this.#far.close()
  }

  [Symbol.dispose](): void {
    this.close()
  }
}
