// A device of two queues in groups of their own, for two address spaces: whatever it reads it gives back. Made on the thread that serves it.

import { customDevice } from '../../lib/models/custom'
import type { ModelDevice } from '../../lib/models/model-device'
import { deviceIds } from '../../lib/uapi/virtio-ids'

const bytes = new Uint8Array(64)

export function twoGroups(): ModelDevice {
  return customDevice({
    deviceId: deviceIds.block,
    queues: 2,
    groups: [0, 1],
    addressSpaces: 2,
    config: new Uint8Array(96),
    onKick: (chain) => void chain.write(bytes, 0, chain.read(bytes, 0, bytes.length)),
  })
}
