// The life of an environment's state: installed with the addon, ended by the cleanup hook, freed with the
// instance data.
#include "environment.h"

#include <utility>

Resource::Resource(std::shared_ptr<Environment> environment, Rank rank)
    : environment_(std::move(environment)), rank_(rank) {
  auto& list = environment_->resources_[rank_];
  place_ = list.insert(list.end(), this);
  registered_ = true;
}

Resource::~Resource() { Unregister(); }

void Resource::Unregister() {
  if (std::exchange(registered_, false)) environment_->resources_[rank_].erase(place_);
}

Environment::Environment(napi_env env) : env_(env) { napi_get_uv_event_loop(env, &loop_); }

Environment& Environment::Install(napi_env env) {
  using Shared = std::shared_ptr<Environment>;
  auto* shared = new Shared(std::make_shared<Environment>(env));
  auto finalize = [](napi_env, void* data, void*) { delete static_cast<Shared*>(data); };
  napi_set_instance_data(env, shared, finalize, nullptr);
  Environment& self = **shared;
  // The hook has a share of its own: it may run while the instance data is being finalized.
  napi_add_async_cleanup_hook(env, CleanUp, new Shared(*shared), &self.hook_);
  return self;
}

Environment& Environment::Of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return **static_cast<std::shared_ptr<Environment>*>(data);
}

napi_type_tag Environment::TagOf(Kind kind) const {
  return {static_cast<uint64_t>(reinterpret_cast<uintptr_t>(this)), static_cast<uint64_t>(kind)};
}

void Environment::SetConstructor(Kind kind, napi_value constructor) {
  napi_create_reference(env_, constructor, 1, &constructors_[static_cast<size_t>(kind)]);
}

napi_value Environment::Constructor(Kind kind) const {
  napi_value constructor = nullptr;
  const napi_ref reference = constructors_[static_cast<size_t>(kind)];
  if (reference != nullptr) napi_get_reference_value(env_, reference, &constructor);
  return constructor;
}

bool Environment::Owns(int fd) const {
  for (const auto& list : resources_) {
    for (const Resource* resource : list) {
      if (resource->OwnedFd() == fd) return true;
    }
  }
  return false;
}

void Environment::HandleClosed() {
  open_handles_--;
  if (is_cleaning_ && open_handles_ == 0) napi_remove_async_cleanup_hook(hook_);
}

void Environment::CleanUp(napi_async_cleanup_hook_handle, void* data) {
  const std::unique_ptr<std::shared_ptr<Environment>> share(static_cast<std::shared_ptr<Environment>*>(data));
  Environment& self = **share;
  self.CloseAll();
  self.is_cleaning_ = true;
  if (self.open_handles_ == 0) napi_remove_async_cleanup_hook(self.hook_);
}

void Environment::CloseAll() {
  napi_handle_scope scope = nullptr;
  napi_open_handle_scope(env_, &scope);
  for (auto& list : resources_) {
    // Newest first, and from the end again each time: closing one may end others.
    while (!list.empty()) {
      Resource* resource = list.back();
      resource->Unregister();
      resource->CloseAtExit();
    }
  }
  kept_.clear();
  for (napi_ref& constructor : constructors_) {
    if (constructor != nullptr) napi_delete_reference(env_, std::exchange(constructor, nullptr));
  }
  napi_close_handle_scope(env_, scope);
}
