// Runs fuzz cases: from a seed, or from kept data; and makes a failing one small. Used by npm test and by scripts/fuzz-rings.mjs.

import { FuzzFailure, Random, type FuzzCase, type Step, type Subject } from './case.js'
import { DeviceSubject } from './device-subject.js'
import { DriverSubject } from './driver-subject.js'
import { HostileDevice, HostileDriver, randomOptions } from './generate.js'

export interface Result {
  readonly case: FuzzCase
  /** What was seen: `chain`, `taken`, `misuse`, the rules that were broken. */
  readonly outcomes: ReadonlySet<string>
  readonly failure: FuzzFailure | undefined
}

const ROUNDS = 24

/** The case of a seed, run. Equal seeds give equal cases, on every machine. */
export function runSeed(seed: number): Result {
  const random = new Random(seed)
  const options = randomOptions(random, random.pick(['driver', 'device'] as const))
  const steps: Step[] = []
  const percent = random.pick([0, 3, 10, 40])
  const rounds = 4 + random.below(ROUNDS)
  let subject: Subject | undefined
  const apply = (target: Subject, step: Step) => {
    steps.push(step)
    target.apply(step)
  }
  const failure = attempt(() => {
    if (options.side === 'device') {
      const target = new DeviceSubject(options)
      subject = target
      const hostile = new HostileDriver(random, options)
      for (let round = 0; round < rounds; round++) {
        for (const step of hostile.steps(target)) apply(target, step)
        if (random.chance(percent)) apply(target, hostile.bend())
      }
    } else {
      const target = new DriverSubject(options)
      subject = target
      const hostile = new HostileDevice(random, options)
      for (let round = 0; round < rounds; round++) {
        for (const step of hostile.steps(target)) apply(target, step)
        if (random.chance(percent)) apply(target, hostile.bend(target))
      }
    }
  })
  return { case: { note: `seed ${seed}`, options, steps }, outcomes: subject?.outcomes ?? new Set(), failure }
}

/** A case that was kept. */
export function runCase(kept: FuzzCase): Result {
  let subject: Subject | undefined
  const failure = attempt(() => {
    subject = kept.options.side === 'device' ? new DeviceSubject(kept.options) : new DriverSubject(kept.options)
    for (const step of kept.steps) subject.apply(step)
  })
  return { case: kept, outcomes: subject?.outcomes ?? new Set(), failure }
}

/** Anything that is thrown is a failure: a subject expects what it allows. */
function attempt(run: () => void): FuzzFailure | undefined {
  try {
    run()
    return undefined
  } catch (error) {
    return error instanceof FuzzFailure
      ? error
      : new FuzzFailure(`an error that nobody expected: ${String(error)}`, error)
  }
}

/** The same failure with as few steps as leaving out pieces can reach. `keeps` says whether a shorter case still shows what matters. */
export function shrink(found: FuzzCase, keeps: (shorter: FuzzCase) => boolean): FuzzCase {
  let { steps } = found
  if (!keeps(found)) return found
  for (let length = Math.ceil(steps.length / 2); length >= 1; length = length === 1 ? 0 : Math.ceil(length / 2)) {
    for (let first = 0; first < steps.length;) {
      const shorter = [...steps.slice(0, first), ...steps.slice(first + length)]
      if (keeps({ ...found, steps: shorter })) steps = shorter
      else first += length
    }
  }
  return { ...found, steps }
}

/** A failure as a person needs it: the seed, the sentence, and the line to add to corpus.jsonl. */
export function report({ case: found, failure }: Result): string {
  const small = shrink(found, (shorter) => runCase(shorter).failure !== undefined)
  const { failure: again } = runCase(small)
  const cause = failure?.cause instanceof Error ? `\n${failure.cause.stack ?? failure.cause.message}` : ''
  return `${found.note}: ${failure?.message ?? 'no failure'}${cause}\nshrunk to: ${again?.message ?? '?'}\nfor the corpus:\n${JSON.stringify(small)}`
}
