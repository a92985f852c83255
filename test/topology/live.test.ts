// The served page as a person at a browser has it: it follows the device without being loaded anew, is worked by keys, can be read, and shows nothing to who lacks the token.

import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { openDevice } from '../../lib/open.js'
import { networkDevice, Simulator } from '../../lib/simulator/index.js'
import { serveTopology } from '../../lib/topology/serve.js'
import { Browser, hasBrowser, whyNoBrowser } from '../browser.js'
import { contrast } from './contrast.js'

const path = '/dev/vhost-vdpa-0'

/** A device with its page; `map` gives it 4 KiB of its own at an address. */
async function served() {
  const backend = new Simulator()
  backend.add(networkDevice({ path, queuePairs: 2 }))
  const device = await openDevice(path, { backend })
  await device.negotiate(['VIRTIO_NET_F_CTRL_VQ', 'VIRTIO_NET_F_MQ'])
  const map = (iova: bigint, asid = 0) => device.addressSpace(asid).map({ iova, region: backend.allocate(4096) })
  const web = await serveTopology(device)
  const close = async () => {
    await web.close()
    await device.close()
  }
  return { device, map, web, [Symbol.asyncDispose]: close }
}

/** Every piece of text that is seen, its colour and the ground it stands on. */
const texts = `(() => {
  const opaque = (colour) => colour !== 'rgba(0, 0, 0, 0)' && colour !== 'transparent'
  const groundOf = (element) => {
    for (let at = element; at !== null; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at)
      if (opaque(backgroundColor)) return backgroundColor
    }
    return 'none'
  }
  const under = (element) => {
    const { left, top, width, height } = element.getBoundingClientRect()
    const [x, y] = [left + width / 2, top + height / 2]
    return [...element.ownerSVGElement.querySelectorAll('rect')].find((rect) => {
      const box = rect.getBoundingClientRect()
      return x > box.left && x < box.right && y > box.top && y < box.bottom
    })
  }
  return [...document.body.querySelectorAll('*')].flatMap((element) => {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim() !== '').map((node) => node.data).join('')
    if (own === '' || element.getClientRects().length === 0) return []
    const style = getComputedStyle(element)
    if (element.namespaceURI.endsWith('svg') === false) return [{ text: own, colour: style.color, ground: groundOf(element) }]
    if (element.tagName !== 'text') return []
    const rect = under(element)
    return [{ text: own, colour: style.fill, ground: rect === undefined ? groundOf(element.ownerSVGElement) : getComputedStyle(rect).fill }]
  })
})()`

/** Presses Tab until the focus is on what a selector says, as somebody without a mouse; false where it comes round again. */
async function tabTo(browser: Browser, selector: string): Promise<boolean> {
  for (let pressed = 0; pressed < 50; pressed++) {
    await browser.press('Tab')
    if ((await browser.value(`document.activeElement.matches(${JSON.stringify(selector)})`)) === true) return true
  }
  return false
}

const inBrowser = hasBrowser ? describe : describe.skip
inBrowser(`the served page in a browser${whyNoBrowser}`, () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await Browser.start()
  })
  afterAll(() => browser[Symbol.asyncDispose]())

  const shown = () => browser.value('document.body.innerText') as Promise<string>
  const range = () => browser.value(`document.querySelector('output').textContent`) as Promise<string>

  test('shows the device, and a mapping that is made while it is looked at, without being loaded again', async () => {
    await using here = await served()
    await here.map(0x1000n)
    await browser.open(here.web.url)
    expect(await browser.value('document.title')).toBe(`${path} (net)`)
    expect(await shown()).toMatch(
      /Address space 0[^]*0x1000\s+0x1fff\s+4 KiB\s+rw[^]*Address space 1[^]*nothing is mapped/,
    )
    await browser.value('window.isTheSame = true')
    await here.map(0x4000_0000n)
    await browser.until(`document.querySelectorAll('.map')[0].children.length === 2`)
    await here.map(0x7000n, 1)
    await browser.until(`document.querySelectorAll('.map')[1].children.length === 1`)
    expect(await shown()).toMatch(/Address space 1[^]*0x7000\s+0x7fff/)
    await browser.until(`document.getElementById('picture').textContent.includes('0x7000')`)
    await here.device.addressSpace(0).unmap({ iova: 0x1000n, size: 4096n })
    await browser.until(`document.querySelectorAll('.map')[0].children.length === 1`)
    expect(await browser.value('window.isTheSame')).toBe(true)
  })

  test('a mapping at either end of an address space is seen on the map', async () => {
    await using here = await served()
    await here.map(0n)
    await here.map(0xffff_ffff_ffff_0000n)
    await browser.open(here.web.url)
    const ends = `[...document.querySelector('.map').children].map((rect) => { const { x, width } = rect.getBBox(); return [x, x + width] })`
    expect(await browser.value(ends)).toEqual([
      [0, 3],
      [997, 1000],
    ])
  })

  test('is worked by keys alone, and a change of the device takes neither the focus nor the place', async () => {
    await using here = await served()
    await here.map(0x10_0000n)
    await here.map(0x20_0000n)
    await browser.open(here.web.url)
    const all = await range()
    expect(await tabTo(browser, '.map')).toBe(true)
    expect(await browser.value('getComputedStyle(document.activeElement).outlineStyle')).toBe('solid')
    await browser.press('Plus')
    const closer = await range()
    const span = (text: string): bigint => {
      const [first = 0n, last = 0n] = text.split(' to ').map(BigInt)
      return last - first + 1n
    }
    expect(span(closer)).toBeLessThan(span(all))
    await here.map(0x18_0000n)
    await browser.until(`document.querySelectorAll('table')[0].rows.length === 4`)
    expect(await browser.value(`document.activeElement === document.querySelector('.map')`)).toBe(true)
    expect(await range()).toBe(closer)
    await browser.press('Minus')
    expect(span(await range())).toBeGreaterThan(span(closer))
    await browser.press('Home')
    expect(await range()).toBe(all)
  })

  test('keeps the focus on the button of a mapping while others come and go', async () => {
    await using here = await served()
    await here.map(0x10_0000n)
    await browser.open(here.web.url)
    expect(await tabTo(browser, 'td button')).toBe(true)
    await here.map(0x1000n)
    await browser.until(`document.querySelectorAll('table')[0].rows.length === 3`)
    await browser.press('Enter')
    expect(await range()).toBe('0xff800 to 0x1017ff')
  })

  test('moves the focus to the map where the mapping that had it is gone', async () => {
    await using here = await served()
    await here.map(0x10_0000n)
    await browser.open(here.web.url)
    expect(await tabTo(browser, 'td button')).toBe(true)
    await here.device.addressSpace(0).unmap({ iova: 0x10_0000n, size: 4096n })
    await browser.until(`document.querySelectorAll('td button').length === 0`)
    expect(await browser.value(`document.activeElement === document.querySelector('.map')`)).toBe(true)
  })

  test.each(['light', 'dark'] as const)('can be read by somebody who prefers %s', async (scheme) => {
    await using here = await served()
    await here.map(0x1000n)
    await browser.prefer(scheme)
    await browser.open(here.web.url)
    const found = (await browser.value(texts)) as { text: string; colour: string; ground: string }[]
    expect(found.map(({ text }) => text)).toEqual(expect.arrayContaining(['group 1', '0x1fff', 'show', 'asid 1']))
    expect(found.filter(({ colour, ground }) => contrast(colour, ground) < 4.5)).toEqual([])
  })

  test('says that the device was closed, and that the program is gone', async () => {
    await using here = await served()
    await browser.open(here.web.url)
    await here.device.close()
    await browser.until(`document.getElementById('state').textContent.includes('ERR_VDPA_CLOSED')`)
    expect(await shown()).toContain('Address space 0')
    await using other = await served()
    await browser.open(other.web.url)
    await other.web.close()
    await browser.until(`document.getElementById('state').textContent.includes('is gone')`)
  })

  test('shows nothing of the device to who has another token', async () => {
    await using here = await served()
    const { origin, pathname } = new URL(here.web.url)
    const other = pathname.replace(/^\/./, (start) => (start === '/0' ? '/1' : '/0'))
    for (const wrong of [other, '/', `${other}look`]) {
      await browser.open(origin + wrong)
      expect([wrong, await browser.value('document.documentElement.textContent')]).toEqual([wrong, 'no\n'])
    }
  })
})
