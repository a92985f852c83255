// The verbs by which a device goes on where another one stood.

import { compareSnapshot } from '../../lib/move/differences.js'
import { restoreDevice } from '../../lib/move/restore.js'
import { recoverDevice } from '../../lib/move/recover.js'
import { shadowed } from './shadow-rows.js'
import { closeLater, diskRuns, openNet, running, suspended, sync, the, type Act, type Row } from './steps.js'

/** A driver, and all that its device was told, without a device: the node is open again, and new. */
const taken: Act = async (world) => {
  const net = the(world, 'net')
  const frame = net.takeSnapshot({ control: the(world, 'control') })
  const driver = await the(world, 'driver').save()
  await net.close()
  await openNet(world)
  for (const { memory } of driver.queues) world.wait(closeLater(world, () => memory.close()))
  world.things.taken = { ...frame, driver }
}

const recoverNet: Act = (world) =>
  recoverDevice(the(world, 'net'), {
    driver: the(world, 'driver'),
    control: the(world, 'control'),
    timeout: world.patience,
  })

export const moveRows: readonly Row[] = [
  { verb: 'recoverDevice()', before: running, act: recoverNet },
  {
    verb: 'recoverDevice() of a disk with requests',
    before: [...diskRuns, sync((world) => world.wait(the(world, 'disk').write(0, new Uint8Array(512))))],
    act: (world) => recoverDevice(the(world, 'block'), { driver: the(world, 'disk') }),
  },
  {
    verb: 'recoverDevice() with a guest whose data queues are shadowed',
    before: shadowed,
    act: (world) => recoverDevice(the(world, 'net')),
  },
  {
    verb: 'restoreDevice() and compareSnapshot()',
    before: [...suspended, taken],
    act: async (world) => {
      const { snapshot, memories, driver } = the(world, 'taken')
      compareSnapshot(the(world, 'net'), snapshot)
      await restoreDevice(the(world, 'net'), snapshot, { memories, driver, timeout: world.patience })
    },
  },
]
