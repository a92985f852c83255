// What the words of a command have of the run that they are in.

import type { Host } from './host.js'
import type { Paint, Report, Sink } from './output.js'

/** Options of every command. */
export interface SharedOptions {
  readonly json?: boolean
  readonly simulator?: boolean
}

/** What a command that speaks while it works has. */
export interface Stage {
  /** Where its words go. */
  readonly stdout: Sink
  /** Where it says what went wrong while it goes on. */
  readonly stderr: Sink
  /** Environment variables: whether a terminal can be drawn on. */
  readonly environment: NodeJS.ProcessEnv
  /** From now on an interrupt aborts this and does not end the process; a second one does. */
  readonly interrupt: () => AbortSignal
}

/** Runs the work of a command and says what came of it; undefined where that was said already. */
export type Perform = (
  options: SharedOptions,
  work: (host: Host, paint: Paint, stage: Stage) => Promise<Report | undefined>,
) => Promise<void>
