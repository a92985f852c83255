// How tests wait for what another process, thread, guest, kernel or turn of the event loop brings about: for the state, and not for a time.

/**
 * Resolves once `isSo`, which is asked every few milliseconds. Rejects after three minutes, or `milliseconds`: the limit is for what never comes, however slow the
 * machine is.
 */
export async function until(isSo: () => boolean, milliseconds = 180_000): Promise<void> {
  const stack = new Error(`still not so after ${milliseconds} ms: ${isSo.toString()}`)
  const deadline = performance.now() + milliseconds
  while (!isSo()) {
    if (performance.now() > deadline) throw stack
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}
