// For every verb of every public class: each system call of it refused in turn, by each class of errno, and nothing is left afterwards: nothing open, mapped
// without our knowing, held, or waited for.

import { describe, expect, test } from '@jest/globals'
import type { ErrnoName } from '../../lib/uapi/errno.js'
import { rows, type Row } from './rows.js'
import { settled, SweepWorld } from './world.js'

/** No memory, no permission to go on, a device that broke, one that was taken away. */
const codes: readonly ErrnoName[] = ['ENOMEM', 'EINVAL', 'EIO', 'ENODEV']
/** A call of the system that ends something does not fail for want of anything; it is what endings are made of. */
const endings: readonly string[] = ['close']
const MOST_CALLS = 400

/** The verb with its nth call refused; undefined when it makes no more than that. */
async function refuse({ before, act }: Row, nth: number, code: ErrnoName): Promise<string[] | undefined> {
  const world = new SweepWorld()
  for (const step of before) await step(world)
  const fault = world.backend.fail({ with: code, nth, when: ({ op }) => !endings.includes(op) })
  await settled(act(world).catch(() => undefined))
  fault.close()
  world.checkMaps()
  const left = await world.leftovers()
  return fault.hits === 0 && left.length === 0 ? undefined : left
}

describe.each(rows)('$verb', (row) => {
  test('goes well where nothing is refused', async () => {
    const world = new SweepWorld()
    for (const step of row.before) await step(world)
    await settled(row.act(world))
    world.checkMaps()
    expect(await world.leftovers()).toEqual([])
  })

  test.each(codes)(
    'with each of its calls refused by %s leaves nothing',
    async (code) => {
      const leftovers: string[] = []
      let nth = 1
      for (; nth <= MOST_CALLS; nth++) {
        const left = await refuse(row, nth, code).catch((failure: unknown) => {
          throw new Error(`call ${nth}`, { cause: failure })
        })
        if (left === undefined) break
        leftovers.push(...left.map((what) => `call ${nth}: ${what}`))
      }
      expect(leftovers).toEqual([])
      expect(nth).toBeLessThan(MOST_CALLS)
    },
    120_000,
  )
})
