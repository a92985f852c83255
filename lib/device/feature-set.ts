// A 64-bit feature word of one kind of device, shown by name. Unknown bits are kept.

import { rangeError, toU64, typeError } from '../base/checks.js'
import { bit, bitOfName, namesOfBits, type BitNames } from '../base/bits.js'
import type { BlockFeature, NetFeature, TransportFeature } from '../uapi/virtio-features.js'
import type { DeviceKind } from '../uapi/virtio-ids.js'

/** The names of the feature bits of a kind of device. */
export type FeatureOf<K extends DeviceKind> = K extends 'net'
  ? NetFeature
  : K extends 'block'
    ? BlockFeature
    : TransportFeature

/** What stands for features in an argument: the word itself, or names and bit numbers. */
export type FeatureWish<Name extends string = string> = bigint | readonly (Name | number)[]

/** An immutable set of feature bits. `Name` is the union of names that this kind of device has. */
export class FeatureSet<Name extends string = string> {
  /** The word as the kernel has it. */
  readonly bits: bigint
  readonly #names: BitNames

  constructor(bits: bigint, names: BitNames) {
    this.bits = toU64(bits, 'features')
    this.#names = names
  }

  /** The set of a wish. Throws a RangeError that names a feature nobody knows. */
  static of<Name extends string>(wish: FeatureWish<Name>, names: BitNames): FeatureSet<Name> {
    if (typeof wish === 'bigint') return new FeatureSet<Name>(wish, names)
    if (!Array.isArray(wish)) throw typeError('features', 'a bigint, or an array of names and bit numbers', wish)
    let bits = 0n
    for (const item of wish as readonly (Name | number)[]) bits |= bit(numberOf(item, names))
    return new FeatureSet<Name>(bits, names)
  }

  /** The names, lowest bit first; a bit without a name is `bit_<n>`. */
  get names(): Name[] {
    return namesOfBits(this.bits, this.#names) as Name[]
  }

  /** Whether a feature, by name or bit number, is in the set. RangeError for a name that this kind of device does not have. */
  has(feature: Name | number): boolean {
    return (this.bits & bit(numberOf(feature, this.#names))) !== 0n
  }

  /** What is in this set and not in the other. */
  without(other: FeatureSet<Name>): FeatureSet<Name> {
    return new FeatureSet<Name>(this.bits & ~bitsOf(other), this.#names)
  }

  /** What is in both. */
  and(other: FeatureSet<Name>): FeatureSet<Name> {
    return new FeatureSet<Name>(this.bits & bitsOf(other), this.#names)
  }

  /** What is in either. */
  or(other: FeatureSet<Name>): FeatureSet<Name> {
    return new FeatureSet<Name>(this.bits | bitsOf(other), this.#names)
  }

  /** The word and its names: `0x100000020 (VIRTIO_NET_F_MAC VIRTIO_F_VERSION_1)`. */
  toString(): string {
    return `0x${this.bits.toString(16)} (${this.names.join(' ') || 'none'})`
  }

  /** The word as a hexadecimal string, and the names. */
  toJSON(): { bits: string; names: string[] } {
    return { bits: `0x${this.bits.toString(16)}`, names: this.names }
  }
}

function numberOf(feature: string | number, names: BitNames): number {
  const number =
    typeof feature === 'number' ? feature : typeof feature === 'string' ? bitOfName(feature, names) : undefined
  if (number === undefined || !Number.isInteger(number) || number < 0 || number > 63) {
    throw rangeError('a feature', `the name of one of this kind of device, or a bit number from 0 to 63`, feature)
  }
  return number
}

/** Of another set, of whichever names. */
function bitsOf(other: { readonly bits: bigint }): bigint {
  if (typeof other !== 'object' || other === null || typeof other.bits !== 'bigint')
    throw typeError('other', 'a FeatureSet', other)
  return other.bits
}
