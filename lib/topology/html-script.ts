// What the page of a topology does in a browser: a map of each address space that is zoomed and moved by buttons, keys, wheel and pointer, and, where the page is
// served, a new look every second. It is text: it runs in the browser alone and loads nothing but `look`, beside the page.

/** The page's script. Addresses are BigInt: an address space has 2^64 of them. */
export const pageScript = `
'use strict'
const WIDTH = 1000, HEIGHT = 60, THINNEST = 3, ROWS = 500, RECTS = 2000
const LAST = (1n << 64n) - 1n
const element = (name, attributes = {}, ...children) => {
  const svg = name === 'svg' || name === 'rect' || name === 'title'
  const made = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}
const hex = (value) => '0x' + value.toString(16)
const sizeOf = (bytes) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB']
  let unit = 0
  let rest = bytes
  while (rest >= 1024n && rest % 1024n === 0n && unit < 6) { rest /= 1024n; unit++ }
  return rest + ' ' + units[unit]
}
const data = JSON.parse(document.getElementById('data').textContent)
const maps = new Map()

class SpaceMap {
  constructor(asid) {
    this.asid = asid
    this.mappings = []
    this.showsAll = true
    this.map = element('svg', { class: 'map', viewBox: '0 0 ' + WIDTH + ' ' + HEIGHT, preserveAspectRatio: 'none', tabindex: '0', role: 'img' })
    this.range = element('output', { 'aria-live': 'polite' })
    this.table = element('table')
    const button = (text, label, act) => {
      const made = element('button', { type: 'button', 'aria-label': label + ', address space ' + asid, title: label }, text)
      made.addEventListener('click', act)
      return made
    }
    const bar = element('div', { class: 'bar' },
      button('+', 'Closer', () => this.zoom(1n, 2n)), button('−', 'Farther', () => this.zoom(2n, 1n)),
      button('←', 'To lower addresses', () => this.move(-1n)), button('→', 'To higher addresses', () => this.move(1n)),
      button('All', 'All mappings', () => this.showAll()), this.range)
    this.section = element('section', { 'aria-label': 'address space ' + asid }, element('h2', {}, 'Address space ' + asid), bar, this.map, this.table)
    this.listen()
  }

  listen() {
    const keys = { '+': () => this.zoom(1n, 2n), '=': () => this.zoom(1n, 2n), '-': () => this.zoom(2n, 1n), ArrowLeft: () => this.move(-1n),
      ArrowRight: () => this.move(1n), Home: () => this.showAll(), 0: () => this.showAll() }
    this.map.addEventListener('keydown', (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key]
      if (act === undefined) return
      event.preventDefault()
      act()
    })
    this.map.addEventListener('wheel', (event) => {
      event.preventDefault()
      const box = this.map.getBoundingClientRect()
      const at = BigInt(Math.round(1000 * (event.clientX - box.left) / box.width))
      event.deltaY < 0 ? this.zoom(1n, 2n, at) : this.zoom(2n, 1n, at)
    }, { passive: false })
    let from
    this.map.addEventListener('pointerdown', (event) => { from = event.clientX; this.map.setPointerCapture(event.pointerId) })
    this.map.addEventListener('pointerup', () => { from = undefined })
    this.map.addEventListener('pointermove', (event) => {
      if (from === undefined) return
      const parts = BigInt(Math.round(1000 * (from - event.clientX) / this.map.getBoundingClientRect().width))
      if (parts === 0n) return
      from = event.clientX
      this.place(this.first + (this.span * parts) / 1000n, this.span)
    })
  }

  get span() { return this.last - this.first + 1n }

  place(first, span) {
    this.showsAll = false
    const size = span < 64n ? 64n : span > LAST + 1n ? LAST + 1n : span
    const highest = LAST + 1n - size
    this.first = first < 0n ? 0n : first > highest ? highest : first
    this.last = this.first + size - 1n
    this.draw()
  }

  zoom(by, of, at = 500n) {
    const span = (this.span * by) / of
    this.place(this.first + ((this.span - span) * at) / 1000n, span)
  }

  move(way) { this.place(this.first + way * (this.span / 8n + 1n), this.span) }

  showAll() {
    const first = this.mappings.length === 0 ? 0n : this.mappings[0].first
    const last = this.mappings.length === 0 ? LAST : this.mappings.at(-1).last
    const margin = (last - first + 1n) / 50n
    this.place(first - margin, last - first + 1n + 2n * margin)
    this.showsAll = true
  }

  show({ first, last }) {
    this.chosen = hex(first)
    const size = last - first + 1n
    this.place(first - size / 2n, size * 2n)
    this.map.focus()
  }

  update(mappings) {
    const text = JSON.stringify(mappings)
    if (text === this.seen) return
    this.seen = text
    this.mappings = mappings.map((one) => ({ first: BigInt(one.first), last: BigInt(one.last), access: one.access }))
    this.list()
    if (this.showsAll) this.showAll()
    else this.draw()
  }

  list() {
    const head = element('tr', {}, ...['first', 'last', 'size', 'access', ''].map((text) => element('th', { scope: 'col' }, text)))
    const rows = this.mappings.slice(0, ROWS).map((one) => {
      const button = element('button', { type: 'button', 'aria-label': 'Show ' + hex(one.first) + ' on the map' }, 'show')
      button.addEventListener('click', () => this.show(one))
      return element('tr', {}, element('td', {}, hex(one.first)), element('td', {}, hex(one.last)),
        element('td', {}, sizeOf(one.last - one.first + 1n)), element('td', { class: one.access }, one.access), element('td', {}, button))
    })
    const more = this.mappings.length - rows.length
    if (more > 0) rows.push(element('tr', {}, element('td', { colspan: '5' }, 'and ' + more + ' more')))
    if (rows.length === 0) rows.push(element('tr', {}, element('td', { colspan: '5' }, 'nothing is mapped')))
    const focused = this.table.contains(document.activeElement) ? document.activeElement.getAttribute('aria-label') : null
    this.table.replaceChildren(head, ...rows)
    if (focused === null) return
    // The button that had the focus is there anew, or its mapping is gone.
    const same = [...this.table.querySelectorAll('button')].find((one) => one.getAttribute('aria-label') === focused)
    ;(same ?? this.map).focus()
  }

  draw() {
    const place = (address) => Number(((address - this.first) * 100000n) / this.span) / 100
    const seen = this.mappings.filter((one) => one.last >= this.first && one.first <= this.last)
    const rects = seen.slice(0, RECTS).map((one) => {
      const left = one.first < this.first ? 0 : place(one.first)
      const right = one.last > this.last ? WIDTH : place(one.last + 1n)
      const width = Math.max(THINNEST, right - left)
      const shape = element('rect', { x: Math.min(left, WIDTH - width), y: 8, width, height: HEIGHT - 16, class: one.access + (hex(one.first) === this.chosen ? ' chosen' : '') })
      shape.append(element('title', {}, hex(one.first) + ' to ' + hex(one.last) + ' ' + one.access))
      return shape
    })
    this.map.replaceChildren(...rects)
    this.range.textContent = hex(this.first) + ' to ' + hex(this.last)
    this.map.setAttribute('aria-label', 'address space ' + this.asid + ': ' + seen.length + ' of ' + this.mappings.length + ' mappings from ' +
      hex(this.first) + ' to ' + hex(this.last) + '. Plus and minus zoom, arrows move, Home shows all.')
  }
}

function draw(topology) {
  const spaces = document.getElementById('spaces')
  for (const { asid, mappings } of topology.spaces) {
    let map = maps.get(asid)
    if (map === undefined) {
      map = new SpaceMap(asid)
      maps.set(asid, map)
      spaces.append(map.section)
    }
    map.update(mappings)
  }
}

async function look() {
  const state = document.getElementById('state')
  try {
    const answer = await fetch('look', { cache: 'no-store' })
    const { topology, picture, error } = await answer.json()
    if (error !== undefined) { state.textContent = error; return answer.status === 410 }
    if (document.getElementById('picture').dataset.seen !== picture) {
      document.getElementById('picture').innerHTML = picture
      document.getElementById('picture').dataset.seen = picture
    }
    draw(topology)
    state.textContent = 'live, ' + new Date().toLocaleTimeString()
  } catch {
    state.textContent = 'the program that served this page is gone; this is what was seen last'
  }
  return false
}

draw(data.topology)
if (data.isLive) {
  const again = async () => { if (!(await look())) setTimeout(again, 1000) }
  setTimeout(again, 1000)
}
`
