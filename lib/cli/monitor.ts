// `monitor`: counters and events of all devices, again and again: a table that is drawn anew on a terminal, a JSON line for each look in a pipe. It opens no node.

import { setTimeout as sleep } from 'node:timers/promises'
import { fileFailure } from '../backend/file-errors.js'
import { isVdpaError } from '../base/errors.js'
import { inventory, type Inventory, type InventoryDevice } from '../inventory.js'
import { statisticsRates, type QueueStatistics } from '../management/family-facts.js'
import { describeHolder } from '../management/release.js'
import { VdpaFamily } from '../management/vdpa-family.js'
import { openMetrics } from '../observe/open-metrics.js'
import { WebServer } from '../topology/web-server.js'
import type { Host } from './host.js'
import { Happenings, lookJson, monitorPage, monitorPolicy } from './monitor-page.js'
import { monitorLines } from './monitor-table.js'
import { jsonLine, type Paint, type Sink } from './output.js'

/** How to watch. */
export interface MonitorOptions {
  /** Milliseconds between two looks. */
  readonly interval: number
  /** How many looks; without end where absent. */
  readonly count?: number
  /** Ends it. */
  readonly signal: AbortSignal
  /** JSON lines, also on a terminal. */
  readonly isJson: boolean
  /** Whether a table can be drawn over the one before; on a terminal that cannot, one follows the other. */
  readonly canRedraw: boolean
  /** An OpenMetrics exposition for each look, in place of both. */
  readonly isOpenMetrics?: boolean
  /** A page on this port of 127.0.0.1 (0: any) in place of all of them. */
  readonly web?: number
}

/** One queue in one look. */
export interface WatchedQueue extends QueueStatistics {
  /** What counters grew by since the look before, per second. */
  readonly rates: Readonly<Record<string, number>>
}

/** One look. */
export interface MonitorLook {
  /** When, in ISO 8601. */
  readonly at: string
  /** What changed since the look before, as sentences. */
  readonly events: readonly string[]
  /** Devices with the counters that could be had; `silence` says why there are none. */
  readonly devices: readonly {
    readonly name: string
    readonly node?: string
    readonly heldBy: readonly string[]
    readonly queues: readonly WatchedQueue[]
    readonly silence?: string
  }[]
}

/** Looks until the count is reached or the signal comes. TypeError where more than one form is asked for; else errors as of inventory(). */
export async function monitor(host: Host, out: Sink, paint: Paint, options: MonitorOptions): Promise<void> {
  const { web, isJson, isOpenMetrics = false } = options
  if (isOpenMetrics && (isJson || web !== undefined))
    throw new TypeError('--openmetrics is text for a scraper: neither a document (--json) nor a page (--web)')
  if (web !== undefined) return monitorWeb(host, out, web, options)
  if (out.isTTY === true && !isJson && !isOpenMetrics) return monitorTable(host, out, paint, options)
  const form = isOpenMetrics ? exposition : (look: MonitorLook) => jsonLine({ ...look })
  await lookAgainAndAgain(host, options, (look) => out.write(form(look)))
}

/** A table on a terminal, which also follows the terminal's size. */
async function monitorTable(host: Host, out: Sink, paint: Paint, options: MonitorOptions): Promise<void> {
  let last: MonitorLook | undefined
  const draw = () => {
    if (last === undefined) return
    const lines = monitorLines(last, paint, options.canRedraw ? out : {})
    out.write(`${options.canRedraw ? '\u001b[H\u001b[J' : ''}${lines.map((line) => `${line}\n`).join('')}`)
  }
  if (options.canRedraw) out.on?.('resize', draw)
  try {
    await lookAgainAndAgain(host, options, (look) => {
      last = look
      draw()
    })
  } finally {
    out.off?.('resize', draw)
  }
}

async function lookAgainAndAgain(host: Host, options: MonitorOptions, show: (look: MonitorLook) => void) {
  let before: MonitorLook | undefined
  for (let turn = 0; turn !== options.count && !options.signal.aborted; turn++) {
    if (turn > 0 && !(await waited(options))) return
    const look: MonitorLook = await lookOnce(host, before, options.interval)
    show(look)
    before = look
  }
}

/** Says where the page is, and looks until the signal comes or the count is reached. */
async function monitorWeb(host: Host, out: Sink, port: number, options: MonitorOptions): Promise<void> {
  let look = await lookOnce(host, undefined, options.interval)
  const happened = new Happenings()
  const seen = () => ({ ...look, happened: happened.last })
  const page = () => monitorPage(seen(), options.interval)
  const views = { page, look: () => lookJson(seen()), policy: monitorPolicy }
  await using server = await WebServer.listen(views, { port }).catch(fileFailure(`127.0.0.1:${port}`))
  out.write(options.isJson ? jsonLine({ url: server.url }) : `${server.url}  (Ctrl-C ends)\n`)
  for (let turn = 1; turn !== options.count && (await waited(options)); turn++) {
    look = await lookOnce(host, look, options.interval)
    happened.add(look)
  }
}

/** A look as text for those who scrape: whether a device is held, and what its queues count. */
function exposition({ devices }: MonitorLook): string {
  return openMetrics(
    devices.flatMap(({ name: device, node = '', heldBy, queues }) => [
      { prefix: 'vhost_vdpa_device', labels: { device, node }, gauges: { held: heldBy.length > 0 ? 1 : 0 } },
      ...queues.map(({ queue, queueKind, counters }) => ({
        prefix: 'vhost_vdpa_queue',
        labels: { device, queue: String(queue), kind: queueKind },
        counters,
      })),
    ]),
  )
}

/** False where the signal came first. */
async function waited({ interval, signal }: MonitorOptions): Promise<boolean> {
  try {
    await sleep(interval, undefined, { signal })
    return true
  } catch {
    return false
  }
}

async function lookOnce(host: Host, before: MonitorLook | undefined, interval: number): Promise<MonitorLook> {
  try {
    const found = await inventory({ ...(host.isSimulated && { backend: host.backend() }), root: host.files })
    const at = new Date()
    const elapsed = before === undefined ? interval : at.getTime() - Date.parse(before.at)
    const devices = []
    for (const device of found.devices) devices.push(await watched(host, device, before, elapsed))
    return { at: at.toISOString(), events: before === undefined ? [] : eventsBetween(before, found), devices }
  } catch (failure) {
    if (before === undefined || !isVdpaError(failure) || failure.code !== 'ERR_VDPA_TIMEOUT') throw failure
    return unanswered(before, failure.message)
  }
}

/** A look while the family waits, as it does for whoever has a device that is being deleted: what was there, uncounted. It is watched on until it answers. */
function unanswered({ devices }: MonitorLook, why: string): MonitorLook {
  const isNew = devices.some(({ silence }) => silence !== why)
  return {
    at: new Date().toISOString(),
    events: isNew ? [`the kernel tells nothing of devices: ${why}`] : [],
    devices: devices.map((device) => ({ ...device, queues: [], silence: why })),
  }
}

async function watched(host: Host, device: InventoryDevice, before: MonitorLook | undefined, elapsed: number) {
  const { name, node, holders, managed } = device
  const earlier = before?.devices.find((one) => one.name === name)?.queues
  const queues: WatchedQueue[] = []
  let silence = managed === undefined ? 'no management device made it' : undefined
  if (managed !== undefined) {
    await using family = VdpaFamily.open(host.backend())
    for (let queue = 0; queue < managed.maxQueues && silence === undefined; queue++) {
      try {
        const now = await family.statistics(name, queue)
        const then = earlier?.find((one) => one.queue === queue)
        queues.push({ ...now, rates: then === undefined ? {} : statisticsRates(then, now, elapsed) })
      } catch (failure) {
        // EAGAIN before a driver negotiated, EOPNOTSUPP where nothing is counted, EPERM without CAP_NET_ADMIN.
        if (!isVdpaError(failure)) throw failure
        silence = failure.message
      }
    }
  }
  const heldBy = holders.map(describeHolder)
  return { name, ...(node !== undefined && { node }), heldBy, queues, ...(silence !== undefined && { silence }) }
}

function eventsBetween(before: MonitorLook, { devices }: Inventory): string[] {
  const names = new Set(devices.map(({ name }) => name))
  const gone = before.devices.filter(({ name }) => !names.has(name)).map(({ name }) => `${name} is gone`)
  const changed = devices.flatMap((device) => {
    const then = before.devices.find(({ name }) => name === device.name)
    if (then === undefined) return [`${device.name} appeared`]
    const heldBy = device.holders.map(describeHolder)
    return [
      ...heldBy.filter((one) => !then.heldBy.includes(one)).map((one) => `${device.name} was opened by ${one}`),
      ...then.heldBy.filter((one) => !heldBy.includes(one)).map((one) => `${device.name} was let go of by ${one}`),
      ...(then.node === device.node ? [] : [`${device.name} has ${device.node ?? 'no node'}`]),
    ]
  })
  return [...gone, ...changed]
}
