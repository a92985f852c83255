// The page of `monitor --web`: devices, who holds them, what their queues count and how fast, what happened; a new look as often as the command looks.

import { createHash } from 'node:crypto'
import { pageStyle } from '../topology/html-style.js'
import type { MonitorLook } from './monitor.js'

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
  log.append(...look.events.map((text) => element('li', {}, new Date(look.at).toLocaleTimeString() + ' ' + text)))
  while (log.children.length > 100) log.firstElementChild.remove()
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

/** The page with a first look in it. */
export function monitorPage(look: MonitorLook, interval: number): string {
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
