// What the specification forbids drivers in general, and how a device keeps in mind who broke it. Rules of one kind of device are with its model, rules of
// rings with the rings. Section numbers are those of virtio 1.2.

import { bit } from '../base/bits.js'
import { missingFeatureNeed, type MissingNeed } from '../uapi/feature-needs.js'
import { transportFeatureBits } from '../uapi/virtio-features.js'
import { virtioStatus } from '../uapi/virtio-status.js'

/** A rule of the specification that a driver broke. */
export interface Violation {
  /** What it did, in a sentence without its full stop. */
  readonly what: string
  /** The section of virtio 1.2 that forbids it; undefined where a sentence of the ring names it. */
  readonly section?: string
}

/** How many violations are kept; later ones are counted. */
export const VIOLATIONS_KEPT = 100

/** The text of a violation. */
export function showViolation({ what, section }: Violation): string {
  return section === undefined ? what : `${what}, against virtio 1.2 section ${section}`
}

/** What is wrong with a set of features that are all offered (section 2.2 and those of the kinds); undefined when a driver may accept it. */
export function featureViolation(wanted: bigint, offered: bigint, deviceId: number): MissingNeed | undefined {
  const version = bit(transportFeatureBits.VIRTIO_F_VERSION_1)
  if ((offered & version) !== 0n && (wanted & version) === 0n)
    return { what: 'VIRTIO_F_VERSION_1 is offered and was not accepted', section: '6.1' }
  return missingFeatureNeed(wanted, deviceId)
}

const steps: readonly (readonly [name: keyof typeof virtioStatus, needs: keyof typeof virtioStatus])[] = [
  ['DRIVER', 'ACKNOWLEDGE'],
  ['FEATURES_OK', 'DRIVER'],
  ['DRIVER_OK', 'FEATURES_OK'],
]

/** What is wrong with a status that a driver writes (section 3.1.1); bits may come together as long as those before them come, too. */
export function statusViolation(old: number, next: number): Violation | undefined {
  if ((old & virtioStatus.FAILED) !== 0 && (next & ~old) !== 0)
    return { what: 'the status was changed after FAILED, which a reset must follow', section: '2.1.1' }
  const section = '3.1.1'
  for (const [name, needs] of steps) {
    const isNew = (next & virtioStatus[name]) !== 0 && (old & virtioStatus[name]) === 0
    if (isNew && (next & virtioStatus[needs]) === 0) return { what: `${name} was set without ${needs}`, section }
  }
  const both = virtioStatus.FEATURES_OK | virtioStatus.DRIVER_OK
  if ((next & both) === both && (old & virtioStatus.FEATURES_OK) === 0)
    return { what: 'DRIVER_OK was set together with FEATURES_OK, which was not read back', section }
  return undefined
}
