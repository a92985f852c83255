// The page of `monitor --web`: devices, who holds them, what their queues count and how fast, what happened; a new look as often as the command looks.

import { createHash } from 'node:crypto'
import { pageStyle } from '../topology/html-style.js'
import type { MonitorLook } from './monitor.js'

const KEPT = 100

const script = `
'use strict'
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}
const row = (kind, ...cells) => element('tr', {}, ...cells.map((text) => element(kind, kind === 'th' ? { scope: 'col' } : {}, String(text))))
const data = JSON.parse(document.getElementById('data').textContent)
let at
let told = 0
function draw(look) {
  document.getElementById('state').textContent = 'as of ' + new Date(look.at).toLocaleTimeString()
  if (look.at === at) return
  at = look.at
  const sections = look.devices.map((device) => {
    const facts = [device.node ?? 'no node', device.heldBy.join('; ') || 'free', ...(device.silence === undefined ? [] : [device.silence])]
    const rows = device.queues.flatMap((queue) => Object.entries(queue.counters).map(([name, value]) =>
      row('td', queue.queue + ' ' + queue.queueKind, name, value, name in queue.rates ? Math.round(queue.rates[name]) + '/s' : '')))
    const table = rows.length === 0 ? [] : [element('table', {}, row('th', 'queue', 'counter', 'value', 'rate'), ...rows)]
    return element('section', { 'aria-label': device.name }, element('h2', {}, device.name), element('p', { class: 'quiet' }, facts.join(', ')), ...table)
  })
  document.getElementById('devices').replaceChildren(...(sections.length === 0 ? [element('p', {}, 'no vDPA devices')] : sections))
  const log = document.getElementById('events')
  const news = look.happened.filter(({ number }) => number > told)
  told = news.at(-1)?.number ?? told
  log.append(...news.map((one) => element('li', {}, new Date(one.at).toLocaleTimeString() + ' ' + one.text)))
  while (log.children.length > ${KEPT}) log.firstElementChild.remove()
}
async function again() {
  try {
    draw(await (await fetch('look', { cache: 'no-store' })).json())
  } catch {
    document.getElementById('state').textContent = 'the monitor has ended; this is what was seen last'
  }
  setTimeout(again, data.interval)
}
draw(data.look)
setTimeout(again, data.interval)
`

/** What the page may load and run. */
export const monitorPolicy = `default-src 'none'; script-src 'sha256-${createHash('sha256').update(script).digest('base64')}'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'`

/** One sentence of what happened, and the how manieth it is. */
export interface Happening {
  readonly number: number
  readonly at: string
  readonly text: string
}

/** What happened of late, in order: a page comes when it likes, and must not miss what a look between two of its own has seen. */
export class Happenings {
  #last: readonly Happening[] = []
  #count = 0

  get last(): readonly Happening[] {
    return this.#last
  }

  add({ at, events }: MonitorLook): void {
    const news = events.map((text) => ({ number: ++this.#count, at, text }))
    this.#last = [...this.#last, ...news].slice(-KEPT)
  }
}

/** What the page asks for. */
export interface PageLook extends MonitorLook {
  readonly happened: readonly Happening[]
}

/** The page with a first look in it. */
export function monitorPage(look: PageLook, interval: number): string {
  const data = lookJson({ look, interval }).replaceAll('<', '\\u003c')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vDPA devices</title>
<style>${pageStyle}</style>
</head>
<body>
<header><h1>vDPA devices</h1><p class="quiet" id="state" role="status"></p></header>
<main>
<div id="devices"></div>
<section aria-label="what happened"><h2>What happened</h2><ul id="events" aria-live="polite"></ul></section>
</main>
<script type="application/json" id="data">${data}</script>
<script>${script}</script>
</body>
</html>
`
}

/** JSON as in the command's documents: bigints are decimal strings. */
export function lookJson(data: object): string {
  return JSON.stringify(data, (_key, value: unknown) => (typeof value === 'bigint' ? value.toString() : value))
}
