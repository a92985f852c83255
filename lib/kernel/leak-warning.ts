// Tells the developer about things that the garbage collector met before anybody closed them. It closes nothing: the addon does, when it is safe.

/** Says what was left open; evaluated when it was collected, so it must not refer to the object. */
export type LeakSentence = () => string

const registry = new FinalizationRegistry<LeakSentence>((sentence) => {
  process.emitWarning(sentence(), { type: 'VdpaWarning', code: 'VDPA_NOT_CLOSED' })
})

/** Emits a process warning if `object` is collected before the returned function was called. */
export function warnIfCollected(object: object, sentence: LeakSentence): () => void {
  const token = {}
  registry.register(object, sentence, token)
  return () => void registry.unregister(token)
}
