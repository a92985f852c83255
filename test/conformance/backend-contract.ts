// Every promise of lib/backend/backend.ts, as suites for any backend.

import { eventfdContract, netlinkContract } from './eventfd-contract.js'
import { openingContract, orderContract, requestContract } from './handle-contract.js'
import { adoptionContract, memoryContract } from './memory-contract.js'
import type { Suite } from './target.js'
import { writesContract } from './writes-contract.js'

export const backendContract: readonly Suite[] = [
  openingContract,
  requestContract,
  orderContract,
  writesContract,
  memoryContract,
  adoptionContract,
  eventfdContract,
  netlinkContract,
]

/** The names of the tests of one suite, for skipping them all. */
export function testsOf(suite: Suite): string[] {
  return Object.keys(suite.tests)
}
