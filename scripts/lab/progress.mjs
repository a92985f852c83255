// What the lab tells a person while it works, and the one error it ends with. Output of the guest's command does not pass here.

const started = performance.now()

/** Exit codes of the lab itself; every other code is the guest command's own. */
export const exitCodes = { checkoutFailed: 1, cannotRun: 2, machineFailed: 3, timeLimit: 124 }

/** Prints one line with the seconds since the start, on stderr so that stdout stays the guest's. */
export function report(text) {
  const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(5)
  process.stderr.write(`[lab ${seconds} s] ${text}\n`)
}

/** A reason to stop, in a sentence a person can act on, with the exit code of the whole run. */
export function labError(exitCode, message, cause) {
  return Object.assign(new Error(message, { cause }), { exitCode })
}
