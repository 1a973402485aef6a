#include "gateway/admission.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "gateway/admission_gate.h"
#include "gtest/gtest.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

using Decision = Admission::Decision;
constexpr absl::Time kNoDeadline = absl::InfiniteFuture();

TEST(Admission, AdmitsThenQueuesThenRefuses) {
  FakeClock clock;
  Admission admission({.max_active = 2, .max_queued = 2}, &clock);
  EXPECT_EQ(admission.Enter(kNoDeadline).decision, Decision::kAdmitted);
  EXPECT_EQ(admission.Enter(kNoDeadline).decision, Decision::kAdmitted);
  EXPECT_EQ(admission.Enter(kNoDeadline).queue_position, 0u);
  EXPECT_EQ(admission.Enter(kNoDeadline).queue_position, 1u);
  const Admission::Entry refused = admission.Enter(kNoDeadline);
  EXPECT_EQ(refused.decision, Decision::kRefused);
  EXPECT_EQ(refused.refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(*GetRetryDelay(refused.refusal), absl::ZeroDuration());
  EXPECT_EQ(GetQuotaViolations(refused.refusal)[0].field, "gateway:queue");
  EXPECT_EQ(GetErrorInfo(refused.refusal)->reason, "QUEUE_FULL");
}

TEST(Admission, TheQueueIsFirstInFirstOut) {
  FakeClock clock;
  Admission admission({.max_active = 1, .max_queued = 8}, &clock);
  const AdmissionTicket active = admission.Enter(kNoDeadline).ticket;
  std::vector<AdmissionTicket> waiting;
  for (int i = 0; i < 3; ++i) waiting.push_back(admission.Enter(kNoDeadline).ticket);
  EXPECT_TRUE(admission.Leave(waiting[1]).admitted.empty());  // cancelled in the queue
  EXPECT_EQ(admission.Leave(active).admitted, std::vector<AdmissionTicket>{waiting[0]});
  EXPECT_EQ(admission.Leave(waiting[0]).admitted, std::vector<AdmissionTicket>{waiting[2]});
  EXPECT_TRUE(admission.Leave(waiting[2]).admitted.empty());
  EXPECT_EQ(admission.num_active(), 0u);
  EXPECT_EQ(admission.num_queued(), 0u);
}

TEST(Admission, NobodyOvertakesTheQueue) {
  FakeClock clock;
  Admission admission({.max_active = 1, .max_queued = 8}, &clock);
  const AdmissionTicket active = admission.Enter(kNoDeadline).ticket;
  const AdmissionTicket first = admission.Enter(kNoDeadline).ticket;
  EXPECT_EQ(admission.Leave(active).admitted, std::vector<AdmissionTicket>{first});
  EXPECT_EQ(admission.Enter(kNoDeadline).decision, Decision::kQueued);
}

TEST(Admission, DeadlinesEndAWaitInTheQueue) {
  FakeClock clock;
  Admission admission({.max_active = 1, .max_queued = 8}, &clock);
  EXPECT_EQ(admission.Enter(clock.Now()).refusal.code(), absl::StatusCode::kDeadlineExceeded);
  const AdmissionTicket active = admission.Enter(kNoDeadline).ticket;
  const AdmissionTicket hasty = admission.Enter(clock.Now() + absl::Seconds(1)).ticket;
  const AdmissionTicket patient = admission.Enter(kNoDeadline).ticket;
  clock.Advance(absl::Seconds(2));
  const Admission::Changes changes = admission.Leave(active);
  EXPECT_EQ(changes.expired, std::vector<AdmissionTicket>{hasty});
  EXPECT_EQ(changes.admitted, std::vector<AdmissionTicket>{patient});
}

TEST(Admission, APredictedMissIsRefusedAtOnce) {
  FakeClock clock;
  Admission admission({.max_active = 1, .max_queued = 8}, &clock);
  AdmissionTicket active = admission.Enter(kNoDeadline).ticket;
  clock.Advance(absl::Seconds(10));
  admission.Leave(active);  // streams take 10 s
  active = admission.Enter(kNoDeadline).ticket;
  EXPECT_EQ(admission.EstimatedWait(), absl::Seconds(10));
  const Admission::Entry refused = admission.Enter(clock.Now() + absl::Seconds(5));
  EXPECT_EQ(refused.refusal.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(GetErrorInfo(refused.refusal)->reason, "DEADLINE_PREDICTED");
  EXPECT_EQ(admission.Enter(clock.Now() + absl::Seconds(15)).decision, Decision::kQueued);
}

TEST(Admission, RaisedLimitsAdmitFromTheQueue) {
  FakeClock clock;
  Admission admission({.max_active = 1, .max_queued = 8}, &clock);
  admission.Enter(kNoDeadline);
  const AdmissionTicket waiting = admission.Enter(kNoDeadline).ticket;
  EXPECT_EQ(admission.SetLimits({.max_active = 2, .max_queued = 8}).admitted, std::vector<AdmissionTicket>{waiting});
}

TEST(AdmissionGate, NeverLetsMoreInThanItsLimitFromAnyNumberOfThreads) {
  FakeClock clock;
  AdmissionGate gate({.max_active = 3, .max_queued = 64}, &clock);
  std::atomic<int> inside{0}, most{0}, turns{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) {
        std::atomic<bool> my_turn{false};
        const Admission::Entry entry = gate.Enter(absl::InfiniteFuture(), [&](absl::Status status) {
          EXPECT_TRUE(status.ok()) << status;
          my_turn.store(true);
        });
        ASSERT_NE(entry.decision, Admission::Decision::kRefused);
        if (entry.decision == Admission::Decision::kQueued) {
          while (!my_turn.load()) std::this_thread::yield();
        }
        const int now = ++inside;
        for (int seen = most.load(); now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        ++turns;
        --inside;
        gate.Leave(entry.ticket);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(turns.load(), 4 * 300);
  EXPECT_LE(most.load(), 3);
  EXPECT_EQ(gate.counts().active, 0u);
  EXPECT_EQ(gate.counts().queued, 0u);
}

TEST(AdmissionGate, CallsBackInOrderAndNeverAfterLeaving) {
  FakeClock clock;
  AdmissionGate gate({.max_active = 1, .max_queued = 8}, &clock);
  std::vector<int> turns;
  const auto active = gate.Enter(kNoDeadline, nullptr).ticket;
  const auto first = gate.Enter(kNoDeadline, [&](const absl::Status& s) { turns.push_back(s.ok() ? 1 : -1); }).ticket;
  const auto second =
      gate.Enter(clock.Now() + absl::Seconds(1), [&](const absl::Status& s) { turns.push_back(s.ok() ? 2 : -2); })
          .ticket;
  const auto third = gate.Enter(kNoDeadline, [&](const absl::Status&) { turns.push_back(3); }).ticket;
  gate.Enter(kNoDeadline, [&](const absl::Status& s) { turns.push_back(s.ok() ? 4 : -4); });
  gate.Leave(third);
  EXPECT_TRUE(turns.empty());
  gate.Leave(active);
  EXPECT_EQ(turns, (std::vector<int>{1}));
  clock.Advance(absl::Seconds(2));
  gate.Leave(first);
  EXPECT_EQ(turns, (std::vector<int>{1, -2, 4}));
  gate.Leave(second);  // expired: changes nothing
  EXPECT_EQ(gate.counts().active, 1u);
  EXPECT_EQ(gate.counts().queued, 0u);
}

}  // namespace
}  // namespace dunlin::gateway
