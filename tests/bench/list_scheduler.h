// A decode scheduler as one writes it in an afternoon, to compare the engine's with: requests behind shared_ptr in a
// list and a map by name, pages from ListCache, a batch of fresh vectors every step.
// Thread-safety: none.  Owns: its requests. Source: ours.
#ifndef DUNLIN_TESTS_BENCH_LIST_SCHEDULER_H_
#define DUNLIN_TESTS_BENCH_LIST_SCHEDULER_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tests/bench/list_cache.h"

namespace dunlin::bench {

class ListScheduler {
 public:
  struct Batch {
    std::vector<int32_t> tokens, positions;
    std::vector<std::vector<int32_t>> page_tables;
    std::vector<std::string> names;
  };

  ListScheduler(int32_t num_pages, int page_tokens, int32_t max_sequences)
      : cache_(num_pages, page_tokens, max_sequences) {}

  void Add(const std::string& name, std::vector<int32_t> prompt) {
    auto request = std::make_shared<Request>();
    request->name = name;
    cache_.Match(prompt, &request->sequence);
    request->tokens = std::move(prompt);
    by_name_[name] = request;
    running_.push_back(std::move(request));
  }
  // The next token of every running sequence.
  Batch Schedule() {
    Batch batch;
    for (const std::shared_ptr<Request>& request : running_) {
      CHECK(cache_.Reserve(request->sequence, static_cast<int32_t>(request->tokens.size())));
      batch.tokens.push_back(request->tokens.back());
      batch.positions.push_back(static_cast<int32_t>(request->tokens.size()) - 1);
      batch.page_tables.push_back(cache_.PageIds(request->sequence));
      batch.names.push_back(request->name);
    }
    return batch;
  }
  void Absorb(const Batch& batch, int32_t token) {
    for (const std::string& name : batch.names) by_name_.at(name)->tokens.push_back(token);
  }

 private:
  struct Request {
    std::string name;
    int32_t sequence = 0;
    std::vector<int32_t> tokens;
  };

  ListCache cache_;
  std::list<std::shared_ptr<Request>> running_;
  std::unordered_map<std::string, std::shared_ptr<Request>> by_name_;
};

}  // namespace dunlin::bench

#endif  // DUNLIN_TESTS_BENCH_LIST_SCHEDULER_H_
