// The public face of the package.
/// <reference types="node" preserve="true" />

export { isVdpaError, VdpaError, type VdpaErrorCode, type VdpaErrorDetails } from './base/errors.js'
export type { Closeable, Releasable } from './base/closeable.js'
export {
  diagnosticsChannels,
  type EventMessage,
  type IotlbWriteMessage,
  type MissChannelMessage,
  type QueueMessage,
  type RequestMessage,
  type StateMessage,
} from './base/diagnostics.js'
export type { Range } from './base/ranges.js'
export * from './backend/backend.js'
export * from './backend/sockets.js'
export { RecordingBackend, type RecordingOptions } from './backend/recording-backend.js'
export {
  FaultyBackend,
  type FailOptions,
  type LateFault,
  type PlantedFault,
  type ShortenOptions,
} from './backend/faulty-backend.js'
export type { CallMatch, FaultyOp } from './backend/fault-plan.js'
export type { Call, Op, ShownCall, SocketCall } from './backend/call.js'
export type { Outcome, Refusal } from './backend/outcome.js'
export type { PortableBytes } from './backend/symbols.js'
export { formatTrace, parseTrace, type Trace, type TraceEvent } from './backend/trace.js'
export { printEvent } from './backend/print-event.js'
export { openMetrics, type MetricSource } from './observe/open-metrics.js'
export { perfettoTrace } from './observe/perfetto.js'
export { traceEventJson } from './observe/trace-event-json.js'
export { timelineOf, type Timeline, type TimelineSlice, type TimelineTrack } from './observe/timeline.js'
export {
  compareTrace,
  replay,
  type ReplayOptions,
  type ReplayReport,
  type ToleratedDifference,
  type TraceDifference,
} from './backend/replay.js'
export type {
  AdoptOptions,
  AllocateOptions,
  CloseMemoryOptions,
  MemoryHold,
  MemoryHolder,
  MemoryRegion,
} from './memory/memory-region.js'
export * from './memory/guest-memory.js'
export { RingMemory } from './memory/ring-memory.js'
export * from './uapi/index.js'
export { VhostVdpaTransport, type VringAddresses } from './transport/vhost-vdpa.js'
export { VhostChardevTransport } from './transport/vhost-chardev.js'
export { AddressSpace, type FoundMapping } from './device/address-space.js'
export type { Mappable, MappingRequest, MapRegionOptions, MemoryTable, UnmapRequest } from './device/mapping-request.js'
export { MemoryFollower, type ChangingMemoryTable, type FollowOptions } from './device/memory-follower.js'
export type { ChangeOptions, MapProgress } from './device/send-plan.js'
export type { Mapping } from './device/space-contents.js'
export { IovaAllocator, type IovaAllocatorOptions, type IovaWish, type TakenRanges } from './iotlb/iova-allocator.js'
export type { Access, MappingSnapshot } from './iotlb/mapping.js'
export { ConfigSpace } from './device/config-space.js'
export { DeviceQueue } from './device/device-queue.js'
export type { DeviceStateName } from './device/device-state.js'
export { FeatureSet, type FeatureOf, type FeatureWish } from './device/feature-set.js'
export { VirtqueueGroups, type AsidLike, type IsolationVerdict } from './device/groups.js'
export type { ClaimOptions } from './device/claim.js'
export type { DeviceEvents } from './device/device-events.js'
export type { DeviceQueueOptions, NotifyBy, QueueSnapshot } from './device/queue-options.js'
export {
  SNAPSHOT_VERSION,
  type ControlBook,
  type ControlCommand,
  type DeviceSnapshot,
  type GroupState,
  type MappingState,
  type QueueBooks,
  type QueueState,
  type SnapshotOptions,
  type SpaceState,
} from './device/snapshot.js'
export { VdpaDevice, type CancelOptions } from './device/vdpa-device.js'
export { Vring, type EventfdLike, type VringSetup } from './device/vring.js'
export type { BreakdownHost } from './control/breakdown.js'
export {
  ControlQueue,
  type CommandOptions,
  type ControlAnswer,
  type ControlPort,
  type ExchangeOptions,
} from './control/control-queue.js'
export { NetControlQueue, type ControlHost, type NetControlOptions } from './control/net-control-queue.js'
export type { StateCommand } from './control/control-state.js'
export type { GuestControlRing, GuestTable } from './control/guest-ring.js'
export {
  ShadowControlQueue,
  type ShadowCounters,
  type ShadowHost,
  type ShadowOptions,
  type ShadowReplayOptions,
} from './control/shadow-queue.js'
export type { AuditEvent, ControlPolicy, GuestCommand, PolicyVerdict } from './control/shadow-policy.js'
export {
  DirtyLog,
  dirtyRanges,
  type DirtyLogOptions,
  type DirtyPages,
  type DirtyRange,
  type GuestPieces,
} from './shadow/dirty-log.js'
export { planShadow, type ShadowMode, type ShadowPlan, type ShadowPlanOptions } from './shadow/mode.js'
export {
  ShadowQueue,
  type BeginShadowOptions,
  type GuestDataRing,
  type ShadowQueueCounters,
  type ShadowQueueOptions,
} from './shadow/shadow-queue.js'
export type { NetCounters } from './drivers/net-counters.js'
export {
  NetDriver,
  type FrameWaitOptions,
  type NetDriverOptions,
  type NetDriverSnapshot,
} from './drivers/net-driver.js'
export type { SaveOptions } from './drivers/driver-queues.js'
export type { PacketHeader, ReceivedHeader } from './drivers/net-header.js'
export type { FrameHandler, FramePartsHandler } from './drivers/net-receiver.js'
export {
  BlockDriver,
  type BlockDriverOptions,
  type BlockRequestOptions,
  type BlockSnapshot,
} from './drivers/block-driver.js'
export { BlockQueue } from './drivers/block-queue.js'
export type { BlockCompletions, BlockCounters, BlockDone } from './drivers/block-queue-types.js'
export { BLOCK_NO_STATUS } from './drivers/block-errors.js'
export type { BlockLimits, RangeLimits } from './drivers/block-limits.js'
export { checkSnapshot } from './move/check-snapshot.js'
export { compareSnapshot } from './move/differences.js'
export {
  moveDevice,
  prepareMove,
  type DeviceMove,
  type MoveDeviceOptions,
  type MoveOptions,
  type MoveResult,
} from './move/move.js'
export type { CopiedMemory } from './move/memory-copy.js'
export type { MoveReport, MoveStep } from './move/stopwatch.js'
export { restoreDevice, type Restored, type RestoreOptions } from './move/restore.js'
export { recoverDevice, type RecoverOptions } from './move/recover.js'
export type { QueueEventfds } from './move/arrive.js'
export type { SavedDriver } from './move/carried.js'
export { ownPartTypes, snapshotFromParts, snapshotToParts, type ReadParts } from './move/parts.js'
export type { MappingChange, MappingSink, MemorySlice } from './iotlb/mapping-sink.js'
export type { SleepingCall, Steps } from './base/steps.js'
export * from './uapi/virtio-iommu.js'
export { VirtioIommu } from './iommu/virtio-iommu.js'
export { iommuDevice, type IommuDevice, type IommuDeviceOptions } from './iommu/iommu-device.js'
export { iommuFeatureBits, type IommuEndpoint, type VirtioIommuOptions } from './iommu/iommu-options.js'
export type { ReservedRange } from './iommu/reserved.js'
export type { IommuFault, Translation } from './iommu/translate.js'
export type { IommuRequest } from './iommu/wire.js'
export { MissServer, type MissServerOptions } from './misses/miss-server.js'
export type { MissCounters } from './misses/miss-counters.js'
export type { MissFault, MissFaultReason } from './misses/miss-faults.js'
export { missPort, type MissPort } from './misses/port.js'
export { RegionTranslator, type TranslatedRegion } from './misses/region-translator.js'
export type { MissAnswer, MissRequest, MissVerdict, Translator } from './misses/translator.js'
export { decodeMiss, type MissMessage, type RecordVersion } from './misses/message.js'
export * from './virtqueue/virtqueue.js'
export { createDeviceRing, createDriverRing } from './virtqueue/create.js'
export { areaSizes, initialState, type AreaSizes } from './virtqueue/layout.js'
export type { DeviceLaw, DeviceRingOptions, DriverRingOptions, RingOptions } from './virtqueue/ring-options.js'
export { KernelBackend } from './kernel/kernel-backend.js'
export { openVhostNet, type OpenVhostNetOptions } from './open-vhost-net.js'
export type { TapTarget, VhostNetOptions } from './vhost-net/options.js'
export { VhostNet, type VhostNetWaitOptions } from './vhost-net/vhost-net.js'
export { openDevice, openDeviceSync, type DeviceTarget, type OpenOptions } from './open.js'
export {
  statisticsRates,
  type BlockFacts,
  type DeviceConfiguration,
  type FeatureBits,
  type ManagedDevice,
  type ManagementDevice,
  type NetworkFacts,
  type QueueStatistics,
} from './management/family-facts.js'
export {
  GenericNetlink,
  type Answer,
  type AskOptions,
  type NetlinkFamily,
  type Question,
} from './management/generic-netlink.js'
export {
  busDevices,
  devicesOfPciFunction,
  nodeHolders,
  type BusDevice,
  type NodeHolder,
  type NodeHolders,
  type HostRoot,
} from './management/sysfs.js'
export {
  bindDriver,
  moveToDriver,
  nodeOfDevice,
  setDriverOverride,
  unbindDriver,
  waitForNode,
  type NodeWaitOptions,
} from './management/binding.js'
export { nodeAccess, setNodeAccess, type NodeAccess, type NodeAccessWish } from './management/node-access.js'
export { describeHolder, holdersOf, removeDevice, type ReleaseOptions } from './management/release.js'
export type { FileAttributes, HostFiles } from './backend/host-files.js'
export { VdpaFamily, type NewDevice } from './management/vdpa-family.js'
export { inventory, type Inventory, type InventoryDevice, type InventoryOptions } from './inventory.js'
export {
  topologyOf,
  type Topology,
  type TopologyGroup,
  type TopologyMapping,
  type TopologyQueue,
  type TopologySpace,
} from './topology/topology.js'
export { topologyMermaid, topologyText } from './topology/text.js'
export { topologySvg } from './topology/svg.js'
export { topologyHtml } from './topology/html.js'
export { serveTopology } from './topology/serve.js'
export type { WebOptions, WebServer, WebViews } from './topology/web-server.js'
