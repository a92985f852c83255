// A change of one domain in the sinks of all its endpoints, or of none.

import type { Steps } from '../base/steps.js'
import type { Domain } from './domain.js'
import type { Endpoint } from './endpoint.js'
import { inverse, type PieceChange } from './pieces.js'

/** What only the device knows. */
export interface WaysOfSinks {
  /** Brings a sink to what it is to have now. */
  bring(endpoint: Endpoint): Steps<void>
  /** Told of what goes wrong on the way back. */
  report(failure: unknown): void
}

/**
 * Makes a change that is in the domain's books in all its endpoints, one after another, or in none: then the refusal is thrown. What cannot be taken back is mended by the endpoint's
 * next change.
 */
export function* everywhere(domain: Domain, change: PieceChange, ways: WaysOfSinks): Steps<void> {
  const done: Endpoint[] = []
  for (const endpoint of domain.endpoints) {
    domain.show(endpoint, true)
    try {
      if (endpoint.isAstray) yield* ways.bring(endpoint)
      else yield* endpoint.apply(change)
    } catch (failure) {
      domain.show(endpoint, false)
      for (const other of done.reverse()) {
        domain.show(other, false)
        yield* takeBack(other, inverse(change), ways)
      }
      throw failure
    }
    done.push(endpoint)
  }
}

function* takeBack(endpoint: Endpoint, back: PieceChange, ways: WaysOfSinks): Steps<void> {
  try {
    yield* endpoint.apply(back)
  } catch (failure) {
    endpoint.isAstray = true
    ways.report(failure)
  }
}
