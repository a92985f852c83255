// Copies between guest memory and scratch areas: of headers mostly, and of whole frames at times.

/** Copies up to here by a loop, because a view would cost more than it saves. */
const LOOP_BYTES_LAST = 160

/** Copies `length` bytes; both arrays are long enough. */
export function copyBytes(source: Uint8Array, from: number, target: Uint8Array, to: number, length: number): void {
  if (length > LOOP_BYTES_LAST) target.set(source.subarray(from, from + length), to)
  else for (let index = 0; index < length; index++) target[to + index] = source[from + index] as number
}
