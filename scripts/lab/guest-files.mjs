// Writes what the guest is to do into the writable share: the steps of setting up devices, templates of the environment and of
// devices.json, and the command itself. The guest fills in what only it knows (paths and interface names).
import { copyFile, mkdir, open, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { guestShare, pciAddress, pciDevices, simulatedDevices } from './devices.mjs'
import { cacheFolder } from './kernel.mjs'

/** The machine's own folder inside the share; tests have no business in it. */
export const ownFolder = '.lab'

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`
const mark = (name) => `@${name}@`
const shared = (file) => `${guestShare}/${file}`

/** Lines for guest/setup-devices.sh, one step each. */
function setupSteps(devices) {
  const multiqueue = devices.filter((device) => device.queuePairs !== undefined)
  return [
    ...devices.map((device) => `override ${pciAddress(device.slot)}`),
    ...multiqueue.map((device) => `multiqueue ${pciAddress(device.slot)}`),
    'modules',
    ...simulatedDevices.map((device) => `add ${device.name} ${device.management} ${device.options}`.trim()),
    ...devices.map((device) => `add ${device.name} pci/${pciAddress(device.slot)}`),
    ...devices
      .filter(({ peer }) => peer)
      .map(({ name, peer }) => `peer ${name} ${pciAddress(peer.slot)} ${peer.address}`),
  ]
}

function describe(device) {
  const { name, kind, env, management, mac, peer, capture, image, queuePairs } = device
  return {
    name,
    kind,
    env,
    path: mark(name),
    management: management ?? `pci/${pciAddress(device.slot)}`,
    ...(mac && { mac, qemu: { device: name, netdev: `${name}-net` } }),
    ...(queuePairs && { queuePairs }),
    ...(peer && { peer: { env: peer.env, interface: mark(`${name}-peer`), mac: peer.mac, address: peer.address } }),
    ...(capture && { capture: { env: capture.env, path: shared(capture.file) } }),
    ...(image && { image: { env: image.env, path: shared(image.file), size: image.size } }),
  }
}

/** The variables of devices, with marks where the guest knows the value. */
function deviceVariables(devices) {
  const variables = new Map(simulatedDevices.map((device) => [device.env, mark(device.name)]))
  for (const { name, env, peer, capture, image } of devices) {
    variables.set(env, mark(name))
    if (peer) variables.set(peer.env, mark(`${name}-peer`))
    for (const file of [capture, image]) if (file) variables.set(file.env, shared(file.file))
  }
  return variables
}

function hostVariables(requested) {
  const variables = new Map()
  const passed = ['LANG', 'LC_ALL', 'TZ', 'TERM', 'CI', 'NO_COLOR', 'FORCE_COLOR']
  for (const entry of [...passed, ...requested]) {
    const border = entry.indexOf('=')
    const name = border === -1 ? entry : entry.slice(0, border)
    const value = border === -1 ? process.env[name] : entry.slice(border + 1)
    if (value !== undefined) variables.set(name, value)
  }
  return variables
}

function environmentFile(plan, devices) {
  const variables = new Map([
    ['PATH', `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin`],
    ['HOME', '/tmp/home'],
    ['TMPDIR', '/tmp'],
    ['LAB_OUT', guestShare],
    ['LAB_KERNEL', plan.kernel.release],
    ['LAB_QMP', '/dev/virtio-ports/qmp'],
    // The host's, for guests of this guest.
    ['VHOST_VDPA_LAB_CACHE', cacheFolder()],
    ...deviceVariables(devices),
    ...(plan.hugepages > 0 ? [['LAB_HUGEPAGES', '/run/hugepages']] : []),
    ...hostVariables(plan.env),
  ])
  return [...variables].map(([name, value]) => `export ${name}=${quote(value)}\n`).join('')
}

/** The command's own script: environment, limits, folder, then the command in place of the shell. */
function commandScript(plan) {
  const lines = [`. ${shared(ownFolder)}/environment`, `cd ${quote(plan.folder)} || exit 126`]
  if (plan.memlock !== undefined) lines.push(`ulimit -l ${plan.memlock} || exit 126`)
  return `${lines.join('\n')}\nexec ${plan.command.map(quote).join(' ')}\n`
}

/** Folders of the host that the guest's own /tmp or /run would hide: bound back in over them. */
function hiddenFolders(plan) {
  const isHidden = (path) => /^\/(tmp|run)\//.test(path)
  return [...new Set([plan.folder, dirname(process.execPath), cacheFolder()])].filter(isHidden)
}

/** Fills the share. `plan` as for machineArguments, with `command`, `folder`, `env`, `memlock`, `parameters` (of modules, in words) and `absent` (name → reason). */
export async function writeGuestFiles(plan) {
  const own = join(plan.shareFolder, ownFolder)
  // A folder given by --out may hold what an earlier machine left: its exit code, or a report that would pass for this one's.
  await rm(own, { recursive: true, force: true })
  for (const name of ['devices.json', 'jest.json']) await rm(join(plan.shareFolder, name), { force: true })
  await mkdir(own, { recursive: true })
  const devices = pciDevices.filter((device) => !plan.absent.has(device.name))
  const absent = pciDevices.filter((device) => plan.absent.has(device.name))
  const description = {
    kernel: plan.kernel.release,
    parameters: plan.parameters,
    devices: [...simulatedDevices, ...devices].map(describe),
    absent: absent.map(({ name, env }) => ({ name, env, reason: plan.absent.get(name) })),
  }
  const texts = {
    steps: setupSteps(devices).join('\n') + '\n',
    'environment.template': environmentFile(plan, devices),
    'devices.template': `${JSON.stringify(description, null, 2)}\n`,
    'command.sh': commandScript(plan),
    hidden: hiddenFolders(plan)
      .map((path) => `${path}\n`)
      .join(''),
    hugepages: plan.hugepages > 0 ? `${plan.hugepages}\n` : '',
  }
  for (const [name, text] of Object.entries(texts)) await writeFile(join(own, name), text)
  const setup = fileURLToPath(new URL('guest/setup-devices.sh', import.meta.url))
  await copyFile(setup, join(own, 'setup-devices.sh'))
  for (const { image } of devices.filter((device) => device.image)) {
    const file = await open(join(plan.shareFolder, image.file), 'w')
    await file.truncate(image.size)
    await file.close()
  }
}
