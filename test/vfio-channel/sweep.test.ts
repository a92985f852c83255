// The sweep's rows on devices behind a channel, every fifth call of each refused by one errno: what is left there would be left in another process.

import { ChannelBackend } from '../../lib/vfio-channel/channel-backend.js'
import { openFarEnd } from '../../lib/vfio-channel/far-end.js'
import { TodayServer } from '../../lib/vfio-channel/today-server.js'
import { Simulator } from '../../lib/simulator/index.js'
import { describeSweep, everyCode } from '../sweep/describe-sweep.js'
import { deviceRows } from '../sweep/device-rows.js'
import { driverRows } from '../sweep/driver-rows.js'
import { moveRows } from '../sweep/move-rows.js'
import { shadowRows } from '../sweep/shadow-rows.js'
import { simulatedGround } from '../sweep/simulated-world.js'
import type { Ground } from '../sweep/world.js'

function ground(): Ground {
  const far = simulatedGround()
  const near = new Simulator()
  const connect = (path: string) => ({ region: new TodayServer(openFarEnd(far.backend, path)) })
  return {
    ...far,
    backend: new ChannelBackend(near, connect),
    descriptors: () => [...far.descriptors(), ...near.descriptors.map(({ what }) => what)],
  }
}

/** A channel has devices; vhost-net's nodes are the kernel's. */
const rows = [...deviceRows, ...driverRows, ...shadowRows, ...moveRows]

describeSweep({ ground, rows, codesOf: (index) => [everyCode[index % everyCode.length] ?? 'EIO'], stride: 5 })
