// Where an IOMMU calls the program: faults, and failures that a driver learns as a status only.

import { attach, detach, map, two, unmap } from '../../iommu/support.js'
import type { Place, Program } from '../place.js'

type Bench = ReturnType<typeof two>

const verbsOf = ({ iommu }: Bench) => ({
  translate: () => iommu.translate(8, 0x9000_0000n, 'rw'),
  'another listener': () => iommu.onFault(() => undefined)(),
  unmap: () => iommu.request(unmap),
  'unmap on the spot': () => iommu.requestSync(unmap),
  'detach on the spot': () => iommu.requestSync(detach),
  'set bypass': () => iommu.setBypass(true),
  refresh: () => iommu.refresh(),
  reset: () => iommu.reset(),
  'reset on the spot': () => iommu.resetSync(),
})

const sceneOf = (bench: Bench, act: () => unknown) => ({
  act,
  verbs: verbsOf(bench),
  close: () => bench.iommu.close(),
  closeDevice: () => bench.iommu.close(),
  end: async () => {
    await bench.iommu.close()
    const { held } = bench.a
    bench.region.close()
    return held.map(() => 'a mapping')
  },
})

export const iommuPlaces: readonly Place[] = [
  {
    name: 'listeners for faults of an IOMMU',
    covers: ['VirtioIommu.onFault(listener)'],
    heardBy: 'uncaught',
    make: (_, program: Program) => {
      const bench = two()
      bench.iommu.requestSync(attach)
      for (let count = 0; count < 3; count++) bench.iommu.onFault(() => program())
      return Promise.resolve(sceneOf(bench, () => bench.iommu.translate(8, 0x9000_0000n, 'rw')))
    },
  },
  {
    name: 'onFailure of an IOMMU',
    covers: ['VirtioIommuOptions.onFailure'],
    heardBy: 'uncaught',
    make: (_, program: Program) => {
      const bench = two({ onFailure: () => program() })
      bench.iommu.requestSync(attach)
      const act = async () => {
        for (let count = 0; count < 3; count++) {
          bench.a.refuseAfter = 0
          // A closed one refuses by name.
          await bench.iommu.request(map).catch(() => undefined)
        }
        bench.a.refuseAfter = undefined
      }
      return Promise.resolve(sceneOf(bench, act))
    },
  },
]
