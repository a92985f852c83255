// What one JavaScript environment (the main thread, a worker, a second copy of the addon) has of this addon:
// its constructors, what it has open, and the hook that closes the rest. There are no statics beside it.
#pragma once

#include <node_api.h>
#include <uv.h>

#include <array>
#include <list>
#include <memory>
#include <vector>

#include "mapping.h"

class Environment;

/// Something that must not outlive its environment. Registers itself; the cleanup hook closes what is still
/// registered, and says nothing.
class Resource {
 public:
  /// The hook closes in this order: nothing is called back any more, then devices let go of memory, then
  /// memory is freed.
  enum Rank { kWatch, kDescriptor, kMemory, kRanks };

  Resource(std::shared_ptr<Environment> environment, Rank rank);
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;
  virtual ~Resource();

  /// Called once at most, on the environment's thread; no JavaScript runs any more.
  virtual void CloseAtExit() = 0;
  /// The descriptor that it closes one day; -1 when it has none.
  virtual int OwnedFd() const { return -1; }
  Environment& environment() const { return *environment_; }

 protected:
  /// For those whose end is earlier than their destruction.
  void Unregister();

 private:
  friend class Environment;
  std::shared_ptr<Environment> environment_;
  Rank rank_;
  std::list<Resource*>::iterator place_;
  bool registered_ = false;
};

/// The classes that JavaScript sees.
enum class Kind : uint32_t {
  kDescriptor,
  kDoorbell,
  kEventfd,
  kFile,
  kRegion,
  kSocket,
  kStream,
  kWatch,
  kKinds
};

/// Used on the environment's own thread only.
class Environment : public std::enable_shared_from_this<Environment> {
 public:
  explicit Environment(napi_env env);
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  /// Makes the environment's state and its cleanup hook; called once, when the addon is loaded into it.
  static Environment& Install(napi_env env);
  static Environment& Of(napi_env env);

  napi_env env() const { return env_; }
  uv_loop_t* loop() const { return loop_; }

  /// The tag of this environment's objects of one kind. No other living environment has the same, so an
  /// object of another copy of the addon is never taken for one of ours.
  napi_type_tag TagOf(Kind kind) const;
  void SetConstructor(Kind kind, napi_value constructor);
  napi_value Constructor(Kind kind) const;

  /// What the constructor that is being called is to wrap; null when JavaScript calls it, which is refused.
  void* under_construction = nullptr;

  /// Whether something of this environment closes that descriptor one day.
  bool Owns(int fd) const;

  /// libuv closes a handle later than it is told to; the hook must wait for these.
  void HandleOpened() { open_handles_++; }
  void HandleClosed();

  /// Keeps memory that a device may still write to until the environment ends, because nobody can say when it
  /// stops.
  void KeepUntilExit(Mapping mapping) { kept_.push_back(std::move(mapping)); }

 private:
  friend class Resource;
  static void CleanUp(napi_async_cleanup_hook_handle hook, void* data);
  void CloseAll();

  napi_env env_;
  uv_loop_t* loop_ = nullptr;
  std::array<napi_ref, static_cast<size_t>(Kind::kKinds)> constructors_{};
  std::array<std::list<Resource*>, Resource::kRanks> resources_;
  std::vector<Mapping> kept_;
  size_t open_handles_ = 0;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  bool is_cleaning_ = false;
};
