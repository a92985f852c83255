// One sequence, twice: with await, against the oracle after each verb; and without, which must come to the same.

import { carryOut, mayBeAfterRefusal, newOracle, type Oracle } from './oracle.js'
import { among, same } from './same.js'
import { World } from './world.js'
import type { Sequence, Verb } from './verbs.js'

export async function runSequence({ persists, batches }: Sequence): Promise<void> {
  const [awaited, atOnce] = [await World.make(persists), await World.make(persists)]
  const oracle = newOracle(persists)
  for (const { faults, verbs } of batches) {
    awaited.plant(faults)
    atOnce.plant(faults)
    const [known, knownAtOnce] = [[...awaited.queues], [...atOnce.queues]]
    const answers: string[] = []
    for (const verb of verbs) answers.push(await step(awaited, oracle, verb, known))
    same(await Promise.all(verbs.map((verb) => atOnce.carryOut(verb, knownAtOnce))), answers)
    same(atOnce.device.state, awaited.device.state)
    same(
      atOnce.queues.map((queue) => queue.isClosed),
      awaited.queues.map((queue) => queue.isClosed),
    )
    same(atOnce.guest.books, awaited.guest.books)
    same(atOnce.simulator.dump(), awaited.simulator.dump())
    atOnce.check(!oracle.isDoubtful)
  }
  await awaited.end()
  await atOnce.end()
}

async function step(world: World, oracle: Oracle, verb: Verb, known: World['queues']): Promise<string> {
  const before = oracle.state
  const hits = world.hits
  const after = structuredClone(oracle)
  const expected = carryOut(after, verb, known.length)
  const isEnded = 'queue' in verb && known.at(-1 - verb.queue)?.isClosed === true
  const answer = await world.carryOut(verb, known)
  // Who closes again waits for the same end, and hears of the same failures.
  const isShadowEnded = 'shadow' in verb && (before === 'closed' || oracle.shadows[verb.shadow]?.isClosed === true)
  const isClosedAgain = 'queue' in verb ? isEnded : isShadowEnded || (before === 'closed' && verb.verb === 'close')
  if (world.hits > hits || oracle.isDoubtful || isClosedAgain) {
    // A refusal may be of no consequence: a device that is closed, or that lacks what was asked.
    const mayBe = mayBeAfterRefusal(before, verb)
    among([world.device.state], answer === 'ok' ? [after.state, ...mayBe] : mayBe)
    follow(oracle, world, after)
  } else {
    same(answer, expected)
    Object.assign(oracle, after)
    same(world.device.state, oracle.state)
    same(
      world.queues.map((queue) => !queue.isClosed),
      oracle.queues.map((queue) => queue.isOpen),
    )
    same(world.guest.books, oracle.shadows)
    same(world.mapped, [...oracle.mapped].sort())
  }
  world.check(!oracle.isDoubtful)
  return answer
}

/** What a refused call left behind is believed, as far as it may be. */
function follow(oracle: Oracle, world: World, after: Oracle): void {
  const { state } = world.device
  const isNew = state === 'claimed' && !world.isSpoiled
  oracle.isDoubtful = !isNew && state !== 'closed'
  oracle.needsReset = !isNew && (oracle.needsReset || after.needsReset)
  oracle.state = state
  oracle.queues.splice(0, Infinity, ...world.queues.map(({ index, isClosed }) => ({ index, isOpen: !isClosed })))
  oracle.shadows.splice(0, Infinity, ...world.guest.books)
  oracle.mapped.clear()
  for (const slot of world.mapped) oracle.mapped.add(slot)
}
