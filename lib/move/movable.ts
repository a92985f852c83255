// What keeps a device from moving: refused by name, before a guest loses something by it.

import { vdpaError } from '../base/errors.js'
import type { TakenSnapshot } from '../device/snapshot.js'
import type { VdpaDevice } from '../device/vdpa-device.js'
import { ShadowQueue } from '../shadow/shadow-queue.js'
import { checkGiven, looseQueues } from './carried.js'
import type { MoveOptions } from './move-options.js'

/** ERR_VDPA_NOT_SUPPORTED where a guest's ring would begin anew on the target, because nobody can tell where it stands. */
export function checkPositions({ path }: VdpaDevice, { snapshot }: TakenSnapshot): void {
  const lost = snapshot.queues.find(({ position, books, isControl, isEnabled }) => {
    return isEnabled && position === null && books === undefined && isControl !== true
  })
  if (lost === undefined) return
  const text = `nobody can tell where queue ${lost.index} stands: the device does not say it, and its ring does not show it`
  throw vdpaError('ERR_VDPA_NOT_SUPPORTED', text, { path })
}

/** Refuses before anything is touched what would be lost on the way. */
export function checkMovable(source: VdpaDevice, wish: MoveOptions): void {
  const { path } = source
  const { shadows = [] } = wish
  if (source.phase !== 'running')
    throw vdpaError('ERR_VDPA_STATE', `a device that runs is moved, and this one is ${source.phase}`, { path })
  checkGiven(source, wish)
  const other = shadows.find(({ device }) => device !== source)
  if (other !== undefined) {
    const text = `the shadow of queue ${other.index} that was given is of ${other.device.path}`
    throw vdpaError('ERR_VDPA_STATE', text, { path })
  }
  const loose = looseQueues(source).find((queue) => !shadows.some((shadow) => shadow === ShadowQueue.of(queue)))
  if (loose !== undefined)
    throw vdpaError('ERR_VDPA_STATE', `queue ${loose.index} is driven by ${loose.owner}, which was not given`, { path })
}
