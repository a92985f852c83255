// The command by its words: what it prints, as a table and as JSON, and its exit codes; on the simulator and on hosts that lack something.

import { readFileSync } from 'node:fs'
import { describe, expect, it } from '@jest/globals'
import { vdpaError } from '../../lib/base/errors'
import { simulatedHost, type Host } from '../../lib/cli/host'
import { run } from '../../lib/cli/program'
import { openDevice } from '../../lib/open'
import { networkDevice, Simulator } from '../../lib/simulator/index'

interface Ran {
  readonly code: number
  readonly out: string
  readonly err: string
}

async function command(words: string, host?: Host, isTTY = false): Promise<Ran> {
  let out = ''
  let err = ''
  const code = await run(words.split(' '), {
    stdout: { write: (text) => (out += text), isTTY },
    stderr: { write: (text) => (err += text) },
    environment: {},
    ...(host !== undefined && { host }),
  })
  return { code, out, err }
}

/** The one document that a command with --json prints. */
async function document(words: string, host?: Host): Promise<Record<string, unknown> & { readonly code: number }> {
  const { code, out, err } = await command(`${words} --json`, host)
  expect(err).toBe('')
  expect(out.trimEnd()).not.toContain('\n')
  const data = JSON.parse(out) as Record<string, unknown>
  expect(data.version).toBe(1)
  return { ...data, code }
}

describe('looking', () => {
  it('lists the devices of the simulator', async () => {
    const { code, out, err } = await command('list --simulator')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    expect(out.split('\n').slice(0, 3)).toEqual([
      'DEVICE  KIND   DRIVER      NODE               MADE BY      HELD BY',
      'blk0    block  vhost_vdpa  /dev/vhost-vdpa-1  vdpasim_blk  free',
      'net0    net    vhost_vdpa  /dev/vhost-vdpa-0  vdpasim_net  free',
    ])
    expect(out).toContain('can make devices: vdpasim_net (net), vdpasim_blk (block)')
  })

  it('says the same as JSON', async () => {
    expect(await document('list --simulator')).toMatchObject({
      code: 0,
      devices: [
        { name: 'blk0', node: '/dev/vhost-vdpa-1', holders: [] },
        { name: 'net0', node: '/dev/vhost-vdpa-0', managed: { kind: 'net', managementDevice: 'vdpasim_net' } },
      ],
      managementDevices: [{ handle: 'vdpasim_net' }, { handle: 'vdpasim_blk' }],
    })
  })

  it('names who holds a device, and does not disturb it', async () => {
    const host = await simulatedHost()
    const device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
    await device.negotiate(['VIRTIO_NET_F_CTRL_VQ'])
    const { out } = await command('list', host)
    expect(out).toContain(`this process, pid ${process.pid}`)
    expect((await command('show net0', host)).code).toBe(0)
    expect((await document('stats net0 2', host)).statistics).toMatchObject({
      queueKind: 'control',
      counters: { 'cvq requests': '0' },
    })
    expect(device.status).not.toBe(0)
    await device.close()
  })

  it.each(['net0', '/dev/vhost-vdpa-0'])('shows a device that is called %s', async (name) => {
    const { code, out } = await command(`show ${name} --simulator`)
    expect(code).toBe(0)
    for (const fact of ['02:00:00:00:00:01', 'VIRTIO_NET_F_CTRL_VQ', '0x308830028', 'held by'])
      expect(out).toContain(fact)
    expect(out).not.toContain('\u001b')
  })

  it('shows a disk, and a device that no management device made', async () => {
    expect((await document('show blk0 --simulator')).configuration).toMatchObject({ block: { capacity: '262144' } })
    const simulator = new Simulator()
    simulator.add(networkDevice({ path: '/dev/vhost-vdpa-3' }))
    const host: Host = {
      name: 'a host',
      isSimulated: true,
      backend: () => simulator,
      files: simulator.management.files,
    }
    expect((await command('show vdpa3', host)).out).toContain('no management device made it')
  })

  it('uses colours on a terminal alone', async () => {
    expect((await command('list --simulator', undefined, true)).out).toContain('\u001b[1m')
    expect((await command('list --simulator --json', undefined, true)).out).not.toContain('\u001b')
  })
})

describe('isolation', () => {
  it('can be had by the network device of the simulator', async () => {
    const { code, out } = await command('isolate net0 --simulator')
    expect(code).toBe(0)
    expect(out).toContain('queue 2 can have an address space of its own: put group 1 into it')
    expect(await document('isolate net0 --simulator')).toMatchObject({
      controlQueue: 2,
      groups: 2,
      queues: [{ group: 0 }, { group: 0 }, { group: 1 }],
      verdict: { isolated: true, group: 1 },
    })
  })

  it('is refused with exit code 1 where the groups do not allow it, and for a disk', async () => {
    const simulator = new Simulator()
    simulator.add(networkDevice({ groups: [0, 0, 0] }))
    const { files } = simulator.management
    const host: Host = { name: 'a host', isSimulated: true, backend: () => simulator, files }
    expect(await document('isolate vdpa0', host)).toMatchObject({ code: 1, verdict: { isolated: false } })
    expect(simulator.descriptors).toEqual([])
    expect((await document('isolate blk0 --simulator')).error).toMatchObject({ code: 'ERR_VDPA_WRONG_DEVICE' })
  })
})

describe('changing', () => {
  it('makes, changes, moves and deletes a device', async () => {
    const host = await simulatedHost()
    expect(await command('add net1 vdpasim_net --mac 02:00:00:00:00:09 --mtu 9000', host)).toMatchObject({
      code: 0,
      out: 'net1 was made (/dev/vhost-vdpa-2)\n',
    })
    expect((await command('set net1 --mac 02:00:00:00:00:0a', host)).code).toBe(0)
    expect((await document('show net1', host)).configuration).toMatchObject({
      network: { mac: '02:00:00:00:00:0a', mtu: 9000 },
    })
    expect((await command('unbind net1', host)).out).toBe('no driver has net1\n')
    expect((await command('isolate net1', host)).err).toContain('`vhost-vdpa bind net1 vhost_vdpa` gives it one')
    expect((await command('bind net1 virtio-vdpa', host)).out).toBe('virtio_vdpa has net1\n')
    expect((await command('bind net1', host)).out).toBe('vhost_vdpa has net1 (/dev/vhost-vdpa-2)\n')
    expect((await command('remove net1', host)).out).toBe('net1 was deleted\n')
    expect((await document('show net1', host)).error).toMatchObject({ code: 'ENODEV', hint: 'there are: blk0, net0' })
  })

  it('finds a device whose name the kernel spells otherwise, by either spelling', async () => {
    const host = await simulatedHost()
    for (const [one, other] of [
      ['a/b', 'a!b'],
      ['c!d', 'c/d'],
    ] as const) {
      const name = one.replace('/', '!')
      expect((await command(`add ${one} vdpasim_net`, host)).out).toBe(`${name} was made (/dev/vhost-vdpa-2)\n`)
      expect(await document(`show ${other}`, host)).toMatchObject({ device: { name, managed: { name } } })
      expect(await command(`bind ${other} virtio_vdpa`, host)).toMatchObject({ code: 0 })
      expect(await command(`remove ${one}`, host)).toMatchObject({ code: 0, out: `${name} was deleted\n` })
    }
  })

  it('is refused while somebody holds the device, by name and with the next step', async () => {
    const host = await simulatedHost()
    await using _device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
    for (const words of ['remove net0', 'unbind net0', 'bind net0 virtio_vdpa', 'remove net0 --wait --timeout 20']) {
      const { code, out, err } = await command(words, host)
      expect({ code, out }).toEqual({ code: 1, out: '' })
      expect(err).toContain(`pid ${process.pid}`)
    }
    expect((await document('list', host)).devices).toHaveLength(2)
  })

  it("passes the kernel's own words on", async () => {
    const { code, err } = await command('add x pci/0000:65:00.2 --simulator')
    expect(code).toBe(1)
    expect(err).toContain('ENODEV')
    expect(err).toContain('Fail to find the specified management device')
    expect((await document('add net0 vdpasim_net --simulator')).error).toMatchObject({ code: 'EEXIST' })
  })
})

describe('misuse', () => {
  it.each([
    '',
    'lst',
    'show',
    'stats net0 -1',
    'add x vdpasim_net --mtu many --simulator',
    'add x vdpasim_net --mtu 1 --simulator',
    'add x vdpasim_net --mac zz --simulator',
    'add x vdpasim_net --features 0x1ffffffffffffffff',
    'set net0',
    'completion tcsh',
    'list --frob',
    'remove net0 --timeout 0 --simulator',
  ])('%j ends with exit code 2 and words on stderr', async (words) => {
    const { code, out, err } = await command(words)
    expect({ code, out }).toEqual({ code: 2, out: '' })
    expect(err).not.toBe('')
  })

  const helpOf: Readonly<Record<string, string>> = {
    '': '`vhost-vdpa help` shows the commands',
    lst: '`vhost-vdpa help` shows the commands',
    show: '`vhost-vdpa show --help` shows what it takes',
    'list --frob': '`vhost-vdpa list --help` shows what it takes',
    'completion tcsh': '`vhost-vdpa completion --help` shows what it takes',
    'stats net0 x': '`vhost-vdpa stats --help` shows what it takes',
    plan: '`vhost-vdpa plan --help` shows what it takes',
    'trace record': '`vhost-vdpa trace record --help` shows what it takes',
  }

  it.each(Object.entries(helpOf))(
    '%j with --json is a document and nothing else, and leads to the help that fits',
    async (words, hint) => {
      const { code, error } = await document(words)
      expect(code).toBe(2)
      expect(error).toMatchObject({
        code: 'ERR_INVALID_ARG_VALUE',
        message: expect.not.stringMatching(/^error|^\(/) as unknown,
        hint,
      })
      const { err } = await command(words)
      // Without any words the help itself is shown.
      if (words !== '') expect(err).toContain(`(${hint})`)
    },
  )

  it.each([
    'add x vdpasim_net --mac zz --simulator',
    'add x a/b/c --simulator',
    'serve block',
    'monitor --openmetrics --simulator',
  ])('%j with --json is a document with a code and the help that fits, too', async (words) => {
    const [name = ''] = words.split(' ')
    const hint = `\`vhost-vdpa ${name} --help\` shows what it takes`
    expect(await document(words)).toMatchObject({ code: 2, error: { code: 'ERR_INVALID_ARG_VALUE', hint } })
    if (name !== 'monitor') expect((await command(words)).err.endsWith(` (${hint})\n`)).toBe(true)
  })

  it('says that there is no help for a command that is not there', async () => {
    const { code, error } = await document('help nope')
    expect({ code, error }).toMatchObject({ code: 2, error: { message: "unknown command 'nope'" } })
    expect((await command('help nope')).err).toContain("error: unknown command 'nope'\n")
  })

  it.each([
    ['stats net0 0', 'EAGAIN', 'a driver counts from when'],
    ['stats blk0 0', 'EOPNOTSUPP', 'counts nothing'],
    ['set blk0 --mac 02:00:00:00:00:01', 'ERR_VDPA_NOT_SUPPORTED', 'network devices of some makers'],
    ['set net0 --mac 01:00:00:00:00:01', 'EOPNOTSUPP', 'its first byte is even'],
    ['add x nothing', 'ENODEV', '`vhost-vdpa list` names what can make devices', 'VDPA_CMD_DEV_NEW on x: '],
    ['add net0 vdpasim_net', 'EEXIST', '`vhost-vdpa show`'],
    ['isolate blk0', 'ERR_VDPA_WRONG_DEVICE', '`vhost-vdpa list`'],
    ['plan /nowhere', 'ENOENT', 'look whether the file'],
    ['trace show /nowhere', 'ENOENT', 'look whether the file'],
    ['plan /', 'EISDIR', 'name a file in that folder'],
    ['plan /dev/null', 'ERR_VDPA_PLAN', '`vhost-vdpa plan --schema`'],
    ['trace show /etc/passwd', 'ERR_VDPA_TRACE', '`vhost-vdpa trace record`'],
    ['bind net0 frob', 'ENOENT', 'modprobe frob'],
    ['trace record /dev/full net0', 'ENOSPC', 'make room there'],
    ['plan /etc/passwd/x', 'ENOTDIR', 'look whether the file'],
    [`plan /${'x'.repeat(300)}`, 'ENAMETOOLONG', 'give the file a shorter name'],
    ['add x vdpasim_blk --mac 02:00:00:00:00:01', 'EOPNOTSUPP', 'leave out what its maker cannot be told'],
    ['add x vdpasim_net --features 0xffffffffffffffff', 'EINVAL', '`vhost-vdpa list --json` shows'],
  ])('%s is refused with a next step', async (words, code, step, about = '') => {
    const { error } = await document(`${words} --simulator`)
    expect(error).toMatchObject({ code, hint: expect.stringContaining(step) as unknown })
    const { err } = await command(`${words} --simulator`)
    expect(err).toContain(step)
    expect(err).toContain(about)
  })

  it('suggests what may have been meant', async () => {
    expect((await command('lis')).err).toContain('Did you mean list?')
  })
})

describe('doctor', () => {
  it('is content with the simulator', async () => {
    const { code, out } = await command('doctor --simulator')
    expect(code).toBe(0)
    expect(out).toContain('device net0: /dev/vhost-vdpa-0 can be opened')
    expect(out).not.toContain('would not')
  })

  it('says on a laptop without any device what would work, what would not, and what to do', async () => {
    const files = {
      ...new Simulator().management.files,
      list: () => Promise.reject(new Error('ENOENT')),
      read: () => Promise.reject(new Error('ENOENT')),
    }
    const bare: Host = {
      name: 'a laptop',
      isSimulated: true,
      files,
      backend: () => {
        throw vdpaError('ERR_VDPA_NO_ADDON', 'it was not built')
      },
    }
    const { code, out } = await command('doctor', bare)
    expect(code).toBe(1)
    for (const line of [
      'sudo modprobe vhost_vdpa',
      'npm rebuild vhost-vdpa',
      'works       developing and testing on the simulator',
      'would not   opening a device',
    ])
      expect(out).toContain(line)
    expect(await document('doctor', bare)).toMatchObject({ code: 1, usable: [], works: [{ works: true }, {}, {}] })
  })

  it('names a device that has no node, may not be opened, or is held', async () => {
    const host = await simulatedHost()
    await using _device = await openDevice('/dev/vhost-vdpa-0', { backend: host.backend() })
    await command('unbind blk0', host)
    const { code, out } = await command('doctor', host)
    expect(code).toBe(1)
    expect(out).toContain('sudo vhost-vdpa bind blk0 vhost_vdpa')
    expect(out).toContain('/dev/vhost-vdpa-0 is held by')
    const closed: Host = { ...host, files: { ...host.files, isAllowed: () => Promise.resolve(false) } }
    expect((await command('doctor', closed)).out).toContain('sudo chmod 660 /dev/vhost-vdpa-0')
  })

  it.each([
    [
      'mlx5_core',
      'devlink dev param set pci/0000:65:00.2 name enable_vnet value true cmode driverinit',
      'devlink dev reload pci/0000:65:00.2',
    ],
    [
      'pds_core',
      'devlink dev param set pci/0000:65:00.2 name enable_vnet value true cmode runtime',
      'modprobe pds_vdpa',
    ],
  ])('says what devlink must be told where a card of %s makes nothing', async (driver, ...commands) => {
    const host = await simulatedHost()
    const entries = ['0000:65:00.2', 'bind', 'new_id', 'module']
    const list = (path: string) =>
      path === `sys/bus/pci/drivers/${driver}` ? Promise.resolve(entries) : host.files.list(path)
    const { out } = await command('doctor', { ...host, files: { ...host.files, list } })
    for (const words of [`card of ${driver}: 0000:65:00.2 could make`, ...commands]) expect(out).toContain(words)
    const nothing = (path: string) =>
      path === `sys/bus/pci/drivers/${driver}` ? Promise.resolve(['bind']) : host.files.list(path)
    expect((await command('doctor', { ...host, files: { ...host.files, list: nothing } })).out).not.toContain('card of')
  })

  it('looks at this host without failing', async () => {
    expect([0, 1]).toContain((await document('doctor')).code)
  })
})

describe('a terminal', () => {
  it('sees how far long work is, on stderr, and nothing of it afterwards', async () => {
    let err = ''
    const words = ['bench', 'net0', '--time', '1', '--simulator']
    const stderr = { write: (text: string) => (err += text), isTTY: true }
    expect(await run(words, { stdout: { write: () => true }, stderr, environment: {} })).toBe(0)
    expect(err).toContain('\r\u001b[K[....................] status')
    expect(err).toContain('\r\u001b[K[##########..........] mappings')
    expect(err.endsWith('\r\u001b[K')).toBe(true)
    expect((await command('bench net0 --time 1 --simulator')).err).toBe('')
  })
})

describe('completion and help', () => {
  it('says which version it is', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { readonly version: string }
    expect(await command('--version')).toMatchObject({ code: 0, out: `${version}\n`, err: '' })
  })

  it.each(['bash', 'zsh', 'fish'])('gives a script for %s with every command', async (shell) => {
    const { code, out } = await command(`completion ${shell}`)
    expect(code).toBe(0)
    for (const word of ['list', 'isolate', 'doctor', 'remove']) expect(out).toContain(word)
  })

  it('explains every command', async () => {
    const { code, out, err } = await command('--help')
    expect({ code, err }).toEqual({ code: 0, err: '' })
    expect(out.replace(/\s+/g, ' ')).toContain('their nodes, and who holds them')
  })
})
