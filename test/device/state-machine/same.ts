// Comparing, many times over: the framework's own comparison is asked only for what it says of a difference.

import { isDeepStrictEqual } from 'node:util'
import { expect } from '@jest/globals'

export function same(actual: unknown, expected: unknown): void {
  if (!isDeepStrictEqual(actual, expected)) expect(actual).toStrictEqual(expected)
}

/** Whether all of `some` are among `all`. */
export function among<T>(some: readonly T[], all: readonly T[]): void {
  if (!some.every((one) => all.includes(one))) expect(all).toEqual(expect.arrayContaining([...some]))
}
