// Two backends, the same random sequences, and the first difference between their answers, shrunk and in words.

import fc from 'fast-check'
import type { Backend } from '../../lib/backend/backend.js'
import { printEvent } from '../../lib/backend/print-event.js'
import { RecordingBackend } from '../../lib/backend/recording-backend.js'
import { carryOut, sequences, stepsOf, type Answers, type Sequence, type Subject } from './sequence.js'
import type { Step } from './steps.js'
import { clear, furnish, type Furniture } from './world.js'

/** One of the two. */
export interface Side {
  readonly name: string
  readonly path: string
  /** A backend for each sequence, with a device as it is at first. */
  readonly backend: () => Backend
  /** One backend for all sequences: for a device that cannot be made anew. */
  readonly isKept?: boolean
}

export interface Comparison {
  readonly sides: readonly [Side, Side]
  readonly subject: Subject
  readonly seed: number
  readonly runs: number
}

export interface Found {
  /** The shortest sequence that was found, and both answers, in words. */
  readonly text: string
  readonly sequence: Sequence
  /** How many steps it has. */
  readonly steps: number
}

export interface Report {
  readonly sequences: number
  readonly requests: number
  /** Of the shortest sequence, without what prepares and looks. */
  readonly fewestRequests: number
  readonly found: Found | undefined
}

/** What one side keeps from sequence to sequence. */
class Player {
  readonly side: Side
  #kept: Furniture | undefined

  constructor(side: Side) {
    this.side = side
  }

  play(steps: readonly Step[], subject: Subject): Answers {
    if (this.side.isKept === true) {
      this.#kept ??= furnish(this.side.backend(), this.side.path)
      return carryOut(this.#kept, steps, subject)
    }
    const furniture = furnish(this.side.backend(), this.side.path)
    try {
      return carryOut(furniture, steps, subject)
    } finally {
      clear(furniture)
    }
  }

  close(): void {
    if (this.#kept !== undefined) clear(this.#kept)
    this.#kept = undefined
  }
}

function differ(one: readonly string[], other: readonly string[]): boolean {
  return one.some((answer, index) => answer !== other[index]) || one.length !== other.length
}

/** Runs sequences until the answers differ. A seed gives the same sequences each time. */
export function compare({ sides, subject, seed, runs }: Comparison): Report {
  const [first, second] = [new Player(sides[0]), new Player(sides[1])]
  const limit = Error.stackTraceLimit
  // Every refusal is an error that is made; where it came from is of no interest.
  Error.stackTraceLimit = 0
  const counts = { sequences: 0, requests: 0, fewestRequests: Infinity }
  try {
    const property = fc.property(sequences, (sequence) => {
      const steps = stepsOf(sequence, subject)
      const [one, other] = [first.play(steps, subject), second.play(steps, subject)]
      counts.sequences++
      counts.requests += one.requests
      counts.fewestRequests = Math.min(counts.fewestRequests, steps.length)
      return !differ(one.steps, other.steps) && !differ(one.state, other.state)
    })
    const details = fc.check(property, { seed, numRuns: runs })
    // A difference is an answer of false; anything that was thrown is a mistake of the test.
    const cause = details.errorInstance as Error | null
    if (cause !== null && !cause.message.includes('by returning false')) throw cause
    const sequence = details.counterexample?.[0]
    if (sequence === undefined) return { ...counts, found: undefined }
    return { ...counts, found: tell(sides, subject, sequence) }
  } finally {
    Error.stackTraceLimit = limit
    for (const player of [first, second]) player.close()
  }
}

/**
 * The sequence on both sides once more, recorded: what was asked and came, a line a call, and at the end what was seen otherwise. `!` marks differences.
 */
function tell(sides: readonly [Side, Side], subject: Subject, sequence: Sequence): Found {
  const steps = stepsOf(sequence, subject)
  const [one, other] = [record(sides[0], steps, subject), record(sides[1], steps, subject)]
  const width = Math.max(sides[0].name.length, sides[1].name.length)
  const lines = one.flatMap((line, index) => {
    const opposite = other[index] ?? { text: 'nothing', isStep: true }
    if (line.text === opposite.text) return line.isStep ? [`  ${line.text}`] : []
    return [`! ${sides[0].name.padEnd(width)}: ${line.text}`, `! ${sides[1].name.padEnd(width)}: ${opposite.text}`]
  })
  return { text: ['', ...lines].join('\n'), sequence, steps: steps.length }
}

interface Line {
  readonly text: string
  /** It belongs to the sequence, not to what prepares it or looks at its end. */
  readonly isStep: boolean
}

function record(side: Side, steps: readonly Step[], subject: Subject): Line[] {
  const backend = new RecordingBackend(side.backend())
  const marks: number[] = []
  const furniture = furnish(backend, side.path)
  try {
    carryOut(furniture, steps, subject, () => void marks.push(backend.trace.events.length))
  } finally {
    clear(furniture)
  }
  const [first = 0, last = 0] = [marks[0], marks[steps.length]]
  return backend.trace.events.map((event, index) => {
    // The array for arguments is longer than any of them: zeros behind what a request moves are of no interest.
    const text = printEvent(event)
      .replaceAll(side.path, '')
      .replaceAll(/(00){16,}… \d+ more bytes/g, '…')
    return { text: text.replaceAll(/ +/g, ' ').replaceAll(' 0… ', ' '), isStep: index >= first && index < last }
  })
}
