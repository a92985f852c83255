// Commands that look at one device by netlink and sysfs alone: features, status, config. None opens a node.

import { vdpaError } from '../base/errors.js'
import type { DeviceConfiguration } from '../management/family-facts.js'
import { describeHolder } from '../management/release.js'
import type { Host } from './host.js'
import { configurationOf, findDevice } from './looks.js'
import { table, type Paint, type Report } from './output.js'

/** `features`: what a device offers, and what its driver took. ENODEV; ERR_VDPA_NOT_SUPPORTED where no management device made it. */
export async function features(host: Host, name: string, paint: Paint): Promise<Report> {
  const { device, configuration } = await configured(host, name)
  const { deviceFeatures: offered, negotiatedFeatures: negotiated } = configuration
  const taken = new Set(negotiated?.names)
  const rows = (offered?.names ?? []).map((feature) => [
    feature,
    negotiated === undefined ? '-' : taken.has(feature) ? 'yes' : 'no',
  ])
  return {
    data: { device, offered, negotiated },
    lines: [
      `${device}: offers ${offered?.bits ?? 'what it does not say'}, negotiated ${negotiated?.bits ?? 'nothing yet'}`,
      ...table(['FEATURE', 'NEGOTIATED'], rows, paint),
    ],
  }
}

/** `status`: who has a device, and how far its driver came. Exit code 1 where nobody could open it now. ENODEV. */
export async function status(host: Host, name: string, paint: Paint): Promise<Report> {
  const device = await findDevice(host, name)
  const { driver, node, holders } = device
  const configuration = device.managed === undefined ? undefined : await configurationOf(host, device.name)
  const isNegotiated = configuration?.negotiatedFeatures !== undefined
  const state =
    node === undefined ? (driver === undefined ? 'unbound' : 'without a node') : holders.length > 0 ? 'held' : 'free'
  const words = {
    unbound: 'no driver has it',
    'without a node': `${driver ?? ''} has it, which makes no node`,
    held: `${node ?? ''} is held by ${holders.map(describeHolder).join('; ')}`,
    free: `${node ?? ''} can be opened`,
  }[state]
  return {
    data: {
      device: device.name,
      state,
      driver,
      node,
      holders,
      isNegotiated,
      isLinkUp: configuration?.network?.isLinkUp,
    },
    lines: [
      `${device.name}: ${paint(state === 'free' ? 'green' : 'yellow', state)}`,
      `  ${words}`,
      `  features are ${isNegotiated ? '' : 'not '}negotiated`,
    ],
    exitCode: state === 'free' ? 0 : 1,
  }
}

/** `config`: the configuration as the kernel tells it, of disks too. ENODEV; ERR_VDPA_NOT_SUPPORTED where no management device made it. */
export async function config(host: Host, name: string): Promise<Report> {
  const { device, configuration } = await configured(host, name)
  const { kind, network, block } = configuration
  const facts = Object.entries(network ?? block ?? {})
  const width = Math.max(0, ...facts.map(([key]) => key.length))
  return {
    data: { device, kind, network, block },
    lines: [`${device} (${kind})`, ...facts.map(([key, value]) => `  ${key.padEnd(width)}  ${String(value)}`)],
  }
}

const opensHint = 'opening it would reset it; `vhost-vdpa topology` does that'

async function configured(
  host: Host,
  name: string,
): Promise<{ readonly device: string; readonly configuration: DeviceConfiguration }> {
  const { name: device, managed } = await findDevice(host, name)
  if (managed === undefined)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', 'no management device made it, so nobody tells without opening it', {
      path: device,
      hint: opensHint,
    })
  const configuration = await configurationOf(host, device)
  if (configuration === undefined)
    throw vdpaError('ERR_VDPA_NOT_SUPPORTED', `the kernel tells no configuration of a device of kind ${managed.kind}`, {
      path: device,
      hint: opensHint,
    })
  return { device, configuration }
}
