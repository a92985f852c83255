// The numbers of the family `vdpa`, pinned: a kernel never renumbers them.

import { expect, it } from '@jest/globals'
import { VDPA_GENL_NAME, vdpaAttributes, vdpaCommands } from '../../lib/uapi/vdpa'

it('has commands 0 to 8 and attributes 0 to 36, without a hole', () => {
  expect(VDPA_GENL_NAME).toBe('vdpa')
  expect(Object.values(vdpaCommands)).toEqual([...Array(9).keys()])
  expect(Object.values(vdpaAttributes)).toEqual([...Array(37).keys()])
  expect(vdpaAttributes).toMatchObject({
    VDPA_ATTR_DEV_NET_CFG_MACADDR: 10,
    VDPA_ATTR_DEV_SUPPORTED_FEATURES: 16,
    VDPA_ATTR_DEV_FEATURES: 20,
    VDPA_ATTR_DEV_BLK_FLUSH: 36,
  })
  expect(vdpaCommands).toMatchObject({ VDPA_CMD_DEV_GET: 5, VDPA_CMD_DEV_ATTR_SET: 8 })
})
