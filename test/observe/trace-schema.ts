// The messages of a Perfetto trace that are written here, for a decoder that is not ours. Numbers as in perfetto's protos/perfetto/trace.

import protobuf from 'protobufjs'

const schema = `
  syntax = "proto2";
  message Trace { repeated TracePacket packet = 1; }
  message TracePacket {
    optional uint64 timestamp = 8;
    optional uint32 trusted_packet_sequence_id = 10;
    optional TrackEvent track_event = 11;
    optional TrackDescriptor track_descriptor = 60;
  }
  message TrackDescriptor {
    optional uint64 uuid = 1;
    optional string name = 2;
    optional ProcessDescriptor process = 3;
    optional uint64 parent_uuid = 5;
  }
  message ProcessDescriptor { optional int32 pid = 1; optional string process_name = 6; }
  message TrackEvent {
    repeated DebugAnnotation debug_annotations = 4;
    enum Type { TYPE_UNSPECIFIED = 0; TYPE_SLICE_BEGIN = 1; TYPE_SLICE_END = 2; TYPE_INSTANT = 3; TYPE_COUNTER = 4; }
    optional Type type = 9;
    optional uint64 track_uuid = 11;
    repeated string categories = 22;
    optional string name = 23;
    repeated fixed64 flow_ids = 47;
    repeated fixed64 terminating_flow_ids = 48;
  }
  message DebugAnnotation { optional string string_value = 6; optional string name = 10; }
`

/** A packet as it was decoded; 64-bit numbers are numbers, enums their names. */
export interface DecodedPacket {
  readonly timestamp?: number
  readonly trustedPacketSequenceId?: number
  readonly trackEvent?: {
    readonly type?: string
    readonly trackUuid?: number
    readonly categories?: readonly string[]
    readonly name?: string
    readonly flowIds?: readonly number[]
    readonly terminatingFlowIds?: readonly number[]
    readonly debugAnnotations?: readonly { readonly name: string; readonly stringValue: string }[]
  }
  readonly trackDescriptor?: {
    readonly uuid: number
    readonly name: string
    readonly parentUuid?: number
    readonly process?: { readonly pid: number; readonly processName: string }
  }
}

const type = protobuf.parse(schema).root.lookupType('Trace')

/** The packets of a trace. Decoding and encoding again must give the same number of bytes: no field is outside the schema. */
export function decodePackets(bytes: Uint8Array): {
  readonly packets: readonly DecodedPacket[]
  readonly length: number
} {
  const decoded = type.decode(bytes)
  const { packet } = type.toObject(decoded, { longs: Number, enums: String }) as { packet: DecodedPacket[] }
  return { packets: packet, length: type.encode(decoded).finish().length }
}
