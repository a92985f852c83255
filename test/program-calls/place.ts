// A place where the package calls the program, as a row of the suite: how to make it called three times or more, and what the program may do from inside.

import type { SimulatorOptions } from '../../lib/simulator/index.js'
import type { SimulatedWorld } from '../sweep/simulated-world.js'

/** A function of the program: what it does is decided by the test. */
export type Program = () => void

/** The place, made. */
export interface Scene {
  /** Has the program called three times or more, and ends, well or badly, as the verb that it stands for. */
  readonly act: () => unknown
  /** The verbs of the object that calls, by name: each is tried from inside. */
  readonly verbs: Readonly<Record<string, () => unknown>>
  /** Ends the object, where it can be ended apart from its device. */
  readonly close?: () => unknown
  /** Ends the device, or what takes its place. */
  readonly closeDevice: () => unknown
  /** Frees what only the program knows of; may say what is left of it. */
  readonly end?: () => unknown
}

/** A row. */
export interface Place {
  readonly name: string
  /** What of the public interface takes the function, as covers.test.ts finds it; nothing where an event of Node does. */
  readonly covers: readonly string[]
  /**
   * Who hears what is thrown: who called us (`act`), 'uncaughtException' where nobody did, or either, where it depends on who comes first.
   */
  readonly heardBy: 'caller' | 'uncaught' | 'either'
  /** What the place does when its function throws: it goes on to the others (default), gives up what it was doing, or leaves it for another try. */
  readonly whenThrown?: 'gives up' | 'leaves it'
  readonly simulator?: SimulatorOptions
  readonly make: (world: SimulatedWorld, program: Program) => Promise<Scene>
}

/** Some turns of the event loop: interrupts come, and what they cause. */
export async function turns(count = 30): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}
