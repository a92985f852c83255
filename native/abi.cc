// Sizes, offsets and numbers of the kernel's headers as the C++ compiler sees them, so that a test can
// compare lib/uapi with them. Nothing else reads them.
#include "abi.h"

#include <cerrno>
#include <cstddef>
#include <initializer_list>
#include <utility>

#include "abi_names.h"

namespace {

/// What a name means that the headers at hand are too old to know.
struct Unknown {};

// These come before the headers, so that a macro of a header hides the constant of the same name. What no
// header defines stays Unknown, and needs no #ifdef of its own.
#define DECLARE(name) [[maybe_unused]] constexpr Unknown name{};
ABI_REQUESTS(DECLARE)
ABI_VDUSE(DECLARE)
ABI_VHOST(DECLARE)
ABI_RING(DECLARE)
ABI_TRANSPORT(DECLARE)
ABI_DEVICE_IDS(DECLARE)
ABI_NET(DECLARE)
ABI_BLOCK(DECLARE)
ABI_IOMMU(DECLARE)
#undef DECLARE

}  // namespace

// The legacy part of the ring header is not C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/vhost.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_iommu.h>
#include <linux/virtio_ring.h>
// It has a member of this name, and includes only headers of C.
#define class class_
#include <linux/virtio_net.h>
#undef class
// Since Linux 5.15.
#if __has_include(<linux/vduse.h>)
#include <linux/vduse.h>
#endif
#include <linux/genetlink.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>

// The numbers of the vdpa family are enumerators, which hide nothing by themselves: the header is read in a
// namespace inside the one that declares the names Unknown.
namespace vdpa_names {
#define DECLARE(name) [[maybe_unused]] constexpr Unknown name{};
ABI_VDPA(DECLARE)
#undef DECLARE
namespace header {
// Since Linux 5.12.
#if __has_include(<linux/vdpa.h>)
#include <linux/vdpa.h>
#endif
}  // namespace header
}  // namespace vdpa_names

namespace {

struct Field {
  const char* name;
  size_t offset;
  size_t size;
};

void Set(Napi::Object, const char*, Unknown) {}

/// Every value here is below 2^53: a request is the widest, and has 32 bits.
template <class Value>
void Set(Napi::Object target, const char* name, Value value) {
  target.Set(name, Napi::Number::New(target.Env(), static_cast<double>(value)));
}

template <class S>
void AddStruct(Napi::Object structs, const char* name, std::initializer_list<Field> fields) {
  const Napi::Env env = structs.Env();
  Napi::Object places = Napi::Object::New(env);
  for (const Field& field : fields) {
    Napi::Array place = Napi::Array::New(env, 2);
    place.Set(0u, Napi::Number::New(env, static_cast<double>(field.offset)));
    place.Set(1u, Napi::Number::New(env, static_cast<double>(field.size)));
    places.Set(field.name, place);
  }
  Napi::Object layout = Napi::Object::New(env);
  Set(layout, "size", sizeof(S));
  Set(layout, "align", alignof(S));
  layout.Set("fields", places);
  structs.Set(name, layout);
}

// FIELD is a member of the struct that the STRUCT around it names; FIELD_AS one that lib/uapi calls
// otherwise, because it is a member of a member there, or an element.
#define FIELD_AS(name, member) \
  Field { name, offsetof(S, member), sizeof(std::declval<S&>().member) }
#define FIELD(member) FIELD_AS(#member, member)
#define STRUCT(name, ...)                        \
  do {                                           \
    using S = struct name;                       \
    AddStruct<S>(structs, #name, {__VA_ARGS__}); \
  } while (false)

#define IOTLB_FIELDS                                                                          \
  FIELD_AS("iova", iotlb.iova), FIELD_AS("size", iotlb.size), FIELD_AS("uaddr", iotlb.uaddr), \
      FIELD_AS("perm", iotlb.perm), FIELD_AS("type", iotlb.type)

// A struct that came after Linux 5.4 is guarded by a macro of the same release.

void AddVhostStructs(Napi::Object structs) {
  STRUCT(vhost_vring_state, FIELD(index), FIELD(num));
  STRUCT(vhost_vring_file, FIELD(index), FIELD(fd));
  STRUCT(vhost_vring_addr, FIELD(index), FIELD(flags), FIELD(desc_user_addr), FIELD(used_user_addr),
         FIELD(avail_user_addr), FIELD(log_guest_addr));
  STRUCT(vhost_iotlb_msg, FIELD(iova), FIELD(size), FIELD(uaddr), FIELD(perm), FIELD(type));
  STRUCT(vhost_msg, FIELD_AS("message", type), IOTLB_FIELDS);
#ifdef VHOST_BACKEND_F_IOTLB_ASID
  STRUCT(vhost_msg_v2, FIELD_AS("message", type), FIELD(asid), IOTLB_FIELDS);
#else
  STRUCT(vhost_msg_v2, FIELD_AS("message", type), FIELD_AS("asid", reserved), IOTLB_FIELDS);
#endif
  STRUCT(vhost_memory_region, FIELD(guest_phys_addr), FIELD(memory_size), FIELD(userspace_addr),
         FIELD(flags_padding));
  STRUCT(vhost_memory, FIELD(nregions), FIELD(padding));
  STRUCT(vhost_scsi_target, FIELD(abi_version), FIELD(vhost_wwpn), FIELD(vhost_tpgt), FIELD(reserved));
#ifdef VHOST_VDPA_GET_CONFIG
  STRUCT(vhost_vdpa_config, FIELD(off), FIELD(len));
#endif
#ifdef VHOST_VDPA_GET_IOVA_RANGE
  STRUCT(vhost_vdpa_iova_range, FIELD(first), FIELD(last));
#endif
#ifdef VHOST_NEW_WORKER
  STRUCT(vhost_worker_state, FIELD(worker_id));
  STRUCT(vhost_vring_worker, FIELD(index), FIELD(worker_id));
#endif
#ifdef VHOST_GET_FEATURES_ARRAY
  STRUCT(vhost_features_array, FIELD(count));
#endif
}

void AddRingStructs(Napi::Object structs) {
  STRUCT(vring_desc, FIELD(addr), FIELD(len), FIELD(flags), FIELD(next));
  STRUCT(vring_avail, FIELD(flags), FIELD(idx));
  STRUCT(vring_used, FIELD(flags), FIELD(idx));
  STRUCT(vring_used_elem, FIELD(id), FIELD(len));
  STRUCT(vring_packed_desc, FIELD(addr), FIELD(len), FIELD(id), FIELD(flags));
  STRUCT(vring_packed_desc_event, FIELD(off_wrap), FIELD(flags));
}

void AddNetStructs(Napi::Object structs) {
  STRUCT(virtio_net_hdr_v1, FIELD(flags), FIELD(gso_type), FIELD(hdr_len), FIELD(gso_size), FIELD(csum_start),
         FIELD(csum_offset), FIELD(num_buffers));
  STRUCT(virtio_net_ctrl_hdr, FIELD_AS("class", class_), FIELD(cmd));
#ifdef VIRTIO_NET_F_HASH_REPORT
  STRUCT(virtio_net_config, FIELD(mac), FIELD(status), FIELD(max_virtqueue_pairs), FIELD(mtu), FIELD(speed),
         FIELD(duplex), FIELD(rss_max_key_size), FIELD(rss_max_indirection_table_length),
         FIELD(supported_hash_types));
  STRUCT(virtio_net_hdr_v1_hash, FIELD_AS("flags", hdr.flags), FIELD_AS("gso_type", hdr.gso_type),
         FIELD_AS("hdr_len", hdr.hdr_len), FIELD_AS("gso_size", hdr.gso_size),
         FIELD_AS("csum_start", hdr.csum_start), FIELD_AS("csum_offset", hdr.csum_offset),
         FIELD_AS("num_buffers", hdr.num_buffers), FIELD(hash_value), FIELD(hash_report), FIELD(padding));
#endif
}

#ifdef VIRTIO_BLK_F_SECURE_ERASE
#define BLOCK_ERASE_FIELDS \
  , FIELD(max_secure_erase_sectors), FIELD(max_secure_erase_seg), FIELD(secure_erase_sector_alignment)
#else
#define BLOCK_ERASE_FIELDS
#endif
#ifdef VIRTIO_BLK_F_ZONED
#define BLOCK_ZONE_FIELDS                                                                           \
  , FIELD_AS("zone_sectors", zoned.zone_sectors), FIELD_AS("max_open_zones", zoned.max_open_zones), \
      FIELD_AS("max_active_zones", zoned.max_active_zones),                                         \
      FIELD_AS("max_append_sectors", zoned.max_append_sectors),                                     \
      FIELD_AS("write_granularity", zoned.write_granularity), FIELD_AS("model", zoned.model),       \
      FIELD_AS("unused2", zoned.unused2)
#else
#define BLOCK_ZONE_FIELDS
#endif

void AddBlockStructs(Napi::Object structs) {
  STRUCT(virtio_blk_config, FIELD(capacity), FIELD(size_max), FIELD(seg_max),
         FIELD_AS("cylinders", geometry.cylinders), FIELD_AS("heads", geometry.heads),
         FIELD_AS("sectors", geometry.sectors), FIELD(blk_size), FIELD(physical_block_exp),
         FIELD(alignment_offset), FIELD(min_io_size), FIELD(opt_io_size), FIELD(wce), FIELD(unused),
         FIELD(num_queues), FIELD(max_discard_sectors), FIELD(max_discard_seg),
         FIELD(discard_sector_alignment), FIELD(max_write_zeroes_sectors), FIELD(max_write_zeroes_seg),
         FIELD(write_zeroes_may_unmap), FIELD_AS("unused1_0", unused1[0]), FIELD_AS("unused1_1", unused1[1]),
         FIELD_AS("unused1_2", unused1[2]) BLOCK_ERASE_FIELDS BLOCK_ZONE_FIELDS);
  STRUCT(virtio_blk_outhdr, FIELD(type), FIELD(ioprio), FIELD(sector));
  STRUCT(virtio_blk_discard_write_zeroes, FIELD(sector), FIELD(num_sectors), FIELD(flags));
#ifdef VIRTIO_BLK_F_ZONED
  STRUCT(virtio_blk_zone_descriptor, FIELD(z_cap), FIELD(z_start), FIELD(z_wp), FIELD(z_type), FIELD(z_state),
         FIELD(reserved));
  STRUCT(virtio_blk_zone_report, FIELD(nr_zones), FIELD(reserved));
#endif
}

// Since Linux 5.17.
#ifdef VIRTIO_IOMMU_F_BYPASS_CONFIG
#define IOMMU_HEAD FIELD_AS("type", head.type), FIELD_AS("head_reserved", head.reserved)

void AddIommuStructs(Napi::Object structs) {
  STRUCT(virtio_iommu_config, FIELD(page_size_mask), FIELD_AS("input_start", input_range.start),
         FIELD_AS("input_end", input_range.end), FIELD_AS("domain_start", domain_range.start),
         FIELD_AS("domain_end", domain_range.end), FIELD(probe_size), FIELD(bypass), FIELD(reserved));
  STRUCT(virtio_iommu_req_attach, IOMMU_HEAD, FIELD(domain), FIELD(endpoint), FIELD(flags), FIELD(reserved),
         FIELD(tail));
  STRUCT(virtio_iommu_req_detach, IOMMU_HEAD, FIELD(domain), FIELD(endpoint), FIELD(reserved), FIELD(tail));
  STRUCT(virtio_iommu_req_map, IOMMU_HEAD, FIELD(domain), FIELD(virt_start), FIELD(virt_end),
         FIELD(phys_start), FIELD(flags), FIELD(tail));
  STRUCT(virtio_iommu_req_unmap, IOMMU_HEAD, FIELD(domain), FIELD(virt_start), FIELD(virt_end),
         FIELD(reserved), FIELD(tail));
  STRUCT(virtio_iommu_req_probe, IOMMU_HEAD, FIELD(endpoint), FIELD(reserved));
  STRUCT(virtio_iommu_req_tail, FIELD(status), FIELD(reserved));
  STRUCT(virtio_iommu_probe_resv_mem, FIELD_AS("type", head.type), FIELD_AS("length", head.length),
         FIELD(subtype), FIELD(reserved), FIELD(start), FIELD(end));
  STRUCT(virtio_iommu_fault, FIELD(reason), FIELD(reserved), FIELD(flags), FIELD(endpoint),
         FIELD_AS("reserved1", reserved2), FIELD(address));
}
#else
void AddIommuStructs(Napi::Object) {}
#endif

#ifdef VDUSE_BASE
// What an older header reserves has names since Linux 7.0, at the same places.
#ifdef VDUSE_IOTLB_GET_FD2
#define VDUSE_NEW(name, before, skipped, bytes) FIELD(name)
#define VDUSE_REST(name, before, skipped) FIELD(name)
#else
#define VDUSE_NEW(name, before, skipped, bytes)   \
  Field {                                         \
#name, offsetof(S, before) + (skipped), bytes \
  }
#define VDUSE_REST(name, before, skipped)                                                  \
  Field {                                                                                  \
#name, offsetof(S, before) + (skipped), sizeof(std::declval <S&>().before) - (skipped) \
  }
#endif
#define VDUSE_POSITION(place)                               \
  FIELD_AS("last_avail_counter", place.last_avail_counter), \
      FIELD_AS("last_avail_idx", place.last_avail_idx),     \
      FIELD_AS("last_used_counter", place.last_used_counter), FIELD_AS("last_used_idx", place.last_used_idx)

void AddVduseStructs(Napi::Object structs) {
  STRUCT(vduse_dev_config, FIELD(name), FIELD(vendor_id), FIELD(device_id), FIELD(features), FIELD(vq_num),
         FIELD(vq_align), VDUSE_NEW(ngroups, reserved, 0, 4), VDUSE_NEW(nas, reserved, 4, 4),
         VDUSE_REST(reserved, reserved, 8), FIELD(config_size));
  STRUCT(vduse_iotlb_entry, FIELD(offset), FIELD(start), FIELD(last), FIELD(perm));
  STRUCT(vduse_config_data, FIELD(offset), FIELD(length));
  STRUCT(vduse_vq_config, FIELD(index), FIELD(max_size), VDUSE_NEW(reserved1, reserved, 0, 2),
         VDUSE_NEW(group, reserved, 2, 4), VDUSE_REST(reserved2, reserved, 6));
  STRUCT(vduse_vq_info, FIELD(index), FIELD(num), FIELD(desc_addr), FIELD(driver_addr), FIELD(device_addr),
         VDUSE_POSITION(packed), FIELD(ready));
  STRUCT(vduse_vq_eventfd, FIELD(index), FIELD(fd));
#ifdef VDUSE_IOTLB_GET_INFO
  STRUCT(vduse_iova_umem, FIELD(uaddr), FIELD(iova), FIELD(size), VDUSE_NEW(asid, reserved, 0, 4),
         VDUSE_REST(reserved, reserved, 4));
  STRUCT(vduse_iova_info, FIELD(start), FIELD(last), FIELD(capability), VDUSE_NEW(asid, reserved, 0, 4),
         VDUSE_REST(reserved, reserved, 4));
#endif
  STRUCT(vduse_dev_request, FIELD(type), FIELD(request_id), FIELD(reserved), FIELD_AS("payload", padding));
  STRUCT(vduse_dev_response, FIELD(request_id), FIELD(result), FIELD(reserved), FIELD_AS("payload", padding));
  STRUCT(vduse_vq_state, FIELD(index), VDUSE_POSITION(packed));
  STRUCT(vduse_dev_status, FIELD(status));
  STRUCT(vduse_iova_range, FIELD(start), FIELD(last));
#ifdef VDUSE_IOTLB_GET_FD2
  STRUCT(vduse_iotlb_entry_v2, FIELD(offset), FIELD(start), FIELD(last), FIELD(perm), FIELD(padding),
         FIELD(asid), FIELD(reserved));
  STRUCT(vduse_vq_group_asid, FIELD(group), FIELD(asid));
#endif
#ifdef VDUSE_SET_FEATURES
  STRUCT(vduse_vq_ready, FIELD(num), FIELD(ready));
#endif
}
#else
void AddVduseStructs(Napi::Object) {}
#endif

void AddNetlinkStructs(Napi::Object structs) {
  STRUCT(nlmsghdr, FIELD(nlmsg_len), FIELD(nlmsg_type), FIELD(nlmsg_flags), FIELD(nlmsg_seq),
         FIELD(nlmsg_pid));
  STRUCT(genlmsghdr, FIELD(cmd), FIELD(version), FIELD(reserved));
  STRUCT(nlattr, FIELD(nla_len), FIELD(nla_type));
}

void AddTunStructs(Napi::Object structs) {
  STRUCT(ifreq, FIELD_AS("name", ifr_name), FIELD_AS("flags", ifr_flags));
}

Napi::Object Structs(Napi::Env env) {
  Napi::Object structs = Napi::Object::New(env);
  AddVhostStructs(structs);
  AddRingStructs(structs);
  AddNetStructs(structs);
  AddBlockStructs(structs);
  AddIommuStructs(structs);
  AddVduseStructs(structs);
  AddNetlinkStructs(structs);
  AddTunStructs(structs);
  return structs;
}

#define EXPORT(name) Set(target, #name, name);

}  // namespace

namespace vdpa_names::header {
void AddNames(Napi::Object target) { ABI_VDPA(EXPORT) }
}  // namespace vdpa_names::header

namespace {

Napi::Object Requests(Napi::Env env) {
  Napi::Object target = Napi::Object::New(env);
  ABI_REQUESTS(EXPORT)
  return target;
}

Napi::Object Constants(Napi::Env env) {
  Napi::Object target = Napi::Object::New(env);
  ABI_VDUSE(EXPORT)
  ABI_VHOST(EXPORT)
  ABI_RING(EXPORT)
  ABI_TRANSPORT(EXPORT)
  ABI_DEVICE_IDS(EXPORT)
  ABI_NET(EXPORT)
  ABI_BLOCK(EXPORT)
  ABI_IOMMU(EXPORT)
  ABI_ERRNOS(EXPORT)
  ABI_NETLINK(EXPORT)
  ABI_TUN(EXPORT)
  vdpa_names::header::AddNames(target);
  return target;
}

}  // namespace

Napi::Object AbiExports(Napi::Env env) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("structs", Structs(env));
  result.Set("requests", Requests(env));
  result.Set("constants", Constants(env));
  return result;
}
