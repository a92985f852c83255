// Plans: what they may say, what is to be done, doing it, and undoing it.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, it } from '@jest/globals'
import type { HostFiles } from '../../lib/backend/host-files.js'
import { nodeAccess } from '../../lib/management/node-access.js'
import { VdpaFamily } from '../../lib/management/vdpa-family.js'
import { openDevice } from '../../lib/open.js'
import {
  applyPlan,
  describeStep,
  formatPlan,
  parsePlan,
  describeNeed,
  describeProbe,
  memlockNeeds,
  planSchema,
  planSteps,
  type Plan,
  type PlanHost,
  type PlanStep,
  type PlannedDevice,
} from '../../lib/plan/index.js'
import { Simulator } from '../../lib/simulator/index.js'

const text = `
version: 1
devices:
  - name: net0
    managementDevice: vdpasim_net
    mac: 02:00:00:00:00:0A
    mtu: 9000
    driver: vhost_vdpa
  - name: blk0
    managementDevice: vdpasim_blk
    driver: virtio_vdpa
`

describe('a plan', () => {
  it('is YAML or JSON, and comes back as text', () => {
    const plan = parsePlan(text)
    expect(plan.devices).toHaveLength(2)
    expect(parsePlan(JSON.stringify(plan))).toEqual(plan)
    expect(parsePlan(formatPlan(plan))).toEqual(plan)
  })

  it.each([
    [
      'version: 1\ndevices:\n  - name: a\n    mtu: 5\n    managementDevice: m\n',
      'p.yaml:4:10: devices.0.mtu must be >= 68',
    ],
    ['version: 1\ndevices:\n  - nam: a\n', "p.yaml:3:10: devices.0 has no 'nam'"],
    ['version: 1\ndevices:\n  - name: a\n', "p.yaml:3:5: devices.0 must have required property 'managementDevice'"],
    ['version: 2\ndevices: []\n', 'p.yaml:1:10: version must be equal to constant'],
    [
      'version: 1\ndevices:\n  - {name: a, state: absent}\n  - {name: a, state: absent}\n',
      'p.yaml:4:12: a is there twice',
    ],
    [
      'version: 1\ndevices:\n  - {name: a, state: gone, managementDevice: m}\n',
      'must be equal to one of the allowed values: present, absent',
    ],
    ['version: [1\n', 'p.yaml:2:1: '],
    ...['.', '..', 'a/b', 'a b', 'a\\0b', 'a\\eb', ''].map((name): [string, string] => [
      `version: 1\ndevices:\n  - {name: "${name}", managementDevice: m}\n`,
      'devices.0.name must',
    ]),
    ['', 'p.yaml:1:1: the plan must be object'],
  ])('%j is refused at its place', (wrong, sentence) => {
    expect(() => parsePlan(wrong, 'p.yaml')).toThrow(
      expect.objectContaining({ code: 'ERR_VDPA_PLAN', message: expect.stringContaining(sentence) as unknown }),
    )
  })

  it('names every mistake', () => {
    const wrong = 'version: 1\ndevices:\n  - {name: a/b, managementDevice: m, mac: 1}\n'
    expect(() => parsePlan(wrong)).toThrow(/plan:3:12: .*; plan:3:43: /)
  })

  it('has a schema for editors that is the same', () => {
    expect(JSON.parse(readFileSync(join(__dirname, '../../docs/plan.schema.json'), 'utf8'))).toEqual(planSchema)
  })
})

describe('nodes and expectations', () => {
  const device = (more: string) => `version: 1\ndevices:\n  - {name: net0, managementDevice: m, ${more}}\n`

  it.each([
    ['driver: vhost_vdpa, node: {mode: 0660}', 'devices.0.node.mode must be string'],
    ['driver: vhost_vdpa, node: {mode: "0999"}', 'devices.0.node.mode must match'],
    ['driver: vhost_vdpa, node: {owner: -1}', 'devices.0.node.owner must be >= 0'],
    ['driver: vhost_vdpa, node: {label: short}', 'devices.0.node.label must match'],
    ['driver: vhost_vdpa, node: {colour: red}', "devices.0.node has no 'colour'"],
    ['driver: vhost_vdpa, node: {}', 'devices.0.node must NOT have fewer than 1 properties'],
    ['node: {mode: "0660"}', "devices.0 must have required property 'driver'"],
    ['driver: virtio_vdpa, node: {mode: "0660"}', 'devices.0.driver must be equal to constant: vhost_vdpa'],
    ['driver: none, expect: {groups: 2}', 'devices.0.driver must be equal to constant: vhost_vdpa'],
    ['driver: vhost_vdpa, expect: {groups: 0}', 'devices.0.expect.groups must be >= 1'],
    ['driver: vhost_vdpa, expect: {isolatedControlQueue: maybe}', 'must be equal to constant: true'],
  ])('%s is refused', (more, sentence) => {
    expect(() => parsePlan(device(more))).toThrow(sentence)
  })

  it('are what they say', () => {
    const more =
      'driver: vhost_vdpa, node: {mode: "660", owner: qemu, group: 36, label: "a:b:c:s0:c1,c2"}, expect: {isolatedControlQueue: true}'
    expect(parsePlan(device(more)).devices[0]).toMatchObject({ node: { owner: 'qemu', group: 36 } })
  })
})

describe('memlock', () => {
  const device = (name: string, more: string) => `  - {name: ${name}, managementDevice: m, ${more}}\n`
  const plan = (...devices: string[]) => parsePlan(`version: 1\ndevices:\n${devices.join('')}`)

  it('is the memory of all devices of a process, once for each, and 1 GiB', () => {
    const needs = memlockNeeds(
      plan(
        device('net0', 'process: vm1, memory: 4 GiB'),
        device('net1', 'process: vm1, memory: 4GiB'),
        device('net2', 'process: vm2, memory: 512 KiB'),
        device('net3', 'process: vm3'),
        device('net4', 'memory: 1 TiB'),
        device('net5', 'process: vm2, memory: 9 TiB, state: absent'),
      ),
    )
    expect(needs).toEqual([
      { process: 'vm1', devices: ['net0', 'net1'], bytes: 9n * 2n ** 30n },
      { process: 'vm2', devices: ['net2'], bytes: 2n ** 30n + 512n * 1024n },
    ])
    expect(needs.map(describeNeed)[0]).toBe('vm1 locks up to 9663676416 bytes for net0, net1: LimitMEMLOCK=9663676416')
  })

  it.each(['4', '4 GB', '0 GiB', '-1 GiB', '4.5 GiB'])('%j is no memory', (memory) => {
    expect(() => plan(device('net0', `process: a, memory: ${JSON.stringify(memory)}`))).toThrow('devices.0.memory')
  })

  it('asks for nothing to be done', async () => {
    const simulator = new Simulator()
    const host = { backend: simulator, root: simulator.management.files }
    const wanted = parsePlan(
      'version: 1\ndevices: [{ name: n, managementDevice: vdpasim_net, process: vm, memory: 1 GiB }]',
    )
    await applyPlan(wanted, host)
    expect(await planSteps(wanted, host)).toEqual([])
  })
})

describe('applying', () => {
  let simulator: Simulator
  let host: PlanHost
  beforeEach(() => {
    simulator = new Simulator()
    host = { backend: simulator, root: simulator.management.files }
  })

  const does = async (plan: Plan) => (await planSteps(plan, host)).map(describeStep)

  it('makes what is missing, and then nothing is to be done', async () => {
    const plan = parsePlan(text)
    const { steps, before } = await applyPlan(plan, host)
    expect(steps.map(describeStep)).toEqual([
      'make net0 by vdpasim_net',
      'give net0 to vhost_vdpa',
      'make blk0 by vdpasim_blk',
      'give blk0 to virtio_vdpa',
    ])
    expect(await does(plan)).toEqual([])
    expect((await applyPlan(plan, host, { onJournal: () => expect('called').toBe('never') })).steps).toEqual([])
    await applyPlan(before, host)
    expect(await (await opened()).devices()).toEqual([])
  })

  const opened = () => Promise.resolve(VdpaFamily.open(simulator))

  it('changes an address in place, and makes anew what cannot be changed', async () => {
    await applyPlan(parsePlan(text), host)
    const changed = parsePlan(text.replace('0A', '0b').replace('driver: virtio_vdpa', 'driver: none'))
    expect(await does(changed)).toEqual([
      'change the address of net0 from 02:00:00:00:00:0a to 02:00:00:00:00:0b',
      'give blk0 to no driver',
    ])
    const { before } = await applyPlan(changed, host)
    const larger = parsePlan(text.replace('9000', '1500'))
    expect((await does(larger))[0]).toBe('delete net0: mtu is 9000 and should be 1500')
    await applyPlan(larger, host)
    expect(await does(larger)).toEqual([])
    await applyPlan(parsePlan(text), host)
    expect(before.devices.map(({ name }) => name)).toEqual(['net0', 'blk0'])
  })

  it('leaves the host as it was where a step fails', async () => {
    await applyPlan(parsePlan(text), host)
    const family = await opened()
    const was = [await family.devices(), await family.configuration('net0')]
    const wrong: Plan = {
      version: 1,
      devices: [
        { name: 'net0', managementDevice: 'vdpasim_net', mtu: 1500 },
        { name: 'blk0', state: 'absent' },
        { name: 'x', managementDevice: 'nothing' },
      ],
    }
    await expect(applyPlan(wrong, host)).rejects.toMatchObject({ code: 'ENODEV' })
    expect([await family.devices(), await family.configuration('net0')].map(String)).toEqual(was.map(String))
    expect(await does(parsePlan(text))).toEqual([])
    await expect(
      applyPlan(wrong, host, {
        onStep: ({ device }) => {
          if (device === 'blk0') throw new Error('of the program')
        },
      }),
    ).rejects.toThrow('of the program')
    expect(await does(parsePlan(text))).toEqual([])
  })

  it('says both what failed and what could not be undone', async () => {
    await applyPlan(parsePlan(text), host)
    let isBroken = false
    const files = simulator.management.files
    const root: HostFiles = {
      ...files,
      write: (path, what) =>
        isBroken
          ? Promise.reject(Object.assign(new Error('no'), { code: 'EACCES', errno: -13 }))
          : files.write(path, what),
    }
    const plan: Plan = {
      version: 1,
      devices: [
        { name: 'blk0', managementDevice: 'vdpasim_blk', driver: 'none' },
        { name: 'x', managementDevice: 'nothing' },
      ],
    }
    const failed = applyPlan(
      plan,
      { backend: simulator, root },
      {
        onStep: (step) => {
          if (step.device === 'x') isBroken = true
        },
      },
    )
    await expect(failed).rejects.toMatchObject({
      message: 'the plan was not applied',
      errors: [expect.objectContaining({ code: 'ENODEV' }), expect.objectContaining({ code: 'EACCES' })] as unknown,
    })
  })

  const shared = text.replace('driver: vhost_vdpa', 'driver: vhost_vdpa\n    node: {mode: "0660", group: kvm}')

  it('says who may open a node, in place, and brings it back', async () => {
    await applyPlan(parsePlan(text), host)
    expect(await does(parsePlan(shared))).toEqual(['let the node of net0 have group kvm, mode 0660'])
    const { steps, before } = await applyPlan(parsePlan(shared), host)
    expect(steps).toEqual([
      {
        do: 'set node',
        device: 'net0',
        from: { mode: '0600', owner: 0, group: 0 },
        to: { mode: '0660', group: 'kvm' },
      },
    ])
    expect(await nodeAccess('/dev/vhost-vdpa-0', host.root)).toEqual({ mode: 0o660, owner: 0, group: 36 })
    expect(await does(parsePlan(shared))).toEqual([])
    // A device that is made anew has a node that is root's.
    expect(await does(parsePlan(shared.replace('9000', '1500')))).toEqual([
      'delete net0: mtu is 9000 and should be 1500',
      'make net0 by vdpasim_net',
      'give net0 to vhost_vdpa',
      'let the node of net0 have group kvm, mode 0660',
    ])
    await applyPlan(before, host)
    expect(await nodeAccess('/dev/vhost-vdpa-0', host.root)).toEqual({ mode: 0o600, owner: 0, group: 0 })
    const moved = shared.replace('vhost_vdpa\n', 'none\n').replace(/ *node:.*\n/, '')
    await applyPlan(parsePlan(moved), host)
    expect(await does(parsePlan(shared))).toEqual([
      'give net0 to vhost_vdpa',
      'let the node of net0 have group kvm, mode 0660',
    ])
  })

  it('brings back who may open a node where another step fails', async () => {
    await applyPlan(parsePlan(shared), host)
    const plan = parsePlan(shared.replace('0660', '0666'))
    const wrong: Plan = { version: 1, devices: [...plan.devices, { name: 'x', managementDevice: 'nothing' }] }
    await expect(applyPlan(wrong, host)).rejects.toMatchObject({ code: 'ENODEV' })
    expect(await does(parsePlan(shared))).toEqual([])
    const anew: Plan = {
      version: 1,
      devices: [
        { name: 'net0', state: 'absent' },
        { name: 'x', managementDevice: 'nothing' },
      ],
    }
    await expect(applyPlan(anew, host)).rejects.toMatchObject({ code: 'ENODEV' })
    expect(await does(parsePlan(shared))).toEqual([])
  })

  it('knows the users of the host, and changes nothing for others', async () => {
    const plan = parsePlan(shared.replace('kvm', 'vms'))
    await expect(applyPlan(plan, host)).rejects.toMatchObject({
      code: 'ERR_VDPA_PLAN',
      message: expect.stringMatching(/^ERR_VDPA_PLAN: the node of net0: group must be .* \/etc\/group/) as unknown,
    })
    expect(await (await opened()).devices()).toEqual([])
  })

  const expecting = (expect: PlannedDevice['expect'], managementDevice = 'vdpasim_net'): Plan => ({
    version: 1,
    devices: [{ name: 'dev0', managementDevice, driver: 'vhost_vdpa', ...(expect !== undefined && { expect }) }],
  })

  it('looks whether devices are what is expected of them, each time', async () => {
    const plan = expecting({ groups: 2, addressSpaces: 2, isolatedControlQueue: true })
    const seen = [{ device: 'dev0', groups: 2, addressSpaces: 2 }]
    expect((await applyPlan(plan, host)).probes).toEqual(seen)
    const again = await applyPlan(plan, host)
    expect(again).toMatchObject({ steps: [], probes: seen })
    expect(again.probes.map(describeProbe)).toEqual([
      'dev0 has 2 groups and 2 address spaces; its control queue can be alone',
    ])
    await expect(applyPlan(expecting({ groups: 9 }), host)).rejects.toThrow('dev0 has 2 groups and not 9')
    expect(await planSteps(plan, host)).toEqual([])
  })

  it('undoes what is not what is expected of it', async () => {
    const plan = expecting({ addressSpaces: 1000, isolatedControlQueue: true }, 'vdpasim_blk')
    await expect(applyPlan(plan, host)).rejects.toMatchObject({
      code: 'ERR_VDPA_REFUSED',
      message: expect.stringMatching(
        /expects: dev0 has \d+ address spaces and not 1000; dev0 cannot have its control queue alone: it has none$/,
      ) as unknown,
    })
    expect(await (await opened()).devices()).toEqual([])
  })

  it('leaves alone what somebody has open', async () => {
    const plan = expecting({ groups: 9 })
    await applyPlan(expecting(undefined), host)
    await using device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator })
    await device.negotiate([])
    const { probes } = await applyPlan(plan, host)
    expect(probes).toEqual([{ device: 'dev0', heldBy: expect.stringContaining(`pid ${process.pid}`) as unknown }])
    expect(probes.map(describeProbe)[0]).toMatch(/^dev0 was not looked at: .* has it$/)
    expect(device.status).not.toBe(0)
    // The look at who holds it saw nobody.
    const { files } = simulator.management
    const root = { ...files, list: (path: string) => (path === 'proc' ? Promise.resolve([]) : files.list(path)) }
    const blind = await applyPlan(plan, { backend: simulator, root })
    expect(blind.probes).toEqual([{ device: 'dev0', heldBy: 'somebody whom this process cannot see' }])
  })

  it('names who holds a device, and changes nothing', async () => {
    await applyPlan(parsePlan(text), host)
    await using _device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator })
    await expect(applyPlan(parsePlan(text.replace('9000', '1500')), host)).rejects.toThrow(`pid ${process.pid}`)
    expect(await does(parsePlan(text))).toEqual([])
  })

  it('ends when it is told to, between two steps and while it waits, and leaves the host as it was', async () => {
    const controller = new AbortController()
    const counted: unknown[] = []
    const onStep = (step: PlanStep, index: number, count: number) => {
      counted.push([index, count])
      if (step.device === 'blk0') controller.abort(new Error('enough'))
    }
    await expect(applyPlan(parsePlan(text), host, { signal: controller.signal, onStep })).rejects.toMatchObject({
      code: 'ERR_VDPA_CANCELED',
      cause: { message: 'enough' },
    })
    expect(counted).toEqual([
      [0, 4],
      [1, 4],
      [2, 4],
    ])
    expect(await (await opened()).devices()).toEqual([])
    await applyPlan(parsePlan(text), host)
    await using _device = await openDevice('/dev/vhost-vdpa-0', { backend: simulator })
    const signal = AbortSignal.timeout(20)
    const waiting = applyPlan(parsePlan(text.replace('9000', '1500')), host, { wait: true, timeout: 60_000, signal })
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_VDPA_CANCELED' })
    expect(await does(parsePlan(text))).toEqual([])
  })

  it('begins nothing where the journal cannot be kept', async () => {
    const onJournal = () => {
      throw new Error('no room')
    }
    await expect(applyPlan(parsePlan(text), host, { onJournal })).rejects.toThrow('no room')
    expect(await (await opened()).devices()).toEqual([])
  })

  it('undoes what does not show what it was told', async () => {
    const family = await opened()
    const interfered = applyPlan(parsePlan(text), host, {
      // Somebody else is at work, too.
      onStep: (step) => {
        if (step.device === 'blk0' && step.do === 'bind') void family.delete('net0')
      },
    })
    await expect(interfered).rejects.toMatchObject({ code: 'ERR_VDPA_REFUSED' })
    expect(await family.devices()).toEqual([])
  })
})
