// What becomes of a shadow whose device is reset under it and brought back: its ring is ended, its books are kept, and another ring goes on with them.

import type { AddressSpace } from '../device/address-space.js'
import type { DeviceQueue } from '../device/device-queue.js'
import type { QueueSnapshot } from '../device/queue-options.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import type { MemoryRegion } from '../memory/memory-region.js'
import type { Steps } from '../base/steps.js'
import type { Serving } from './serving.js'

/** The shadow that recovers, as this needs it. */
export interface RecoveringShadow {
  readonly device: VdpaDevice
  /** What there is while the queue is shadowed. */
  served(): Serving | undefined
  /** The address space that the shadow's ring is in. */
  readonly ringSpace: AddressSpace
  /** Begins to shadow, from where the guest's ring says that it stands. */
  takeSteps(isLate: boolean): Steps<void>
  /** A ring of the shadow made of the books of the last one. */
  restoreSteps(restore: QueueSnapshot, isLate: boolean): Steps<DeviceQueue>
}

/** One shadow's part in the recoveries of its device. */
export class ShadowRecovery {
  readonly #shadow: RecoveringShadow
  // To be begun anew by the recovery that is under way.
  #isAnew = false

  constructor(shadow: RecoveringShadow) {
    this.#shadow = shadow
  }

  /**
   * The ring on a device that was halted is ended; what the device used is the guest's, and the books are kept for rejoinSteps(). A ring of ours that the device broke is begun
   * anew where the guest's shows what is in flight. False where neither can be: the shadowing has ended then, as at a reset.
   */
  *partSteps(): Steps<boolean> {
    const served = this.#shadow.served()
    if (served === undefined) return false
    served.forwarder.collect()
    if (served.forwarder.isWhole) yield* served.partSteps()
    else {
      this.#isAnew = served.queue.ring.isBroken && !served.guest.ring.isBroken && served.forwarder.isInOrder
      yield* served.queue.endSteps()
    }
    return this.#isAnew || served.saved !== undefined
  }

  /** Where the memory of the ring that partSteps() ended is to be again. */
  get savedPlace(): { readonly space: AddressSpace; readonly iova: bigint; readonly memory: MemoryRegion } | undefined {
    const saved = this.#shadow.served()?.saved
    return saved === undefined ? undefined : { space: this.#shadow.ringSpace, iova: saved.iova, memory: saved.memory }
  }

  /** The device gets a ring with all that it had not answered. `isLate`: who asks enables it. */
  *rejoinSteps(isLate: boolean): Steps<void> {
    if (this.#isAnew) return yield* this.#shadow.takeSteps(isLate)
    const served = this.#shadow.served()
    const saved = served?.saved
    if (served === undefined || saved === undefined) return
    served.rejoin(yield* this.#shadow.restoreSteps(saved, isLate))
  }

  /** The device runs with what rejoinSteps() gave it. A shadow that was paused stays so. */
  workAgain(): void {
    const { forwarder, queue } = this.#shadow.served() ?? {}
    if (forwarder === undefined || queue === undefined) return
    if (queue.ring.inFlight > 0) queue.kick()
    if (this.#isAnew) forwarder.goOn()
    else forwarder.work()
    this.#isAnew = false
  }

  /** Nobody goes on with what partSteps() kept: the shadowing has ended, as at a reset. */
  giveUp(): void {
    this.#isAnew = false
    const served = this.#shadow.served()
    if (served?.saved === undefined) return
    served.giveUp(this.#shadow.device.takesOver(served.saved.memory))
  }
}
