// For every place where the package calls the program: it throws at the first, the second and the last call, calls back into each verb, closes the object,
// closes the device. What is thrown is heard once, the rest is served, every promise settles, and nothing is left.

import { describe, expect, test } from '@jest/globals'
import type { Place, Scene } from './place.js'
import { places } from './places.js'
import { play, type Report } from './run.js'

/** How often the program is called where it does nothing. */
async function calm(place: Place): Promise<number> {
  const { calls, left } = await play(place)
  expect(left).toEqual([])
  expect(calls).toBeGreaterThanOrEqual(3)
  return calls
}

/** The verbs of a place, by name. */
async function verbsOf(place: Place): Promise<string[]> {
  let names: string[] = []
  const look = (scene: Scene) => void (names = Object.keys(scene.verbs))
  await play(place, { at: 1, verb: look })
  return names
}

function expectClean({ strange, left }: Report): void {
  expect(strange).toEqual([])
  expect(left).toEqual([])
}

describe.each(places)('$name', (place) => {
  test.each(['first', 'second', 'last'])('throws at the %s call', async (which) => {
    const calls = await calm(place)
    const at = { first: 1, second: 2 }[which] ?? calls
    const report = await play(place, { at, throws: true })
    const { caller, uncaught } = report.heard
    expect(caller + uncaught).toBe(1)
    if (place.heardBy !== 'either') expect(report.heard[place.heardBy]).toBe(1)
    if (place.whenThrown !== 'gives up') expect(report.calls).toBe(place.whenThrown === undefined ? calls : calls + 1)
    expectClean(report)
  })

  test.each(['returns', 'throws'])('calls each verb, and %s', async (end) => {
    for (const name of await verbsOf(place)) {
      const verb = (scene: Scene) => scene.verbs[name]?.()
      for (const at of [1, 3]) {
        const report = await play(place, { at, verb, throws: end === 'throws' })
        expect({ name, at, strange: report.strange, left: report.left }).toEqual({ name, at, strange: [], left: [] })
        if (end === 'throws' && report.calls >= at) {
          expect({ name, at, heard: report.heard.caller + report.heard.uncaught }).toEqual({ name, at, heard: 1 })
        }
      }
    }
  })

  test.each(['returns', 'throws'])('closes the object or the device, and %s', async (end) => {
    const closers = [(scene: Scene) => scene.close?.(), (scene: Scene) => scene.closeDevice()]
    for (const verb of closers)
      for (const at of [1, 2, 3]) expectClean(await play(place, { at, verb, throws: end === 'throws' }))
  })
})
