// The program of docs/guides/vhost-net.md as it stands there: the kernel's vhost-net, a tap device that the page's three commands make, and an answer of the host's own network.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { openVhostNet } from '../../lib/open-vhost-net.js'
import { runGuideProgram } from '../vhost-net/guide-program.js'
import { labVariable } from './support.js'

const ip = (words: string) => execFileSync('ip', words.split(' '), { stdio: 'pipe' })

beforeEach(() => {
  labVariable('LAB_KERNEL')
  ip('tuntap add tap0 mode tap')
  ip('address add 192.0.2.1/24 dev tap0')
  ip('link set tap0 up')
})

afterEach(() => void ip('link delete tap0'))

test('asks who has the host’s address, and each page is missed again after the invalidation', async () => {
  const address = readFileSync('/sys/class/net/tap0/address', 'utf8').trim()
  const { lines, errors } = await runGuideProgram(openVhostNet)
  const form = /^(at first|after an invalidation): 192\.0\.2\.1 is at ([0-9a-f:]{17}), (\d+) pages were missed$/
  const found = lines.map((line) => form.exec(line)?.slice(1) ?? line)
  expect(found.map(([when, at]) => [when, at])).toEqual([
    ['at first', address],
    ['after an invalidation', address],
  ])
  for (const [, , missed] of found) expect(Number(missed)).toBeGreaterThan(0)
  expect(errors).toEqual([])
  console.info(lines.join('\n'))
})
