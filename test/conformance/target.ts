// What a conformance suite runs on, and how it is told what to leave out: targets and skips are data, and a skip that fits no test is a failure.

import { describe, expect, test } from '@jest/globals'
import type { Backend, Eventfd, Handle } from '../../lib/backend/backend.js'
import { CloseStack } from '../../lib/base/closeable.js'
import type { AllocateOptions, MemoryRegion } from '../../lib/memory/memory-region.js'
import type { DeviceOps } from '../../lib/models/device-ops.js'

/** The nodes that a target may have. */
export type NodeName = 'network' | 'block' | 'doorbell' | 'device'

/** Memory as another program would pass it. */
export interface ForeignMemory {
  readonly fd: number
  close(): void
}

/** A backend, and what a test needs beside it that is no part of the seam. */
export interface World {
  readonly backend: Backend
  /** Opens a node as another program would, and gives the bare descriptor. */
  openDescriptor(path: string): number
  foreignMemory(length: number): ForeignMemory
  /** The address of memory of this process that is no region: what a Buffer's bytes lie in. */
  readonly privateAddress?: () => bigint
  /** Gives a device that a test made a node; absent where devices are what they are. */
  readonly add?: (device: DeviceOps) => string
}

/** Tests that cannot run on a target, by their full names, and why: a sentence that a person can act on. */
export interface Skip {
  readonly reason: string
  readonly tests: readonly string[]
}

/** Where suites run. */
export interface Target {
  readonly name: string
  /** Called for each test. */
  readonly world: () => World
  /** Paths are asked for in the test, so that one that is not there fails it. */
  readonly nodes: Readonly<Partial<Record<NodeName, () => string>>>
  readonly skips: readonly Skip[]
}

/** Tests of one subject. */
export interface Suite {
  readonly title: string
  readonly tests: Readonly<Record<string, (scene: Scene) => void | Promise<void>>>
}

/** What one test has in its hands. What it opened is closed when it ends. */
export class Scene {
  readonly #world: World
  readonly #target: Target
  readonly #ends = new CloseStack()
  /** Memory goes last, because devices hold it. */
  readonly #memory = new CloseStack()

  constructor(target: Target) {
    this.#target = target
    this.#world = target.world()
  }

  get backend(): Backend {
    return this.#world.backend
  }

  path(node: NodeName): string {
    const path = this.#target.nodes[node]
    if (path === undefined)
      throw new Error(`${this.#target.name} has no node '${node}': skip the test there, with a reason`)
    return path()
  }

  open(node: NodeName): Handle {
    return this.keep(this.backend.open(this.path(node)))
  }

  openDescriptor(node: NodeName): number {
    return this.#world.openDescriptor(this.path(node))
  }

  allocate(length: number, options?: AllocateOptions): MemoryRegion {
    const region = this.backend.allocate(length, options)
    this.#memory.push(() => region.close())
    return region
  }

  eventfd(fd?: number): Eventfd {
    return this.keep(this.backend.eventfd(fd))
  }

  foreignMemory(length: number): ForeignMemory {
    return this.keep(this.#world.foreignMemory(length))
  }

  privateAddress(): bigint {
    if (this.#world.privateAddress === undefined) throw new Error(`${this.#target.name} has no memory but regions`)
    return this.#world.privateAddress()
  }

  /** Gives a device that the test made a node, and says its path. */
  add(device: DeviceOps): string {
    if (this.#world.add === undefined)
      throw new Error(`${this.#target.name} takes no devices of a test's own: skip the test there, with a reason`)
    return this.#world.add(device)
  }

  /** Closes it at the end, if it is not closed then. */
  keep<T extends { close(): void | Promise<void> }>(what: T): T {
    this.#ends.push(() => what.close())
    return what
  }

  async end(): Promise<void> {
    try {
      await this.#ends.close()
    } finally {
      await this.#memory.close()
    }
  }
}

/** Defines the tests of all suites on a target. Returns the names of those that will run. */
export function describeConformance(target: Target, suites: readonly Suite[]): readonly string[] {
  const skipped = new Map(target.skips.flatMap(({ reason, tests }) => tests.map((name) => [name, reason] as const)))
  const names = new Set<string>()
  describe(`conformance of ${target.name}`, () => {
    for (const { title, tests } of suites) {
      describe(title, () => {
        for (const [name, body] of Object.entries(tests)) {
          names.add(name)
          define(target, name, body, skipped.get(name))
        }
      })
    }
    test('every skip is of a test that is there', () => {
      expect([...skipped.keys()].filter((name) => !names.has(name))).toEqual([])
    })
  })
  return [...names].filter((name) => !skipped.has(name))
}

function define(target: Target, name: string, body: Suite['tests'][string], reason: string | undefined): void {
  const run = async (): Promise<void> => {
    const scene = new Scene(target)
    try {
      await body(scene)
    } finally {
      await scene.end()
    }
  }
  const declare = reason === undefined ? test : test.skip
  declare(reason === undefined ? name : `${name} (skipped: ${reason})`, run)
}
