// One call into the program that throws, calls back or closes, and what must hold afterwards, whatever it did.

import { expect, jest } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors.js'
import { SimulatedWorld } from '../sweep/simulated-world.js'
import { settled } from '../sweep/world.js'
import { until } from '../until.js'
import { turns, type Place, type Scene } from './place.js'

/** What the program does at one of its calls. */
export interface Deed {
  /** The call, counted from 1. */
  readonly at: number
  /** Tried from inside. Undefined: only what follows. */
  readonly verb?: (scene: Scene) => unknown
  readonly throws?: boolean
}

/** What came of it. */
export interface Report {
  /** Calls into the program. */
  readonly calls: number
  /** How often the caller, and 'uncaughtException', heard of what the program threw. */
  readonly heard: { readonly caller: number; readonly uncaught: number }
  /** What was thrown by a verb inside that is no answer of ours. */
  readonly strange: readonly unknown[]
  /** What is left when all was closed. */
  readonly left: readonly string[]
}

/** Plays a place; the program does `deed`. */
export async function play(place: Place, deed?: Deed): Promise<Report> {
  const world = new SimulatedWorld(place.simulator)
  const bug = new Error('a bug of the program')
  const strange: unknown[] = []
  const [byCaller, uncaught]: [unknown[], unknown[]] = [[], []]
  let calls = 0
  const timers = watchTimers()
  const program = () => {
    if (++calls !== deed?.at) return
    // Who closes what is closing already hears of the same failures.
    const isStrange = (failure: unknown) => failure !== bug && !isVdpaError(failure) && !(failure instanceof RangeError)
    const note = (failure: unknown) => void strange.push(...leaves(failure).filter(isStrange))
    if (deed.verb !== undefined) answer(world, note, () => deed.verb?.(scene))
    if (deed.throws === true) throw bug
  }
  const scene = await place.make(world, program)
  const before = calls
  calls = 0
  const spy = jest.spyOn(process, 'nextTick').mockImplementation((call: unknown) => {
    try {
      ;(call as () => void)()
    } catch (failure) {
      uncaught.push(failure)
    }
  })
  try {
    await settled(Promise.resolve().then(() => scene.act())).catch((failure: unknown) => byCaller.push(failure))
    await turns(5)
    // The program's verbs were not awaited, and may be under way.
    await until(() => world.unknownMaps().length === 0)
    const seen = calls
    const ownLeft = await Promise.resolve(scene.end?.()).catch(() => undefined)
    const left = await world.leftovers()
    if (Array.isArray(ownLeft)) left.push(...ownLeft.map(String))
    for (const timer of timers.left()) left.push(timer)
    expect(before).toBe(0)
    return { calls: seen, heard: { caller: count(byCaller, bug), uncaught: count(uncaught, bug) }, strange, left }
  } finally {
    spy.mockRestore()
    timers.close()
  }
}

/** A verb from inside is right or refused by name, and its promise settles. */
function answer(world: SimulatedWorld, note: (failure: unknown) => void, verb: () => unknown): void {
  try {
    const result = verb()
    if (result instanceof Promise) world.wait(result.catch(note))
  } catch (failure) {
    note(failure)
  }
}

function leaves(failure: unknown): unknown[] {
  const errors = (failure as Partial<AggregateError> | undefined)?.errors as unknown
  return Array.isArray(errors) ? errors.flatMap(leaves) : [failure]
}

function count(failures: readonly unknown[], bug: Error): number {
  return failures.flatMap(leaves).filter((failure) => failure === bug || (failure as Error | undefined)?.cause === bug)
    .length
}

/** Timers that keep the process alive: those that were made meanwhile, and neither fired nor were cleared. */
function watchTimers() {
  const alive = new Set<NodeJS.Timeout>()
  const { setTimeout: timeout, setInterval: interval, clearTimeout: clearOne, clearInterval: clearAll } = globalThis
  const forget = (clear: typeof clearOne) => (timer: NodeJS.Timeout) => {
    alive.delete(timer)
    clear(timer)
  }
  const made = (timer: NodeJS.Timeout) => {
    alive.add(timer)
    return timer
  }
  const own = {
    setTimeout: (work: () => void, delay: number) => {
      const timer = timeout(() => {
        alive.delete(timer)
        work()
      }, delay)
      return made(timer)
    },
    setInterval: (work: () => void, delay: number) => made(interval(work, delay)),
    clearTimeout: forget(clearOne),
    clearInterval: forget(clearAll),
  }
  Object.assign(globalThis, own)
  return {
    left: () => [...alive].filter((timer) => timer.hasRef()).map(() => 'a timer'),
    close: () =>
      void Object.assign(globalThis, {
        setTimeout: timeout,
        setInterval: interval,
        clearTimeout: clearOne,
        clearInterval: clearAll,
      }),
  }
}
