// What a plan may say, as a JSON schema: `docs/plan.schema.json` is the same for editors, and a test compares the two.

/** Not what the kernel would spell otherwise, and what no folder of it shows. */
const name = {
  type: 'string',
  minLength: 1,
  maxLength: 127,
  pattern: '^(?!\\.{1,2}$)[^/\\s\\u0000-\\u001f\\u007f]+$',
} as const

const who = { type: ['string', 'integer'], minimum: 0, maximum: 4294967294, minLength: 1, maxLength: 32 } as const
const count = { type: 'integer', minimum: 1, maximum: 65535 } as const
/** A node comes of one driver. */
const withNode = { required: ['driver'], properties: { driver: { const: 'vhost_vdpa' } } } as const

/** The schema of version 1 (JSON Schema draft 7). */
export const planSchema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  title: 'vDPA devices that a host should have',
  type: 'object',
  required: ['version', 'devices'],
  additionalProperties: false,
  properties: {
    version: { const: 1, description: 'The version of this form.' },
    devices: { type: 'array', maxItems: 4096, items: { $ref: '#/definitions/device' } },
  },
  definitions: {
    device: {
      type: 'object',
      required: ['name'],
      additionalProperties: false,
      properties: {
        name: { ...name, description: 'The name of the device.' },
        state: { enum: ['present', 'absent'], description: 'Whether it should be there; default present.' },
        managementDevice: {
          type: 'string',
          pattern: '^[^/\\s]+(/[^/\\s]+)?$',
          description: 'What makes it: vdpasim_net, pci/0000:65:00.2. Needed where it is to be present.',
        },
        mac: { type: 'string', pattern: '^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$', description: 'Changed in place.' },
        mtu: { type: 'integer', minimum: 68, maximum: 65535, description: 'Bytes. A change makes the device anew.' },
        queuePairs: { type: 'integer', minimum: 1, maximum: 32768, description: 'A change makes the device anew.' },
        features: {
          type: 'string',
          pattern: '^0x[0-9a-fA-F]{1,16}$',
          description: 'All features that it offers, as a number. A change makes the device anew.',
        },
        driver: {
          enum: ['vhost_vdpa', 'virtio_vdpa', 'none'],
          description: 'Which driver of the bus has it; where absent, whichever does.',
        },
        node: {
          type: 'object',
          additionalProperties: false,
          minProperties: 1,
          description: 'Who may open its node. Changed in place; needs the driver vhost_vdpa.',
          properties: {
            mode: { type: 'string', pattern: '^0?[0-7]{3}$', description: 'Permissions, in quotes: "0660".' },
            owner: { ...who, description: 'A user of the host, by name or number.' },
            group: { ...who, description: 'A group of the host, by name or number.' },
            label: {
              type: 'string',
              pattern: '^[^\\s:]+:[^\\s:]+:[^\\s:]+(:\\S+)?$',
              description: 'The SELinux label: system_u:object_r:svirt_image_t:s0.',
            },
          },
        },
        expect: {
          type: 'object',
          additionalProperties: false,
          minProperties: 1,
          description:
            'What it must be able to do. apply opens the device to see, if nobody has it; needs the driver vhost_vdpa.',
          properties: {
            groups: { ...count, description: 'How many groups of virtqueues, at least.' },
            addressSpaces: { ...count, description: 'How many address spaces, at least.' },
            isolatedControlQueue: {
              const: true,
              description: 'The control queue of a network device can have an address space of its own.',
            },
          },
        },
        process: {
          ...name,
          description: 'Who will have it open: a virtual machine, a service. For the sum of memlock.',
        },
        memory: {
          type: 'string',
          pattern: '^[1-9][0-9]{0,11} ?(KiB|MiB|GiB|TiB)$',
          description: 'How much of the memory of its process is mapped for it, such as 4 GiB.',
        },
      },
      dependencies: { node: withNode, expect: withNode },
      if: { not: { properties: { state: { const: 'absent' } }, required: ['state'] } },
      then: { required: ['managementDevice'] },
    },
  },
} as const
