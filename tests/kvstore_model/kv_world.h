// An interpreter of operations on a KvStore beside the naive KvModel: reads a tiny store's sizes and then operations
// from a byte string, carries each out on both sides and compares after every one. The seeded test and the fuzz target
// are thin shells around it; equal bytes give equal runs.
// Thread-safety: none.  Owns: the store and the model. Errors: Run returns "" or the first difference, with the number
// of the operation; a CHECK of the store aborts. Cost: tens of microseconds per operation. Source: ours.
#ifndef DUNLIN_TESTS_KVSTORE_MODEL_KV_WORLD_H_
#define DUNLIN_TESTS_KVSTORE_MODEL_KV_WORLD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/kv_store.h"
#include "tests/kvstore_model/byte_source.h"
#include "tests/kvstore_model/kv_model.h"

namespace dunlin::testing {

// What happened in a run, so that a test can tell that its operations reach everything.
enum class Seen : size_t {
  kOperations,
  kMatchWhole,
  kMatchPart,
  kMatchNothing,
  kGranted,
  kFull,
  kWaitForPins,
  kCopyBeforeWrite,
  kClaimRefused,
  kAdopted,
  kDedup,
  kStep,
  kFailedStep,
  kQuarantine,
  kAbsolved,
  kDraftRejected,
  kPreempted,
  kFork,
  kTruncate,
  kPin,
  kUnpin,
  kEviction,
  kFlushed,
  kHostSave,
  kHostRestore,
  kFailedRestore,
  kPeekFound,
  kEventAdded,
  kEventRemoved,
  kClockJump,
  kCount
};  // clang-format off
constexpr std::array<const char*, static_cast<size_t>(Seen::kCount)> kSeenNames = {
    "operations", "match: whole pages", "match: part of a page", "match: nothing", "reserve: granted", "reserve: full",
    "reserve: wait for pins", "copied before a write", "claim refused", "adopted", "deduplicated", "step",
    "failed step", "quarantine", "absolved", "draft rejected", "preempted in the step", "fork", "truncate", "pin",
    "unpin", "eviction", "flushed", "host save", "host restore", "failed restore", "peek found", "event: added",
    "event: removed", "clock jump"};  // clang-format on
using Coverage = std::array<uint64_t, static_cast<size_t>(Seen::kCount)>;

struct KvWorldOptions {
  uint64_t hash_mask = ~uint64_t{0};  // of the store; results must not depend on it
  bool log = false;                   // keep a line for every operation
  std::function<std::unique_ptr<kv::KvStore>(const kv::KvOptions&)> create = kv::KvStore::Create;
};

class KvWorld {
 public:
  KvWorld(std::span<const uint8_t> bytes, const KvWorldOptions& options);

  std::string Run();  // all operations, then closes everything and checks that the store is idle

  const Coverage& coverage() const { return coverage_; }
  uint64_t digest() const { return digest_; }  // of everything the store answered
  const std::vector<std::string>& log() const { return log_; }

 private:
  // ---- One operation each ----
  void Operation();
  void Submit();
  void Plan();
  void RunStep(bool fail);
  void Close(ModelSequence* s);
  void ForkOne();
  void TruncateOne();
  void AdoptOne(ModelSequence* s);
  void PinOne();
  void UnpinOne();
  void Pressure();
  void FlushCache();
  void CarryOutMoves();
  void TakeEvents();
  void Peek();
  void Audit();
  void Absolve();

  // ---- Parts of them ----
  std::vector<int32_t> Prompt(int max_tokens);
  void CheckMatch(const ModelSequence& s, const kv::MatchOptions& options, const kv::MatchResult& result,
                  const kv::KvStats& before);
  bool ClaimPages(ModelSequence* s, int target);
  kv::ReserveOutcome ReservePages(ModelSequence* s, int target);
  void TakeGranted(ModelSequence* s, int target);
  void WriteMembers();
  void PublishOne(ModelSequence* s, const std::vector<int32_t>& tokens);
  void FailMembers();
  void AfterStep(ModelSequence* s);
  void Drain();           // TakeMoves, carried out on the model's memory
  void ForgetRestored();  // FailRestore for what the last Drain could not restore
  void ForgetRestoredPage(int32_t page);
  void TruncateTo(ModelSequence* s, int tokens);
  void LoosenClaims(int id);
  int HeldPrefix(const ModelSequence& s) const;
  ModelSequence* Any(bool in_step);  // nullptr when there is none
  void Verify();
  void Finish();

  void Count(Seen what, uint64_t n = 1) { coverage_[static_cast<size_t>(what)] += n; }
  template <typename... Args>
  bool Expect(bool ok, const Args&... what) {
    if (!ok && error_.empty()) error_ = absl::StrCat("operation ", coverage_[0], ": ", what...);
    return ok;
  }
  template <typename... Args>
  void Log(const Args&... what) {
    if (keep_log_) log_.push_back(absl::StrCat(coverage_[0], " ", what...));
  }
  void Mix(uint64_t value) { digest_ = (digest_ ^ value) * 0x100000001B3u; }
  kv::SequenceId Id(const ModelSequence& s) const { return static_cast<kv::SequenceId>(s.id); }

  ByteSource source_;
  kv::KvOptions options_;
  int vocab_ = 2;
  int restore_failures_percent_ = 0;
  bool eager_moves_ = false, eager_events_ = false;
  std::optional<KvModel> model_;
  std::unique_ptr<kv::KvStore> store_;
  std::vector<std::vector<int32_t>> remembered_;  // token lists of closed sequences: prompts continue them
  kv::PrefixHint hint_;                           // carried along by Peek
  std::vector<int32_t> hint_tokens_;
  int hint_namespace_ = 0;
  int32_t next_unique_ = 1000;
  std::vector<int32_t> failed_restores_;  // pages, of the last Drain
  Coverage coverage_{};
  uint64_t digest_ = 0xCBF29CE484222325u;
  std::string error_;
  const bool keep_log_;
  std::vector<std::string> log_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_KVSTORE_MODEL_KV_WORLD_H_
