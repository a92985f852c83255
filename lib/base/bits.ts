// Names for bits: a 64-bit word <-> the set of names of its bits. Unknown bits keep a name of their own, so that nothing is lost.

/** Bit name → bit number. Bits are numbers here, never masks: confusing the two has been a published bug of several programs. */
export type BitNames = Readonly<Record<string, number>>

/** The mask of a bit number, 0..63. */
export function bit(number: number): bigint {
  return 1n << BigInt(number)
}

/** The names of the bits set in `word`, lowest first; a bit without a name is `bit_<n>`. */
export function namesOfBits(word: bigint, names: BitNames): string[] {
  const byNumber = new Map(Object.entries(names).map(([name, number]) => [number, name]))
  const result: string[] = []
  for (let number = 0, rest = word; rest !== 0n; number++, rest >>= 1n) {
    if ((rest & 1n) === 1n) result.push(byNumber.get(number) ?? `bit_${number}`)
  }
  return result
}

/** The bit number of `name`, also of the form `bit_<n>` with n below 64; undefined when there is none. */
export function bitOfName(name: string, names: BitNames): number | undefined {
  if (Object.hasOwn(names, name)) return names[name]
  const match = /^bit_(\d{1,2})$/.exec(name)
  const number = match === null ? 64 : Number(match[1])
  return number < 64 ? number : undefined
}
