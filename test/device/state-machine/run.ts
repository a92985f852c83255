// One sequence, twice: with await, against the oracle after each verb; and without, which must come to the same.

import { CONTROL, serve } from './oracle-control.js'
import { carryOut, mayBeAfterRefusal, newOracle, type Oracle } from './oracle.js'
import { among, same } from './same.js'
import { World, type Known } from './world.js'
import type { Sequence, Verb } from './verbs.js'

/** Runs it; says how often the policy of a guest's commands threw. */
export async function runSequence({ persists, batches }: Sequence): Promise<number> {
  const [awaited, atOnce] = [await World.make(persists), await World.make(persists)]
  const oracle = newOracle(persists)
  let isApart = false
  for (const batch of batches) {
    const { faults, verbs } = batch
    awaited.plant(faults)
    atOnce.plant(faults)
    await awaited.ready(batch)
    await atOnce.ready(batch)
    oracle.target = awaited.target
    oracle.hasMoved = false
    const [known, knownAtOnce] = [awaited.known, atOnce.known]
    const { hits } = awaited
    const answers: string[] = []
    for (const verb of verbs) answers.push(await step(awaited, oracle, verb, known))
    const others = await Promise.all(verbs.map((verb) => atOnce.carryOut(verb, knownAtOnce)))
    // A control queue of which not all could be made is closed behind what was asked for meanwhile, and a move's target takes its turns beside the source's: where a call was refused there, the
    // two may find other places, and other refusals, from then on.
    isApart ||= awaited.hits > hits && verbs.some(({ verb }) => besides.includes(verb))
    // Who closes a device does not wait for what a control queue has to be told: who asked for that before is told that it was closed.
    isApart ||= awaited.talks && isClosedWhileTelling(verbs)
    if (!isApart) {
      sameAnswers(verbs, others, answers)
      compare(atOnce, awaited)
    }
    atOnce.check(!isApart && !oracle.isDoubtful)
  }
  await awaited.end()
  await atOnce.end()
  return [awaited, atOnce].reduce((sum, world) => sum + (world.talks ? world.talker.thrown : 0), 0)
}

/** Verbs of which a part does not come in the order of the device. */
const besides: readonly Verb['verb'][] = ['startControl', 'disposeControl', 'prepareMove', 'finish', 'abandon']

function isClosedWhileTelling(verbs: readonly Verb[]): boolean {
  const first = verbs.findIndex(({ verb }) => verb === 'recover' || verb === 'finish')
  return first >= 0 && verbs.slice(first).some(({ verb }) => verb === 'close')
}

/** Attaching a guest is no procedure of the device: it is done at the call, whatever was asked for before. */
function sameAnswers(verbs: readonly Verb[], others: readonly string[], answers: readonly string[]): void {
  const ofProcedures = (answer: string, at: number) => {
    const verb = verbs[at] as Verb
    if (verb.verb === 'attachControl') return ''
    // A target that is in use, or that a move which was given up has closed: that is decided on the target.
    if (verb.verb === 'prepareMove' && answer !== 'ok') return 'refused'
    // A device that a procedure before it has closed, or a call that was canceled before its turn: which of the two is met first.
    return 'isAborted' in verb && verb.isAborted && answer === 'ERR_VDPA_CLOSED' ? 'ERR_VDPA_CANCELED' : answer
  }
  same(others.map(ofProcedures), answers.map(ofProcedures))
}

/** The two have come to the same; how many of a guest's commands came before and after which verb is a matter of time. */
function compare(atOnce: World, awaited: World): void {
  same(atOnce.device.state, awaited.device.state)
  same(
    atOnce.queues.map((queue) => queue.isClosed),
    awaited.queues.map((queue) => queue.isClosed),
  )
  same(atOnce.guest.books, awaited.guest.books)
  same(atOnce.controlBooks, awaited.controlBooks)
  same(dumpOf(atOnce), dumpOf(awaited))
}

function dumpOf({ simulator, talks }: World): unknown {
  const nodes = simulator.dump()
  if (!talks) return nodes
  const withoutPosition = <Q extends { readonly index: number }>(queue: Q) =>
    queue.index === CONTROL ? { ...queue, state: undefined } : queue
  return nodes.map((node) => ({ ...node, queues: node.queues.map(withoutPosition) }))
}

async function step(world: World, oracle: Oracle, verb: Verb, known: Known): Promise<string> {
  const before = oracle.state
  const hits = world.hits
  const after = structuredClone(oracle)
  const { queues, controls, moves } = known
  const expected = carryOut(after, verb, {
    queues: queues.length,
    controls: controls.length,
    moves: moves.length,
  })
  const isEnded = 'queue' in verb && queues.at(-1 - verb.queue)?.isClosed === true
  const isControlEnded =
    (verb.verb === 'closeControl' || verb.verb === 'disposeControl') && controls.at(-1)?.isClosed === true
  const answer = await world.carryOut(verb, known)
  // Who closes again waits for the same end, and hears of the same failures.
  const isShadowEnded = 'shadow' in verb && (before === 'closed' || oracle.shadows[verb.shadow]?.isClosed === true)
  const isClosedAgain = isEnded || isShadowEnded || isControlEnded || (before === 'closed' && verb.verb === 'close')
  if (world.hits > hits || oracle.isDoubtful || isClosedAgain) {
    // A refusal may be of no consequence: a device that is closed, or that lacks what was asked.
    const mayBe = mayBeAfterRefusal(before, verb)
    among([world.device.state], answer === 'ok' ? [after.state, ...mayBe] : mayBe)
    // What is mapped may be behind where messages were refused, or more than one call, in a reset as well: until one is not.
    const wasSure = !oracle.isDoubtful || before !== 'claimed' || (verb.verb === 'reset' && answer === 'ok')
    const isSure = wasSure && answer !== 'ERR_VDPA_REFUSED' && world.hits - hits <= 1
    follow(oracle, world, after, isSure)
    oracle.hasMoved = world.device !== known.device
  } else {
    same(answer, expected)
    if (world.talks) await listen(after, world)
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

/** The guest's commands come to where the oracle says. */
async function listen(oracle: Oracle, world: World): Promise<void> {
  const { commands } = oracle
  if (commands.isEnding) hear(oracle, world)
  commands.isEnding = false
  serve(oracle)
  await world.untilAnswered(commands.acks.length)
  same(world.talker.acks, commands.acks)
  same(
    world.controlBooks,
    oracle.controls.map(({ isOpen, isDisposed }) => ({ isOpen, isDisposed: isOpen && isDisposed })),
  )
  same(world.serving, oracle.serving)
}

/** What was answered is believed. */
function hear({ commands }: Oracle, { talker }: World): void {
  commands.acks = [...talker.acks]
  commands.waiting = [...talker.waiting]
}

/** What a refused call left behind is believed, as far as it may be. */
function follow(oracle: Oracle, world: World, after: Oracle, isSure: boolean): void {
  const { state } = world.device
  const isNew = state === 'claimed' && isSure && !world.isSpoiled
  oracle.isDoubtful = !isNew && state !== 'closed'
  oracle.needsReset = !isNew && (oracle.needsReset || after.needsReset)
  oracle.state = state
  oracle.queues.splice(0, Infinity, ...world.queues.map(({ index, isClosed }) => ({ index, isOpen: !isClosed })))
  oracle.shadows.splice(0, Infinity, ...world.guest.books)
  oracle.controls = world.controlBooks
  oracle.serving = world.serving
  oracle.target = world.target
  oracle.moves = after.moves
  if (world.talks) hear(oracle, world)
  oracle.mapped.clear()
  for (const slot of world.mapped) oracle.mapped.add(slot)
}
