// Files that are no plans, or were made to do harm: each is told in a sentence, soon.

import { describe, expect, it, jest } from '@jest/globals'
import { isVdpaError } from '../../lib/base/errors'
import { parsePlan } from '../../lib/plan/plan'

describe('a file that is no plan', () => {
  const refusalOf = (text: string): string => {
    try {
      parsePlan(text, 'file')
    } catch (failure) {
      if (isVdpaError(failure) && failure.code === 'ERR_VDPA_PLAN') return failure.message
      throw failure
    }
    return 'none'
  }

  it('is told in a few mistakes, and how many more there are', () => {
    const message = refusalOf(`version: 1\ndevices: [${'{ nam: 1 }, '.repeat(500)}]`)
    expect(message).toMatch(/; and \d{3,4} more$/)
    expect(message.length).toBeLessThan(3000)
  })

  it('is not quoted at length, nor with what a terminal would obey', () => {
    const message = refusalOf(`version: 1\ndevices: |\u001b[31mred\u0007${'x'.repeat(5000)}`)
    expect(message).toMatch(/^ERR_VDPA_PLAN: file:2:/)
    expect(message).not.toMatch(/\p{Cc}/u)
    expect(message.length).toBeLessThan(1000)
  })

  it('is refused unread where it is longer than any plan, and where it is two', () => {
    expect(refusalOf('#'.repeat(4096 * 1024 + 1))).toMatch(/^ERR_VDPA_PLAN: file: it has more than 4194304 characters/)
    expect(refusalOf('version: 1\ndevices: []\n---\nversion: 1\n')).toContain('file:3:1: a second document begins')
  })

  it.each(['k%: 1', '? [k%]\n: 1', '"k%": {}'])('is refused soon whatever keys it has: %j', (line) => {
    const lines = Array.from({ length: 50_000 }, (_, n) => line.replace('%', String(n)))
    const warned = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
    expect(refusalOf(`version: 1\ndevices: []\n${lines.join('\n')}\n`)).toMatch(
      /^ERR_VDPA_PLAN: file:\d+:\d+: .*; and 49990 more$/,
    )
    expect(warned).not.toHaveBeenCalled()
    warned.mockRestore()
  })

  it.each([
    ['version: 1\ndevices: []\nversion: 1\n', 'file:3:1: version is there twice'],
    [
      'version: 1\ndevices: []\ndevices:\n  - {name: a, name: b, managementDevice: m}\n',
      'file:3:1: devices is there twice; file:4:15: name is there twice',
    ],
    [
      '{"version": 1, "devices": [{"name": "a", "managementDevice": "m", "name": "b"}]}',
      'file:1:67: name is there twice',
    ],
  ])('%j is refused for the key that is there twice', (text, sentence) => {
    expect(refusalOf(text)).toBe(`ERR_VDPA_PLAN: ${sentence}`)
  })

  it.each(['['.repeat(20_000), '- '.repeat(20_000), `devices: ${'{a: '.repeat(5000)}1${'}'.repeat(5000)}`])(
    'is refused in words where it is nested without end',
    (text) => {
      expect(refusalOf(text)).toMatch(/^ERR_VDPA_PLAN: file:1:\d+: it is nested too deeply/)
    },
  )

  it('whose aliases would make it huge is refused as any other', () => {
    const rows = Array.from({ length: 8 }, (_, n) => {
      const item = n === 0 ? 'x' : `*a${n - 1}`
      return `a${n}: &a${n} [${`${item}, `.repeat(10)}]`
    })
    expect(refusalOf(`${rows.join('\n')}\nversion: 1\ndevices: *a7`)).toMatch(/^ERR_VDPA_PLAN: file: .*alias/)
  })
})
