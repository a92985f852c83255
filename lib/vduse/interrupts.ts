// Interrupts on their way to a device's driver. The kernel takes none until it has heard that DRIVER_OK is done: what comes earlier is owed.

import type { DeviceNode } from './nodes.js'

/** Milliseconds until an interrupt is tried again which the kernel did not take yet. */
const INTERVAL = 1

/** Those of one device. */
export class Interrupts {
  readonly #owed = new Set<number>()
  #owesConfig = false
  #timer: NodeJS.Timeout | undefined
  #areHeld = false
  #open: DeviceNode | undefined
  readonly #told: <T>(call: () => T) => T | undefined

  /** `told` tells who serves what a call of the kernel's was refused with, and returns undefined then. */
  constructor(told: <T>(call: () => T) => T | undefined) {
    this.#told = told
  }

  /** The node that takes them from now on. */
  open(node: DeviceNode): void {
    this.#open = node
  }

  get #node(): DeviceNode {
    if (this.#open === undefined) throw new Error('the device has no node yet')
    return this.#open
  }

  /** Says that a queue has something for its driver. */
  ofQueue(index: number): void {
    if (this.#areHeld || this.#isTaken(index)) return
    this.#owed.add(index)
    this.#payLater()
  }

  /** Says that the configuration is another one. It is owed where the driver `isRunning`: others read it anyhow. */
  ofConfig(isRunning: boolean): void {
    if (this.#areHeld || this.#isConfigTaken() || !isRunning) return
    this.#owesConfig = true
    this.#payLater()
  }

  /** A queue that ended owes none. */
  forget(index: number): void {
    this.#owed.delete(index)
  }

  /** None is tried until clear(): the kernel takes none of a device that is suspended. */
  hold(): void {
    this.clear()
    this.#areHeld = true
  }

  /** None is owed, and none is held. */
  clear(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#owed.clear()
    this.#owesConfig = this.#areHeld = false
  }

  /** Tries one: false when the kernel takes none yet. One that it refuses otherwise will never be taken. */
  #isTaken(index: number): boolean {
    return this.#told(() => this.#node.interrupt(index)) !== false
  }

  #isConfigTaken(): boolean {
    return this.#told(() => this.#node.interruptConfig()) !== false
  }

  #payLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      for (const index of [...this.#owed]) if (this.#isTaken(index)) this.#owed.delete(index)
      this.#owesConfig &&= !this.#isConfigTaken()
      if (this.#owed.size > 0 || this.#owesConfig) this.#payLater()
    }, INTERVAL)
  }
}
