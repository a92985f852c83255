// A disk that a PC's firmware boots from: its program, which is all that the guest runs, has the firmware's own virtio driver copy a part of the disk to another place.

const SECTOR = 512
/** Where the program finds what it copies, and where it puts it; in sectors. */
const [FROM, TO, COUNT] = [64, 1088, 1024]
/** Where the firmware puts the program. */
const ORIGIN = 0x7c00

const word = (value: number) => [value & 0xff, value >> 8]
const text = (said: string) => [...Buffer.from(`${said}\n\0`, 'latin1')]

const PACKET = 0x48
const COPIED = 0x60
const REFUSED = 0x80

/** Code of the 8086, with a disk's services at interrupt 0x13 (42 reads, 43 writes; carry is a failure), and a serial port. */
const program: readonly (readonly [at: number, bytes: readonly number[]])[] = [
  [0x00, [0x31, 0xc0, 0x8e, 0xd8, 0xfc]], // ds = 0, forwards
  [0x05, [0xbd, ...word(16)]], // bp = 16 pieces
  [0x08, [0xbe, ...word(ORIGIN + PACKET)]], // si = the packet
  [0x0b, [0xb8, 0x00, 0x42, 0xcd, 0x13, 0x72, 0x19]], // read, or say that it was refused
  [0x12, [0x81, 0x44, 8, ...word(TO - FROM)]], // its sector
  [0x17, [0xb8, 0x00, 0x43, 0xcd, 0x13, 0x72, 0x0d]], // write, or say that it was refused
  [0x1e, [0x81, 0x6c, 8, ...word(TO - FROM - COUNT / 16)]], // the next piece
  [0x23, [0x4d, 0x75, 0xe2]], // until bp = 0
  [0x26, [0xbe, ...word(ORIGIN + COPIED), 0xeb, 0x03]], // si = what to say
  [0x2b, [0xbe, ...word(ORIGIN + REFUSED)]],
  [0x2e, [0xba, ...word(0x3f8)]], // dx = the serial port
  [0x31, [0xac, 0xee, 0x84, 0xc0, 0x75, 0xfa]], // every byte, the 0 as well
  [0x37, [0xe6, 0xf4, 0xf4, 0xeb, 0xfd]], // the machine's end, at port 0xf4, and nothing more
  // The packet: its length, 64 sectors, where they are in memory (0x1000:0), and on the disk.
  [PACKET, [16, 0, ...word(COUNT / 16), ...word(0), ...word(0x1000), ...word(FROM), 0, 0, 0, 0, 0, 0]],
  [COPIED, text('guest: copied\nguest: done')],
  [REFUSED, text('guest: refused')],
  [SECTOR - 2, [0x55, 0xaa]],
]

/** The content of such a disk. */
export function bootDisk(): Uint8Array<ArrayBuffer> {
  const disk = new Uint8Array(SECTOR * (TO + COUNT))
  for (const [at, bytes] of program) disk.set(bytes, at)
  for (let at = 0; at < COUNT * SECTOR; at++) disk[FROM * SECTOR + at] = at * 7 + (at >> 9)
  return disk
}

/** The same after its program has run. */
export function bootedDisk(): Uint8Array<ArrayBuffer> {
  return bootDisk().copyWithin(TO * SECTOR, FROM * SECTOR, (FROM + COUNT) * SECTOR)
}
