// Where an open device stands, as far as we know, and the only place where that changes. Which verb may be called in which state is said by the verbs.

import { diagnostics, publish } from '../base/diagnostics.js'
import type { FeatureSet } from './feature-set.js'

/**
 * Where a device stands. `'claimed'`: it is ours, and reset. `'negotiated'`: FEATURES_OK. `'running'`: DRIVER_OK. `'suspended'`: its rings stand still.
 * `'lost'`: it was taken away, or refused its reset, and nothing is known of it; reset() may be tried, close() ends all the same. `'closing'` from close() on, `'closed'`
 * when that has ended.
 */
export type DeviceStateName = Phase | 'closing' | 'closed'

type Phase = 'claimed' | 'negotiated' | 'running' | 'suspended' | 'lost'

/** From where each phase may be reached. A reset leads back from everywhere, and a device may be lost at any time. */
const before: Readonly<Record<'negotiated' | 'running' | 'suspended', readonly Phase[]>> = {
  negotiated: ['claimed'],
  running: ['negotiated', 'running', 'suspended'],
  suspended: ['running', 'suspended'],
}

export class DeviceState {
  readonly #path: string
  #phase: Phase = 'claimed'
  #ending: 'closing' | 'closed' | undefined
  #features: FeatureSet | undefined
  #lostBy: unknown
  #resetReason: string | undefined
  readonly #onEnding = new Set<() => void>()

  constructor(path: string) {
    this.#path = path
  }

  /** As a user sees it. */
  get name(): DeviceStateName {
    return this.#ending ?? this.#phase
  }

  /** Where the device stands also while it is closing: what was asked for before close() goes on by this. */
  get phase(): Phase {
    return this.#phase
  }

  /** From close() on. */
  get isEnding(): boolean {
    return this.#ending !== undefined
  }

  get isClosed(): boolean {
    return this.#ending === 'closed'
  }

  /** Whether DRIVER_OK stands: the device may read and write its rings, or will again. */
  get hasDriverOk(): boolean {
    return this.#phase === 'running' || this.#phase === 'suspended'
  }

  /** What was negotiated, while FEATURES_OK stands. */
  get features(): FeatureSet | undefined {
    return this.#features
  }

  /** What showed that the device is lost. */
  get lostBy(): unknown {
    return this.#lostBy
  }

  /** Why nothing but a reset may follow, as a sentence; undefined when all is well. */
  get resetReason(): string | undefined {
    return this.#resetReason
  }

  /** Status 0 was taken. */
  reset(): void {
    this.#become('claimed')
    this.#features = undefined
    this.#lostBy = undefined
    this.#resetReason = undefined
  }

  negotiated(features: FeatureSet): void {
    this.#move('negotiated')
    this.#features = features
  }

  running(): void {
    this.#move('running')
  }

  suspended(): void {
    this.#move('suspended')
  }

  /** The first failure that showed it is kept. */
  lost(failure: unknown): void {
    if (this.#phase === 'lost') return
    this.#become('lost')
    this.#features = undefined
    this.#lostBy = failure
  }

  /** Something was done to the device that only a reset takes back. */
  needsReset(reason: string): void {
    this.#resetReason ??= reason
  }

  /** close() was called, for the first time or not. */
  beginClosing(): void {
    if (this.#ending !== undefined) return
    this.#end('closing')
    for (const listener of [...this.#onEnding]) listener()
  }

  /** For procedures that wait for the device: `listener` is called, once, when close() is, until the returned function is. */
  onEnding(listener: () => void): () => void {
    this.#onEnding.add(listener)
    return () => this.#onEnding.delete(listener)
  }

  closed(): void {
    this.#end('closed')
  }

  #end(ending: 'closing' | 'closed'): void {
    const from = this.name
    this.#ending = ending
    this.#tell(from)
  }

  #become(phase: Phase): void {
    const from = this.name
    this.#phase = phase
    this.#tell(from)
  }

  #tell(from: DeviceStateName): void {
    const to = this.name
    if (from !== to && diagnostics.state.hasSubscribers) publish(diagnostics.state, { path: this.#path, from, to })
  }

  #move(to: 'negotiated' | 'running' | 'suspended'): void {
    if (!before[to].includes(this.#phase)) throw new Error(`a device that is ${this.#phase} cannot become ${to}`)
    this.#become(to)
  }
}
