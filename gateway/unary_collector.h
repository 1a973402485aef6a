// Merges the events of one Generate stream into the answer of GenerateUnary.
// Thread-safety: none.  Borrows: the response.  Errors: none.  Cost: O(events).  Source: ours.
#ifndef DUNLIN_GATEWAY_UNARY_COLLECTOR_H_
#define DUNLIN_GATEWAY_UNARY_COLLECTOR_H_

#include "dunlin/v1/inference.pb.h"

namespace dunlin::gateway {

// Adds one event; choices appear in the order of their index.
void MergeEvent(const v1::GenerateResponse& event, v1::GenerateUnaryResponse* response);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_UNARY_COLLECTOR_H_
