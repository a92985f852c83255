// Names of errnos: the same as Node's where Node has one, and right where Node's list is not.

import { expect, test } from '@jest/globals'
import { constants } from 'node:os'
import { errno, errnoName, errnoText, type ErrnoName } from '../../lib/uapi/errno'

test('the numbers that this interface turns on', () => {
  expect(errno).toMatchObject({
    EPERM: 1,
    EINTR: 4,
    EIO: 5,
    E2BIG: 7,
    EBADF: 9,
    EAGAIN: 11,
    ENOMEM: 12,
    EFAULT: 14,
    EBUSY: 16,
    EEXIST: 17,
    ENODEV: 19,
    EINVAL: 22,
    ENOTTY: 25,
    ENOSPC: 28,
    ENOBUFS: 105,
    EOPNOTSUPP: 95,
    ENOIOCTLCMD: 515,
    ENOTSUPP: 524,
  })
})

test('a number has one name: 95 is EOPNOTSUPP, 524 is ENOTSUPP', () => {
  expect(errnoName(95)).toBe('EOPNOTSUPP')
  expect(errnoName(524)).toBe('ENOTSUPP')
  expect(new Set(Object.values(errno)).size).toBe(Object.keys(errno).length)
  for (const [name, number] of Object.entries(errno)) expect(errnoName(number)).toBe(name)
})

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('the numbers are those of the system (which is compared on Linux)', () => {
  const systems: Readonly<Record<string, number>> = constants.errno
  const compared = (Object.keys(errno) as ErrnoName[]).filter((name) => name in systems)
  expect(compared.length).toBeGreaterThan(70)
  for (const name of compared) expect([name, errno[name]]).toEqual([name, systems[name]])
})

test('every errno has a text of its own words, and an unknown one says its number', () => {
  for (const [name, number] of Object.entries(errno))
    expect([name, errnoText(number)]).toEqual([name, expect.any(String)])
  expect(errnoText(22)).toBe('invalid argument')
  // Every number of Linux has a name but 41 and 58, which it never gave.
  const unnamed = Array.from({ length: 133 }, (_, index) => index + 1).filter((n) => errnoName(n) === `ERRNO_${n}`)
  expect(unnamed).toEqual([41, 58])
  expect(new Set(Object.values(errno).map(errnoText)).size).toBe(Object.keys(errno).length)
  expect(errnoName(4095)).toBe('ERRNO_4095')
  expect(errnoText(4095)).toBe('errno 4095')
})
