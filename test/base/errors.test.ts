// The one error class: its sentence, its fields, and how it is recognised.

import { describe, expect, test } from '@jest/globals'
import { isVdpaError, systemError, vdpaError } from '../../lib/base/errors.js'

describe('an error', () => {
  test('of the operating system has what Node’s own errors have', () => {
    const error = systemError('EINVAL', 22, 'asid 9 is not below 2', {
      syscall: 'ioctl',
      request: 'VHOST_VDPA_SET_GROUP_ASID',
      path: '/dev/vhost-vdpa-0',
    })
    expect(error).toBeInstanceOf(Error)
    expect(error.message).toBe('EINVAL: VHOST_VDPA_SET_GROUP_ASID on /dev/vhost-vdpa-0: asid 9 is not below 2')
    expect({ ...error }).toEqual({
      code: 'EINVAL',
      name: 'VdpaError',
      errno: -22,
      syscall: 'ioctl',
      request: 'VHOST_VDPA_SET_GROUP_ASID',
      path: '/dev/vhost-vdpa-0',
    })
  })

  test('of ours has a hint and a cause, and no errno', () => {
    const cause = new Error('why')
    const error = vdpaError('ERR_VDPA_MEMLOCK', 'too much', { path: '/x', hint: 'ulimit -l 64', cause })
    expect(error.message).toBe('ERR_VDPA_MEMLOCK: /x: too much (ulimit -l 64)')
    expect(error.cause).toBe(cause)
    expect('errno' in error).toBe(false)
  })

  test('is recognised by its brand, whichever copy of the package made it', () => {
    const foreign = { [Symbol.for('vhost-vdpa.error')]: true }
    expect(isVdpaError(vdpaError('ERR_VDPA_STATE', 'x'))).toBe(true)
    expect(isVdpaError(foreign)).toBe(true)
    for (const other of [new Error('EINVAL'), null, undefined, 'ERR_VDPA_STATE', {}])
      expect(isVdpaError(other)).toBe(false)
  })
})
