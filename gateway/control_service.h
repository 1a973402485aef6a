// The operators' gRPC service.
// Thread-safety: thread-safe.  Borrows: services, model and hooks (must outlive this and every call).
// Errors: UNIMPLEMENTED with its name for ReloadConfig; NOT_FOUND for another model.  No reaction blocks.
// Source: ours.
#ifndef DUNLIN_GATEWAY_CONTROL_SERVICE_H_
#define DUNLIN_GATEWAY_CONTROL_SERVICE_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "base/cache_event_log.h"
#include "base/mutex.h"
#include "dunlin/v1/control.grpc.pb.h"
#include "gateway/model_info.h"
#include "gateway/relay_stream.h"

namespace dunlin::gateway {

struct ControlHooks {
  std::string version;
  std::string commit;
  std::string config;  // effective configuration, secrets removed
  absl::Time start;
  // Both return at once. drain: open streams may go on for the given time, InfiniteDuration = as long as they want.
  std::function<void(absl::Duration)> drain;
  std::function<void()> undrain;
};

class ControlServiceImpl final : public v1::ControlService::CallbackService {
 public:
  ControlServiceImpl(const RelayServices* services, const ModelInfo* model, const ControlHooks* hooks)
      : services_(services), model_(model), hooks_(hooks) {}

  // Ends every WatchLoad, and later ones at once: a server waits for its open calls when it shuts down.
  void Close() ABSL_LOCKS_EXCLUDED(mu_);

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchLoadResponse>* WatchLoad(grpc::CallbackServerContext* context,
                                                             const v1::WatchLoadRequest* request) override
      ABSL_LOCKS_EXCLUDED(mu_);
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* Undrain(grpc::CallbackServerContext* context, const v1::UndrainRequest* request,
                                    v1::UndrainResponse* response) override;
  grpc::ServerUnaryReactor* ReloadConfig(grpc::CallbackServerContext* context, const v1::ReloadConfigRequest* request,
                                         v1::ReloadConfigResponse* response) override;
  grpc::ServerUnaryReactor* FlushCache(grpc::CallbackServerContext* context, const v1::FlushCacheRequest* request,
                                       v1::FlushCacheResponse* response) override;

 private:
  class LoadWatcher;
  void FillLoad(v1::GetLoadResponse* load) const;
  // Adds what a follower of each worker's cache needs next and moves its positions on (empty = new). True: something
  // is left.
  bool AddCaches(std::vector<CachePosition>* positions, v1::GetLoadResponse* load) const;
  void Remove(LoadWatcher* watcher) ABSL_LOCKS_EXCLUDED(mu_);

  const RelayServices* const services_;
  const ModelInfo* const model_;
  const ControlHooks* const hooks_;

  Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_set<LoadWatcher*> watchers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_CONTROL_SERVICE_H_
