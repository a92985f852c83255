// The page of an open device, live: the program that holds the device shows where its DMA can go to a browser on the same machine.

import type { VdpaDevice } from '../device/vdpa-device.js'
import { pagePolicy, topologyPage } from './html.js'
import { topologySvg } from './svg.js'
import { topologyOf } from './topology.js'
import { WebServer, type WebOptions } from './web-server.js'

/**
 * Serves topologyHtml() of a device that this process has open, with a new look every second; `url` is for a browser on this machine. It listens on 127.0.0.1 alone,
 * answers GET alone, and only who has the random token of `url`. It changes nothing: each look asks what topologyOf() asks, ERR_VDPA_STATE before features are negotiated
 * among its errors. The page says when the device was closed. Since 0.1.0.
 */
export async function serveTopology(device: VdpaDevice, options: WebOptions = {}): Promise<WebServer> {
  topologyOf(device)
  const page = () => topologyPage(topologyOf(device), true)
  const look = () => {
    const topology = topologyOf(device)
    return JSON.stringify({ topology, picture: topologySvg(topology) })
  }
  return WebServer.listen({ page, look, policy: pagePolicy }, options)
}
