// What a network driver counts. Counters are plain numbers, exact to 2^53, and never go back.

/** What has gone through a driver so far, all pairs together. */
export interface NetCounters {
  /** Frames given to the device. */
  readonly sentFrames: number
  /** Their bytes, without headers. */
  readonly sentBytes: number
  /** Frames that were not taken because the transmit queue was full. */
  readonly refusedFrames: number
  /** Frames given to the program. */
  readonly receivedFrames: number
  /** Their bytes, without headers. */
  readonly receivedBytes: number
  /** Buffers that came back with no frame in them, and frames whose buffers did not come: the device's fault. */
  readonly droppedFrames: number
  /** Frames not given to the program because their header said what was not negotiated, or contradicted the frame. */
  readonly invalidFrames: number
  /** Used lengths above what the device could write: cut, and where it was a frame, it was dropped. */
  readonly overlongLengths: number
}

export type MutableNetCounters = { -readonly [Name in keyof NetCounters]: number }

export function newNetCounters(): MutableNetCounters {
  return {
    sentFrames: 0,
    sentBytes: 0,
    refusedFrames: 0,
    receivedFrames: 0,
    receivedBytes: 0,
    droppedFrames: 0,
    invalidFrames: 0,
    overlongLengths: 0,
  }
}
