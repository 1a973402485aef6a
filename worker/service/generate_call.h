// One Generate RPC: the thin gRPC shell around WritePump (when to write) and ChoiceMerger (what to write).
// Thread-safety: the reactor is gRPC's from the moment it is returned; it deletes itself in OnDone.
// Borrows: the engine and the counter, which must outlive every call (the server is shut down first).
#ifndef DUNLIN_WORKER_SERVICE_GENERATE_CALL_H_
#define DUNLIN_WORKER_SERVICE_GENERATE_CALL_H_

#include <grpcpp/support/server_callback.h>

#include <vector>

#include "absl/status/status.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "worker/engine/engine.h"
#include "worker/service/active_calls.h"

namespace dunlin::worker {

// Submits the sequences (see MakeSequences) and streams what they give. A choice that the engine refuses ends the RPC
// with the engine's status.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(Engine* engine, ActiveCalls* active,
                                                              std::vector<NewSequence> sequences);

// Ends at once with `status`, which must not be OK.
grpc::ServerWriteReactor<v1::GenerateResponse>* RefuseGenerate(const absl::Status& status);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_GENERATE_CALL_H_
