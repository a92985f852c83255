// The public door of the simulator: the backend, its devices, and the words to say what goes wrong.

export { Simulator } from './simulator.js'
export type { SimulatorOptions } from './simulator.js'
export type { AddressSpaceDump, MappingDump, NodeDump, QueueDump } from './dump.js'
export type { DelayOptions, FailOptions, Faults, FaultTarget } from './faults.js'
export { deviations, profiles } from './profiles.js'
export type { Deviation, Profile } from './profiles.js'
export type { SchedulerMode } from './scheduler.js'
export { networkDevice, pair, extraNetFeatures, DEFAULT_NET_FEATURES } from '../models/network.js'
export type { NetCounters, NetworkDevice, NetworkDeviceOptions } from '../models/network.js'
