// For every verb of every public class: each system call of it refused in turn, by each class of errno, and nothing is left afterwards: nothing open, mapped
// without our knowing, held, or waited for. On any ground.

import { describe, expect, test } from '@jest/globals'
import type { ErrnoName } from '../../lib/uapi/errno.js'
import { rows as everyRow } from './rows.js'
import type { Row } from './steps.js'
import { settled, SweepWorld, type Ground } from './world.js'

/** No memory, no permission to go on, a device that broke, one that was taken away. */
export const everyCode: readonly ErrnoName[] = ['ENOMEM', 'EINVAL', 'EIO', 'ENODEV']
/** A call of the system that ends something does not fail for want of anything; it is what endings are made of. */
const endings: readonly string[] = ['close']
const MOST_CALLS = 400

/** The verb with its nth call refused; undefined when it makes no more than that. */
async function refuse(
  { before, act }: Row,
  nth: number,
  code: ErrnoName,
  ground: Ground,
): Promise<string[] | undefined> {
  const world = new SweepWorld(ground)
  for (const step of before) await step(world)
  const fault = world.backend.fail({ with: code, nth, when: ({ op }) => !endings.includes(op) })
  await settled(act(world).catch(() => undefined))
  fault.close()
  world.checkMaps()
  const left = await world.leftovers()
  return fault.hits === 0 && left.length === 0 ? undefined : left
}

/** How a ground is swept. */
export interface SweepOptions {
  readonly ground: () => Ground
  /** The errnos of a row, by its place in the table. */
  readonly codesOf: (index: number) => readonly ErrnoName[]
  /** Refuses every such call only: on a slow ground. Default 1: each. */
  readonly stride?: number
  /** The rows that are about what the ground has. Default: all. */
  readonly rows?: readonly Row[]
  /** Rows that this ground has the devices for; why not the others. */
  readonly lacks?: Readonly<Partial<Record<NonNullable<Row['needs']>, string>>>
}

/** Declares the tests of all rows. */
export function describeSweep({ ground, codesOf, stride = 1, rows = everyRow, lacks = {} }: SweepOptions): void {
  for (const [index, row] of rows.entries()) {
    const reason = row.needs === undefined ? undefined : lacks[row.needs]
    const declare = reason === undefined ? test : test.skip
    describe(reason === undefined ? row.verb : `${row.verb} (skipped: ${reason})`, () => {
      declare('goes well where nothing is refused', async () => {
        // Nothing is late here but a busy machine.
        const world = new SweepWorld(ground(), 60_000)
        for (const step of row.before) await step(world)
        await settled(row.act(world))
        world.checkMaps()
        expect(await world.leftovers()).toEqual([])
      })

      declare.each(codesOf(index))('with each of its calls refused by %s leaves nothing', async (code) => {
        const leftovers: string[] = []
        let nth = 1 + (index % stride)
        for (; nth <= MOST_CALLS; nth += stride) {
          const left = await refuse(row, nth, code, ground()).catch((failure: unknown) => {
            throw new Error(`call ${nth}`, { cause: failure })
          })
          if (left === undefined) break
          leftovers.push(...left.map((what) => `call ${nth}: ${what}`))
        }
        expect(leftovers).toEqual([])
        expect(nth).toBeLessThan(MOST_CALLS)
      })
    })
  }
}
