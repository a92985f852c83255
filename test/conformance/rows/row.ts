// Rows: single facts of a published list, each a test of its own that is named after its number, run on every device that can show it.

import { describe, expect, test } from '@jest/globals'
import { describeConformance, type Suite, type Target } from '../target.js'
import { Bench } from './bench.js'
import { needs, type DeviceFacts, type Need } from './facts.js'

/** One entry of a list. */
export interface Row {
  /** What is so, as a sentence. */
  readonly title: string
  /** What a device or its world must have to show it. */
  readonly needs?: readonly Need[]
  readonly run: (bench: Bench) => void | Promise<void>
}

/** A list: its rows by their numbers. `prefix` stands before the number in a test's name. */
export interface RowList {
  readonly title: string
  readonly prefix: string
  readonly rows: Readonly<Record<number, Row>>
}

/** A device that rows run on. */
export interface RowTarget {
  readonly facts: DeviceFacts
  readonly world: Target['world']
  readonly path: () => string
}

/** The first thing that a device lacks for a row, as a sentence; undefined when the row runs there. */
export function reasonToSkip(row: Row, facts: DeviceFacts): string | undefined {
  const missing = row.needs?.find((need) => !needs[need].isMet(facts))
  return missing === undefined ? undefined : needs[missing].otherwise
}

/** Defines the tests of all rows on a device. */
export function describeRows(target: RowTarget, lists: readonly RowList[]): void {
  const { facts } = target
  const skips = new Map<string, string[]>()
  const suites = lists.map(({ title, prefix, rows }): Suite => {
    const tests: Record<string, Suite['tests'][string]> = {}
    for (const [number, row] of Object.entries(rows)) {
      const name = nameOf(prefix, Number(number), row)
      const reason = reasonToSkip(row, facts)
      if (reason !== undefined) skips.set(reason, [...(skips.get(reason) ?? []), name])
      tests[name] = async (scene) => {
        await row.run(new Bench(scene, facts))
      }
    }
    return { title, tests }
  })
  const ran = describeConformance(
    {
      name: facts.name,
      world: target.world,
      nodes: { device: target.path },
      skips: [...skips].map(([reason, tests]) => ({ reason, tests })),
    },
    suites,
  )
  test(`on ${facts.name} the rows that have what they need are those that run`, () => {
    const expected = lists.flatMap(({ prefix, rows }) =>
      Object.entries(rows)
        .filter(([, row]) => reasonToSkip(row, facts) === undefined)
        .map(([number, row]) => nameOf(prefix, Number(number), row)),
    )
    expect(ran).toEqual(expected)
    expect(ran.length).toBeGreaterThan(0)
  })
}

/** How many rows each list has: a row that was forgotten, or was added and not counted, is a failure. */
export type RowCounts = Readonly<Record<string, number>>

/** Checks that no row is missing, and that each runs somewhere among the devices given. */
export function describeCompleteness(
  lists: readonly RowList[],
  counts: RowCounts,
  devices: readonly DeviceFacts[],
): void {
  describe('the lists of rows', () => {
    for (const { prefix, rows } of lists) {
      test(`${prefix} is whole`, () => {
        const numbers = Array.from({ length: counts[prefix] ?? 0 }, (_, index) => index + 1)
        expect(Object.keys(rows).map(Number)).toEqual(numbers)
      })
      test(`every row of ${prefix} runs on some device`, () => {
        const nowhere = Object.entries(rows)
          .filter(([, row]) => devices.every((facts) => reasonToSkip(row, facts) !== undefined))
          .map(([number, row]) => nameOf(prefix, Number(number), row))
        expect(nowhere).toEqual([])
      })
    }
    test('no list but those that are counted', () => {
      expect(lists.map(({ prefix }) => prefix).sort()).toEqual(Object.keys(counts).sort())
    })
  })
}

function nameOf(prefix: string, number: number, row: Row): string {
  return `${prefix} ${number}: ${row.title}`
}
