// The machine's own network namespace, where a tap with several queues can be made without touching the host's network.
// It vanishes with the machine. Where it cannot be made, the reason is said and the devices that need it are left out.
import { pciDevices } from './devices.mjs'
import { run } from './processes.mjs'

const tapDevices = pciDevices.filter((device) => device.wire === 'tap')

// IPv6 would put frames on the wire that no test has sent.
function namespaceScript() {
  const lines = ['set -e', 'echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6 || true']
  for (const { name } of tapDevices) {
    lines.push(
      `ip link add ${name}-wire type bridge`,
      `ip tuntap add ${name} mode tap multi_queue`,
      `ip tuntap add ${name}-peer mode tap`,
    )
    for (const end of [name, `${name}-peer`])
      lines.push(`ip link set ${end} master ${name}-wire`, `ip link set ${end} up`)
    lines.push(`ip link set ${name}-wire up`)
  }
  return lines.join('\n')
}

const environment = () => ({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` })

/** Tries the namespace once. Resolves with `wrap`, which puts a command line inside it, and the devices to leave out with the reason. */
export async function prepareNetwork() {
  const { code, stderr } = await run('unshare', ['--net', '/bin/sh', '-c', namespaceScript()], { env: environment() })
  if (code === 0) {
    const script = `${namespaceScript()}\nexec "$@"`
    return { absent: new Map(), wrap: (command) => ['unshare', '--net', '/bin/sh', '-c', script, 'sh', ...command] }
  }
  const reason = `this host cannot make a tap with several queues: ${stderr.trim().split('\n')[0]}`
  return { absent: new Map(tapDevices.map(({ name }) => [name, reason])), wrap: (command) => command }
}
