// Requests and faults in words, which a program makes: a copy of what is one, and a sentence for what is none. Bytes are read by wire.ts.

import { checkBigint, checkInteger, checkObject, checkOneOf, toU64 } from '../base/checks.js'
import type { IommuFault } from './translate.js'
import type { IommuRequest } from './wire.js'

const U32_LAST = 0xffff_ffff

/** A copy, which nobody changes while it waits for its turn. TypeError or RangeError for what is no request. */
export function checkedRequest(given: IommuRequest): IommuRequest {
  checkObject(given, 'request')
  const request = { ...given }
  checkOneOf(request.kind, 'request.kind', ['attach', 'detach', 'map', 'unmap', 'probe'])
  if (request.kind === 'attach' || request.kind === 'detach' || request.kind === 'probe')
    checkInteger(request.endpoint, 'request.endpoint', 0, U32_LAST)
  if (request.kind === 'probe') return request
  if (request.kind !== 'detach' || request.domain !== undefined)
    checkInteger(request.domain, 'request.domain', 0, U32_LAST)
  if (request.kind === 'attach' || request.kind === 'map') checkInteger(request.flags, 'request.flags', 0, U32_LAST)
  if (request.kind === 'attach' || request.kind === 'detach') return request
  // An end that is none is the driver's mistake, and has a status.
  checkBigint(request.last, 'request.last')
  const first = toU64(request.first, 'request.first')
  if (request.kind === 'unmap') return { ...request, first }
  return { ...request, first, physical: toU64(request.physical, 'request.physical') }
}

/** A copy. TypeError or RangeError for what cannot be reported. */
export function checkedFault(given: IommuFault): IommuFault {
  checkObject(given, 'fault')
  const { reason, endpoint, access, address } = given
  checkInteger(reason, 'fault.reason', 0, 0xff)
  checkInteger(endpoint, 'fault.endpoint', 0, U32_LAST)
  checkOneOf(access, 'fault.access', ['ro', 'wo', 'rw'])
  return { reason, endpoint, access, address: address === undefined ? undefined : toU64(address, 'fault.address') }
}
