// What the tests say of descriptors that were left open.

import { expect, it } from '@jest/globals'
import { closeSync, openSync } from 'node:fs'
import { leftOpen, openDescriptors } from './support'

it('is what was opened since, also under the number of one that was closed meanwhile', () => {
  const earlier = openSync('/dev/null', 'r')
  const before = openDescriptors()
  closeSync(earlier)
  expect(leftOpen(before)).toEqual([])
  const later = openSync('/dev/zero', 'r')
  expect(later).toBe(earlier)
  expect(leftOpen(before)).toEqual([expect.stringContaining('/dev/zero')])
  closeSync(later)
  expect(leftOpen(before)).toEqual([])
})
