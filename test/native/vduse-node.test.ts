// A node of VDUSE is known by its place in sysfs, whatever its name is and whoever opened it.

import { closeSync, mkdirSync, openSync, symlinkSync } from 'node:fs'
import { afterEach, beforeEach, expect, test } from '@jest/globals'
import { isVduseNode } from '../../lib/kernel/vduse-node.js'
import { TemporaryFolder } from './support.js'

let folder: TemporaryFolder
let fd: number
beforeEach(() => {
  folder = new TemporaryFolder()
  fd = openSync('/dev/null', 'r')
})
afterEach(() => {
  closeSync(fd)
  folder[Symbol.dispose]()
})

/** What /sys/dev/char says of /dev/null, which is 1:3 on every Linux. */
function sysfs(target: string): string {
  const place = folder.file('char')
  mkdirSync(place)
  symlinkSync(target, `${place}/1:3`)
  return place
}

test('a node whose device is below vduse is one', () => {
  expect(isVduseNode(fd, sysfs('../../devices/virtual/vduse/disk0/vhost-vdpa-0'))).toBe(true)
})

test('another one is none, also when somebody called it vduse', () => {
  expect(isVduseNode(fd, sysfs('../../devices/platform/vduse7/vhost-vdpa-0'))).toBe(false)
  expect(isVduseNode(fd)).toBe(false)
})

test('of what is no node, or is closed, or has no place, nothing is known', () => {
  const file = openSync(__filename, 'r')
  try {
    expect(isVduseNode(file)).toBeUndefined()
  } finally {
    closeSync(file)
  }
  expect(isVduseNode(file)).toBeUndefined()
  expect(isVduseNode(fd, folder.file('nothing'))).toBeUndefined()
})
