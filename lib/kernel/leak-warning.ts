// Tells the developer about things that the garbage collector met before anybody closed them. It closes nothing: the addon does, when it is safe.

/**
 * What was left open. A function is called when the object was collected; it must not be able to reach the object, so make it in a function of
 * its own: closures of one scope share what any of them refers to, `this` included.
 */
export type LeakSentence = string | (() => string)

const registry = new FinalizationRegistry<LeakSentence>((sentence) => {
  const text = typeof sentence === 'string' ? sentence : sentence()
  process.emitWarning(text, { type: 'VdpaWarning', code: 'VDPA_NOT_CLOSED' })
})

/** Emits a process warning if `object` is collected before the returned function was called. */
export function warnIfCollected(object: object, sentence: LeakSentence): () => void {
  const token = {}
  registry.register(object, sentence, token)
  return () => void registry.unregister(token)
}
