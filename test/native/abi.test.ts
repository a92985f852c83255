// Every row of lib/uapi, and the numbers of rings, against the kernel's headers as the C++ compiler saw them when the addon was built.

import { describe, expect, test } from '@jest/globals'
import { existsSync, readFileSync } from 'node:fs'
import { tryLoadAddon } from '../../lib/kernel/addon'
import * as uapi from '../../lib/uapi/index'
import * as iommu from '../../lib/uapi/virtio-iommu'
import * as ring from '../../lib/virtqueue/layout'
import { codecs as allCodecs } from '../uapi/support'

interface Layout {
  readonly size: number
  readonly align: number
  readonly fields: Readonly<Record<string, readonly [offset: number, size: number]>>
}
interface Abi {
  readonly structs: Readonly<Record<string, Layout>>
  readonly requests: Readonly<Record<string, number>>
  readonly constants: Readonly<Record<string, number>>
}
type Numbers = Readonly<Record<string, number>>

const { addon, reason } = tryLoadAddon()
const seen: Abi = addon === undefined ? { structs: {}, requests: {}, constants: {} } : (addon.abi() as unknown as Abi)

/** Codecs for which the header has no struct: the arguments that are one number. */
const scalars = new Set(['__u8', '__u16', '__u32', '__u64', 'int'])
/** Structs that the specification lets grow, and one that grew within its place: either side may know the beginning only. */
const growing = new Set(['virtio_blk_config', 'virtio_net_config', 'vduse_iova_range'])

const codecs = allCodecs.filter(({ name }) => !scalars.has(name))

const requestNumbers: Numbers = Object.fromEntries(
  Object.values(uapi.requests).map(({ name, number }) => [name, number]),
)

function renamed(numbers: Numbers, rename: (name: string) => string): Numbers {
  return Object.fromEntries(Object.entries(numbers).map(([name, number]) => [rename(name), number]))
}

/** The classes of the control commands: each command names its own by the longest of these that begins it. */
const controlClasses: Numbers = Object.fromEntries(
  ['RX', 'MAC', 'VLAN', 'ANNOUNCE', 'MQ', 'GUEST_OFFLOADS', 'NOTF_COAL'].map((kind) => {
    const name = `VIRTIO_NET_CTRL_${kind}`
    const ofClass = Object.values(uapi.netCommands).filter((command) => command.name.startsWith(`${name}_`))
    return [name, new Set(ofClass.map((command) => command.class)).size === 1 ? (ofClass[0]?.class ?? NaN) : NaN]
  }),
)

const ringNumbers: Numbers = {
  VRING_DESC_F_NEXT: ring.NEXT,
  VRING_DESC_F_WRITE: ring.WRITE,
  VRING_DESC_F_INDIRECT: ring.INDIRECT,
  VRING_PACKED_DESC_F_AVAIL: Math.log2(ring.AVAIL),
  VRING_PACKED_DESC_F_USED: Math.log2(ring.USED),
  VRING_USED_F_NO_NOTIFY: ring.NO_NOTIFICATION,
  VRING_AVAIL_F_NO_INTERRUPT: ring.NO_NOTIFICATION,
  VRING_PACKED_EVENT_FLAG_ENABLE: ring.EVENT_ENABLE,
  VRING_PACKED_EVENT_FLAG_DISABLE: ring.EVENT_DISABLE,
  VRING_PACKED_EVENT_FLAG_DESC: ring.EVENT_DESCRIPTOR,
}

const constants: Numbers = {
  VHOST_VIRTIO: uapi.VHOST_VIRTIO,
  VDUSE_BASE: uapi.VDUSE_BASE,
  VDUSE_NAME_MAX: uapi.VDUSE_NAME_MAX,
  VDUSE_EVENTFD_DEASSIGN: uapi.VDUSE_EVENTFD_DEASSIGN,
  ...uapi.vduseAccess,
  ...uapi.vduseResults,
  ...Object.fromEntries(Object.values(uapi.vduseRequests).map(({ name, number }) => [name, number])),
  VHOST_FILE_UNBIND: uapi.VHOST_FILE_UNBIND,
  VHOST_VRING_F_LOG: uapi.VHOST_VRING_F_LOG,
  VHOST_SCSI_ABI_VERSION: uapi.VHOST_SCSI_ABI_VERSION,
  VHOST_PAGE_SIZE: uapi.VHOST_PAGE_SIZE,
  VIRTIO_BLK_ID_BYTES: uapi.BLOCK_ID_BYTES,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP: uapi.VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
  ...uapi.vringByteOrders,
  ...uapi.vhostMessageTypes,
  ...uapi.iotlbMessageTypes,
  ...uapi.vhostAccess,
  ...uapi.backendFeatureBits,
  ...uapi.vhostFeatureBits,
  ...uapi.forkOwnerModes,
  ...uapi.netStatus,
  ...uapi.netHeaderFlags,
  ...uapi.netGsoTypes,
  ...uapi.netAck,
  ...uapi.netHashTypes,
  ...uapi.netHashReports,
  ...uapi.netQueuePairs,
  ...uapi.netFeatureBits,
  ...uapi.blockFeatureBits,
  ...uapi.blockRequestTypes,
  ...uapi.blockStatus,
  ...uapi.blockZoneModels,
  ...uapi.blockZoneTypes,
  ...uapi.blockZoneStates,
  ...uapi.errno,
  ...uapi.otherFeatureBits[uapi.deviceIds.iommu],
  ...iommu.iommuRequestTypes,
  ...iommu.iommuStatus,
  ...iommu.iommuAttachFlags,
  ...iommu.iommuMapFlags,
  ...iommu.iommuReservedTypes,
  ...iommu.iommuFaultReasons,
  ...iommu.iommuFaultFlags,
  VIRTIO_IOMMU_PROBE_T_RESV_MEM: iommu.VIRTIO_IOMMU_PROBE_T_RESV_MEM,
  NETLINK_GENERIC: uapi.NETLINK_GENERIC,
  GENL_ID_CTRL: uapi.GENL_ID_CTRL,
  ...uapi.netlinkFlags,
  ...uapi.netlinkTypes,
  ...uapi.netlinkErrorAttributes,
  ...uapi.controlCommands,
  ...uapi.controlAttributes,
  ...uapi.tunRequests,
  ...uapi.tunFlags,
  IFNAMSIZ: uapi.IFNAMSIZ,
  ...uapi.vdpaCommands,
  ...uapi.vdpaAttributes,
  ...renamed(uapi.virtioStatus, (name) => `VIRTIO_CONFIG_S_${name}`),
  ...renamed(uapi.deviceIds, (kind) => `VIRTIO_ID_${kind.toUpperCase().replaceAll('-', '_')}`),
  // The two features of the ring itself carry its name in the header.
  ...renamed(uapi.transportFeatureBits, (name) =>
    name.replace(/^VIRTIO_F_RING_(INDIRECT_DESC|EVENT_IDX)$/, 'VIRTIO_RING_F_$1'),
  ),
  ...Object.fromEntries(Object.values(uapi.netCommands).map(({ name, command }) => [name, command])),
  ...controlClasses,
  ...ringNumbers,
}

/** Names of our rows that the header is too old to know. */
function unknownOf(ours: readonly string[], theirs: object): readonly string[] {
  return ours.filter((name) => !(name in theirs))
}

/** The same as a title says it. */
function unchecked(names: readonly string[], isThere = addon !== undefined): string {
  if (!isThere) return 'nothing to compare with'
  return names.length === 0 ? 'all of them known' : `not known to the header, so not compared: ${names.join(', ')}`
}

/** What a header of Linux 6.1 or later may lack. Anything else that it lacks is a mistake of ours. */
const mayBeUnknown: ReadonlySet<string> = new Set([
  // Linux 6.3 to 6.17
  'VHOST_VDPA_RESUME',
  'VHOST_NEW_WORKER',
  'VHOST_FREE_WORKER',
  'VHOST_ATTACH_VRING_WORKER',
  'VHOST_GET_VRING_WORKER',
  'VHOST_VDPA_GET_VRING_DESC_GROUP',
  'VHOST_VDPA_GET_VRING_SIZE',
  'VHOST_GET_FEATURES_ARRAY',
  'VHOST_SET_FEATURES_ARRAY',
  'VHOST_SET_FORK_FROM_OWNER',
  'VHOST_GET_FORK_FROM_OWNER',
  ...Object.keys(uapi.forkOwnerModes),
  'VDPA_CMD_DEV_ATTR_SET',
  // Linux 6.6 to 6.11, and what only the specification names.
  ...Object.keys(uapi.netCommands).filter((name) => /COAL_VQ_|HASH_TUNNEL|STATS|RSS_CTX/.test(name)),
  ...Object.keys(uapi.vdpaAttributes).filter((name) => name.startsWith('VDPA_ATTR_DEV_BLK_')),
  'VHOST_BACKEND_F_RESUME',
  'VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK',
  'VHOST_BACKEND_F_DESC_ASID',
  'VHOST_BACKEND_F_IOTLB_PERSIST',
  'VIRTIO_F_NOTIFICATION_DATA',
  'VIRTIO_F_NOTIF_CONFIG_DATA',
  'VIRTIO_F_ADMIN_VQ',
  'VIRTIO_NET_F_DEVICE_STATS',
  'VIRTIO_NET_F_VQ_NOTF_COAL',
  'VIRTIO_NET_F_GUEST_USO4',
  'VIRTIO_NET_F_GUEST_USO6',
  'VIRTIO_NET_F_HOST_USO',
  'VIRTIO_NET_F_GUEST_HDRLEN',
  'VIRTIO_NET_HDR_GSO_UDP_L4',
  'VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET',
  'VIRTIO_BLK_F_ZONED',
  ...Object.keys(uapi.blockRequestTypes).filter((name) => name.startsWith('VIRTIO_BLK_T_ZONE_')),
  ...Object.keys(uapi.blockStatus).filter((name) => name.startsWith('VIRTIO_BLK_S_ZONE_')),
  ...Object.keys({ ...uapi.blockZoneModels, ...uapi.blockZoneTypes, ...uapi.blockZoneStates }),
  'vhost_worker_state',
  'vhost_vring_worker',
  'vhost_features_array',
  'virtio_blk_zone_descriptor',
  'virtio_blk_zone_report',
  // Linux 7.0 to 7.3, and what has no name there
  'VDUSE_IOTLB_GET_FD2',
  'VDUSE_GET_FEATURES',
  'VDUSE_SET_FEATURES',
  'vduse_name',
  'vduse_iotlb_entry_v2',
  'vduse_vq_group_asid',
  'vduse_vq_ready',
  // In the specification, and in no header of user space
  'VIRTIO_NET_F_HASH_TUNNEL',
  'VIRTIO_BLK_F_LIFETIME',
  'VIRTIO_BLK_T_GET_LIFETIME',
  // Numbers that the kernel keeps to itself, and that reach user space all the same
  'ENOIOCTLCMD',
  'ENOTSUPP',
])

/** The same for the features of other kinds of device. */
const newOfKinds: ReadonlySet<string> = new Set([
  // Linux 6.2 to 6.12
  'VIRTIO_BT_F_CONFIG_V2',
  'VIRTIO_MEM_F_PERSISTENT_SUSPEND',
  'VIRTIO_PMEM_F_SHMEM_REGION',
  'VIRTIO_SND_F_CTLS',
  // In the specification, and in no header of user space
  'VIRTIO_VSOCK_F_STREAM',
])

const suite = addon === undefined ? describe.skip : describe

suite(addon === undefined ? `the tables and the headers (skipped: ${reason})` : 'the tables and the headers', () => {
  const unknownRequests = unknownOf(Object.keys(requestNumbers), seen.requests)
  const unknownConstants = unknownOf(Object.keys(constants), seen.constants)
  const unknownStructs = unknownOf(
    codecs.map(({ name }) => name),
    seen.structs,
  )

  test(`requests have the header's numbers (${unchecked(unknownRequests)})`, () => {
    const known = Object.entries(requestNumbers).filter(([name]) => name in seen.requests)
    expect(known.length).toBeGreaterThan(30)
    expect(Object.fromEntries(known)).toEqual(seen.requests)
  })

  test(`constants have the header's values (${unchecked(unknownConstants)})`, () => {
    const compared = Object.keys(constants).filter((name) => name in seen.constants)
    expect(compared.length).toBeGreaterThan(150)
    expect(Object.fromEntries(compared.map((name) => [name, constants[name]]))).toEqual(
      Object.fromEntries(compared.map((name) => [name, seen.constants[name]])),
    )
  })

  test(`structs have the header's layout (${unchecked(unknownStructs)})`, () => {
    for (const { name, size, align, fields } of codecs) {
      const theirs = seen.structs[name]
      if (theirs === undefined) continue
      const known = growing.has(name) ? fields.filter(({ offset }) => offset < theirs.size) : fields
      const places = Object.fromEntries(known.map((field) => [field.name, [field.offset, field.size]]))
      expect({ name, align, fields: places }).toEqual({ name, align: theirs.align, fields: theirs.fields })
      if (!growing.has(name)) expect([name, size]).toEqual([name, theirs.size])
    }
  })

  test('what the header does not know is new, or known to be outside it', () => {
    const unknown = [...unknownRequests, ...unknownConstants, ...unknownStructs]
    expect(unknown.filter((name) => !mayBeUnknown.has(name))).toEqual([])
  })

  test('rings have the sizes and places of the header', () => {
    const size = (name: string) => seen.structs[name]?.size
    const offset = (name: string, field: string) => seen.structs[name]?.fields[field]?.[0]
    expect([size('vring_desc'), size('vring_packed_desc')]).toEqual([ring.DESCRIPTOR_BYTES, ring.DESCRIPTOR_BYTES])
    for (const name of ['vring_avail', 'vring_used']) {
      expect([offset(name, 'flags'), offset(name, 'idx')]).toEqual([ring.FLAGS_AT, ring.INDEX_AT])
      expect(size(name)).toBe(ring.ENTRIES_AT)
    }
    expect(offset('vring_packed_desc_event', 'off_wrap')).toBe(ring.EVENT_POSITION_AT)
    expect(offset('vring_packed_desc_event', 'flags')).toBe(ring.EVENT_FLAGS_AT)
    const event = 2
    expect(ring.areaSizes('packed', 4).driver).toBe(size('vring_packed_desc_event'))
    expect(ring.areaSizes('split', 4).device).toBe(ring.ENTRIES_AT + 4 * (size('vring_used_elem') ?? 0) + event)
  })

  test('requests of an IOMMU lie as in the header, and end where the device’s part begins', () => {
    const requests = [
      iommu.virtioIommuReqAttach,
      iommu.virtioIommuReqDetach,
      iommu.virtioIommuReqMap,
      iommu.virtioIommuReqUnmap,
      iommu.virtioIommuReqProbe,
    ]
    const others = [
      iommu.virtioIommuConfig,
      iommu.virtioIommuReqTail,
      iommu.virtioIommuProbeResvMem,
      iommu.virtioIommuFault,
    ]
    for (const codec of [...requests, ...others]) {
      const { tail, ...fields } = seen.structs[codec.name]?.fields ?? {}
      const places = Object.fromEntries(codec.fields.map((field) => [field.name, [field.offset, field.size]]))
      expect({ name: codec.name, fields: places }).toEqual({ name: codec.name, fields })
      expect([codec.name, codec.size]).toEqual([codec.name, tail?.[0] ?? seen.structs[codec.name]?.size])
    }
    expect(requests.filter(({ name }) => seen.structs[name]?.fields['tail'] !== undefined)).toHaveLength(4)
  })

  test('the head of a control command is two bytes: class, then command', () => {
    expect(seen.structs['virtio_net_ctrl_hdr']).toEqual({ size: 2, align: 1, fields: { class: [0, 1], cmd: [1, 1] } })
  })
})

/** The text of a header, one definition a line, or undefined where it is not there. */
function textOf(name: string): string | undefined {
  const path = `${headers}/${name}`
  return existsSync(path) ? readFileSync(path, 'utf8').replaceAll(/\\\n/g, ' ') : undefined
}

/** Names that a text defines as plain numbers, among them those of an enum that say theirs. */
function definedNumbers(text: string): Numbers {
  const found = text.matchAll(
    /^(?:\s*#\s*define\s+(\w+)\s+|\s*(\w+)\s*=\s*)\(?(-?(?:0x[0-9a-f]+|\d+))\)?\s*,?\s*(?:\/\*.*)?$/gim,
  )
  return Object.fromEntries(
    [...found].map(([, define, enumerator, number]) => [define ?? enumerator ?? '', Number(number)]),
  )
}

/** Where the headers are that are read as text. They need not be those that the addon was built with. */
const headers = process.env['VHOST_VDPA_HEADERS'] ?? '/usr/include/linux'
const requestHeader = textOf('vhost.h')

/** What the tables leave out of the headers on purpose, and why. */
const leftOut: readonly RegExp[] = [
  /^VIRTIO_NET_CTRL_(NOTF_COAL_VQ_GET|STATS)/, // their answer is more than an acknowledgement
  /^VIRTIO_NET_STATS_TYPE_/,
  /^VIRTIO_(BLK_F_WCE|F_IOMMU_PLATFORM)$/, // second names
  /^VIRTIO_BLK_T_(SCSI_CMD|BARRIER)$/, // legacy, without a device that still has them
  /^VIRTIO_TRANS_ID_/, // of PCI
  /^VIRTIO_TRANSPORT_F_(START|END)$/, // no features
  /^VIRTIO_NET_F_(GUEST|HOST)_UDP_TUNNEL/, // past bit 63
]

const textSuite = requestHeader === undefined ? describe.skip : describe

textSuite(
  requestHeader === undefined
    ? `the text of the headers (skipped: there is no ${headers}/vhost.h)`
    : `the text of ${headers}`,
  () => {
    test('defines no request that the table lacks', () => {
      const names = [...(requestHeader ?? '').matchAll(/^#define\s+(VHOST_\w+)\s+_IO[RW]*\(/gm)].map(
        ([, name]) => name ?? '',
      )
      expect(names.length).toBeGreaterThan(30)
      expect(names.filter((name) => !(name in requestNumbers))).toEqual([])
    })

    test.each(['vhost.h', 'vhost_types.h', 'virtio_config.h', 'virtio_ids.h', 'virtio_net.h', 'virtio_blk.h'])(
      '%s defines no number that the tables lack or have otherwise',
      (name) => {
        const defined = Object.entries(definedNumbers(textOf(name) ?? '')).filter(
          ([word]) => /^(VHOST|VIRTIO)_/.test(word) && !leftOut.some((pattern) => pattern.test(word)),
        )
        expect(defined.length).toBeGreaterThan(3)
        expect(Object.fromEntries(defined.map(([word]) => [word, constants[word]]))).toEqual(
          Object.fromEntries(defined),
        )
      },
    )

    const kindHeaders = [
      '9p',
      'balloon',
      'bt',
      'console',
      'gpio',
      'gpu',
      'i2c',
      'iommu',
      'mem',
      'pmem',
      'scmi',
      'scsi',
      'snd',
      'vsock',
    ]
    const inKindHeaders: Numbers = Object.fromEntries(
      kindHeaders.flatMap((kind) =>
        Object.entries(definedNumbers(textOf(`virtio_${kind}.h`) ?? '')).filter(([word]) =>
          /^VIRTIO_([A-Z0-9]+_F_\w+|9P_MOUNT_TAG)$/.test(word),
        ),
      ),
    )
    const ofKinds: Numbers = Object.assign({}, ...Object.values(uapi.otherFeatureBits)) as Numbers
    const unknownOfKinds = unknownOf(Object.keys(ofKinds), inKindHeaders)

    test(`features of other kinds have the headers' numbers (${unchecked(unknownOfKinds, requestHeader !== undefined)})`, () => {
      expect(Object.keys(inKindHeaders).length).toBeGreaterThan(20)
      expect(Object.fromEntries(Object.keys(inKindHeaders).map((name) => [name, ofKinds[name]]))).toEqual(inKindHeaders)
      expect(unknownOfKinds.filter((name) => !newOfKinds.has(name))).toEqual([])
    })
  },
)
