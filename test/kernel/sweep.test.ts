// The sweep on the kernel's seam: calls are refused before they reach vdpa_sim_net and vdpa_sim_blk, and the process has nothing of theirs open afterwards.

import { afterAll } from '@jest/globals'
import { readdirSync, readlinkSync } from 'node:fs'
import { KernelBackend } from '../../lib/kernel/kernel-backend.js'
import { describeSweep, everyCode } from '../sweep/describe-sweep.js'
import type { Ground } from '../sweep/world.js'
import { labVariable, restoreMac } from './support.js'

/** What the package opens, by the names that /proc gives it. */
const OURS = /vhost-vdpa|vhost-net|net.tun|memfd|eventfd/

function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((number) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${number}`)
      return OURS.test(target) ? [target] : []
    } catch {
      // The descriptor by which the folder was read.
      return []
    }
  })
}

const ground = (): Ground => ({
  backend: new KernelBackend(),
  net: labVariable('VHOST_VDPA_NET'),
  block: labVariable('VHOST_VDPA_BLOCK'),
  pairs: 1,
  diskQueues: 1,
  descriptors,
})

afterAll(restoreMac)

describeSweep({
  ground,
  // One class of errno a row and every third call of it, by turns: each refusal opens the devices anew, and the emulated machine is slow.
  stride: 3,
  codesOf: (index) => everyCode.filter((_code, at) => at === index % everyCode.length),
  lacks: {
    pairs: 'vdpa_sim_net has one pair and one command; the simulator sweeps the row',
    writeCache: 'vdpa_sim_blk has no write cache to switch; the simulator sweeps the row',
  },
})
