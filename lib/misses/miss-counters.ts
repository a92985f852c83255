// What a miss server counts.

/** What has happened to the misses of a device, counted since the server was made. */
export interface MissCounters {
  /** Misses that were read, duplicates included. */
  readonly misses: number
  /** Those among them that asked what was being looked up already, and share its answer. */
  readonly joined: number
  /** Translations that the device was given, those of prefetch() included. */
  readonly updates: number
  /** Times that there was none to give, for whatever reason. */
  readonly faults: number
  /** Answers that came after their time, and were given to the device all the same. */
  readonly late: number
  /** Answers that came a second time, or after they were given up, and were not looked at. */
  readonly repeated: number
  /** Answers that an invalidation, or a retry(), overtook; they were asked for again. */
  readonly stale: number
  /** Invalidations that the device took. */
  readonly invalidations: number
}

export type MutableMissCounters = { -readonly [Name in keyof MissCounters]: number }

export function newMissCounters(): MutableMissCounters {
  return { misses: 0, joined: 0, updates: 0, faults: 0, late: 0, repeated: 0, stale: 0, invalidations: 0 }
}
