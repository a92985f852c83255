// The same traffic on the simulator and on another device that works by itself, and the first difference in what was seen.

import fc from 'fast-check'
import type { Backend } from '../../lib/backend/backend.js'
import type { Simulator } from '../../lib/simulator/index.js'
import { drive, movesOf, plans, type Kind, type Plan, type Settle } from './traffic.js'
import type { Subject } from './sequence.js'
import { clear, furnish, type Furniture } from './world.js'

/**
 * Milliseconds: how long a device that has not done what the simulator did is waited for, and how long one that should do nothing gets to do something. On a busy
 * machine a device may need longer than the quick pace allows; what differs then is looked at again at the slow one, which judges.
 */
interface Pace {
  readonly patience: number
  readonly quiet: number
}

const quick: Pace = { patience: 5000, quiet: 3 }
const slow: Pace = { patience: 10_000, quiet: 40 }

/**
 * Looks until a difference is one. The kernel itself is of two minds at times: RESUME kicks each queue, and its worker makes one turn of these kicks or two, as
 * it happens; where a lost chain ends a turn, that decides whether what is behind it waits. What the simulator does must be seen once.
 */
const paces: readonly Pace[] = [quick, slow, slow, slow]

export interface TrafficComparison {
  readonly subject: Subject
  readonly kind: Kind
  /** A new one, with the device as it is at first. */
  readonly simulator: () => { readonly backend: Simulator; readonly path: string }
  /** The other one. */
  readonly other: { readonly backend: Backend; readonly path: string; readonly settle?: Settle }
  readonly seed: number
  readonly runs: number
}

export interface TrafficReport {
  readonly sequences: number
  readonly moves: number
  readonly found: string | undefined
}

const sleep = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Looks until what is seen is what is expected, or patience ends. */
function waitFor(expected: readonly string[], { patience, quiet }: Pace): Settle {
  let hasFailed = false
  return async (observe, index) => {
    const wanted = expected[index]
    // A look that shows nothing new cannot show either that the device is done.
    if (wanted === expected[index - 1]) await sleep(quiet)
    const until = performance.now() + patience
    let seen = observe()
    // After a first difference every look would wait in vain.
    while (seen !== wanted && !hasFailed && performance.now() < until) {
      await sleep(0)
      seen = observe()
    }
    hasFailed ||= seen !== wanted
    return seen
  }
}

type Both = readonly [expected: readonly string[], came: readonly string[]]

async function both(comparison: TrafficComparison, plan: Plan, furniture: Furniture, pace: Pace): Promise<Both> {
  const { subject, kind, simulator, other } = comparison
  const { backend, path } = simulator()
  const looks: string[] = []
  const settle: Settle = (observe) => {
    backend.drain()
    looks.push(observe())
    return Promise.resolve(looks.at(-1) ?? '')
  }
  const own = furnish(backend, path)
  const expected = await drive(own, plan, { subject, kind, settle })
  clear(own)
  const came = await drive(furniture, plan, { subject, kind, settle: other.settle ?? waitFor(looks, pace) })
  return [expected, came]
}

/** Runs plans until something is seen otherwise. */
export async function compareTraffic(comparison: TrafficComparison): Promise<TrafficReport> {
  const { kind, other, seed, runs } = comparison
  const furniture = furnish(other.backend, other.path)
  const counts = { sequences: 0, moves: 0 }
  try {
    const property = fc.asyncProperty(plans, async (plan) => {
      counts.sequences++
      counts.moves += movesOf(plan, kind).length
      for (const pace of paces) if (isEqual(await both(comparison, plan, furniture, pace))) return true
      return false
    })
    const details = await fc.check(property, { seed, numRuns: runs })
    const cause = details.errorInstance as Error | null
    if (cause !== null && !cause.message.includes('by returning false')) throw cause
    const plan = details.counterexample?.[0]
    return { ...counts, found: plan && tell(...(await both(comparison, plan, furniture, slow))) }
  } finally {
    clear(furniture)
  }
}

function isEqual([expected, came]: Both): boolean {
  return expected.every((seen, index) => seen === came[index])
}

function tell(expected: readonly string[], came: readonly string[]): string {
  const lines = expected.slice(0, -1).flatMap((seen, index) => {
    const opposite = came[index] ?? ''
    return seen === opposite ? [`  ${seen}`] : [`! simulator: ${seen}`, `! other    : ${opposite}`]
  })
  const [memory, otherMemory] = [expected.at(-1) ?? '', came.at(-1) ?? '']
  const at = [...memory].findIndex((byte, index) => byte !== otherMemory[index])
  if (at < 0) return ['', ...lines, '  memory is equal'].join('\n')
  const bytes = (of: string) => Buffer.from(of.slice(at, at + 16), 'latin1').toString('hex')
  const place = `! memory from 0x${at.toString(16)} on`
  return ['', ...lines, `${place}: simulator ${bytes(memory)}, other ${bytes(otherMemory)}`].join('\n')
}
