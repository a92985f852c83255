// A topology as one HTML page that needs nothing else: the picture, and a zoomable map of each address space.

import { createHash } from 'node:crypto'
import { pageScript } from './html-script.js'
import { pageStyle } from './html-style.js'
import { topologySvg } from './svg.js'
import { topologyText } from './text.js'
import { checkTopology, type Topology } from './topology.js'

/** What a page may load and run: its own script, and `look` beside it. */
export const pagePolicy = `default-src 'none'; script-src 'sha256-${sha256(pageScript)}'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'`

/**
 * One self-contained page: what topologySvg() draws, and for each address space a map that is zoomed and moved by buttons, keys (plus, minus, arrows, Home), wheel and
 * pointer, beside a list of all mappings. It loads nothing; without scripts it shows the text. Since 0.1.0.
 */
export function topologyHtml(topology: Topology): string {
  checkTopology(topology)
  return topologyPage(topology, false)
}

/** The page; where it is live it asks `look` beside itself every second. */
export function topologyPage(topology: Topology, isLive: boolean): string {
  const title = escapeHtml(`${topology.path} (${topology.kind ?? 'device'})`)
  // A script element ends at the first </script, whatever it holds.
  const data = JSON.stringify({ topology, isLive }).replaceAll('<', '\\u003c')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${escapeHtml(pagePolicy)}">
<title>${title}</title>
<style>${pageStyle}</style>
</head>
<body>
<header><h1>${title}</h1><p class="quiet" id="state" role="status">${isLive ? 'live' : 'as it was when this was written'}</p></header>
<main>
<div id="picture">${topologySvg(topology)}</div>
<noscript><pre>${escapeHtml(topologyText(topology).join('\n'))}</pre></noscript>
<div id="spaces"></div>
</main>
<script type="application/json" id="data">${data}</script>
<script>${pageScript}</script>
</body>
</html>
`
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('base64')
}

/** Text in HTML, between tags and in attributes. */
export function escapeHtml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}
