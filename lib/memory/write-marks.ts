// Where those who write to a guest's memory tell of it.

/** Where writes to a guest's memory are marked, each time after they were made. It never throws for what was written. */
export interface WriteMarks {
  /** `length` bytes at a guest address. */
  mark(address: number, length: number): void
}
