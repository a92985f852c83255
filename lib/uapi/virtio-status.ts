// The device status bits of virtio (spec section 2.1), as values of the status byte.

import { typeError } from '../base/checks.js'

/** The bits by name, without the prefix of the header (VIRTIO_CONFIG_S_). */
export const virtioStatus = {
  ACKNOWLEDGE: 0x01,
  DRIVER: 0x02,
  DRIVER_OK: 0x04,
  FEATURES_OK: 0x08,
  NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const

/** The name of a status bit. */
export type StatusName = keyof typeof virtioStatus

/** The names of the bits set in a status byte, in the order a driver sets them; an unknown bit is `0x10`, `0x20`. */
export function statusNames(status: number): string[] {
  if (typeof status !== 'number') throw typeError('status', 'a number', status)
  const order: readonly StatusName[] = ['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK', 'NEEDS_RESET', 'FAILED']
  const names: string[] = order.filter((name) => (status & virtioStatus[name]) !== 0)
  for (const unknown of [0x10, 0x20]) if ((status & unknown) !== 0) names.push(`0x${unknown.toString(16)}`)
  return names
}
