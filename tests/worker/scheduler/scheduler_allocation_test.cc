// Planning a step with a full house and a long queue must not allocate: counted by this program's own operator new.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/allocation_counter.h"
#include "worker/scheduler/admission_queue.h"
#include "worker/scheduler/output_predictor.h"
#include "worker/scheduler/reservation.h"
#include "worker/scheduler/row_planner.h"
#include "worker/scheduler/scheduler_checks.h"

namespace dunlin::worker {
namespace {

TEST(Scheduler, ASteadyStepDoesNotAllocate) {
  RowLimits limits;
  limits.max_rows = 512;
  RowPlanner planner(limits);
  StepTimeModel model;
  OutputPredictor predictor;
  TenantCounters counters;
  AdmissionQueue queue(AdmissionLimits(), &counters);
  std::vector<TenantId> tenants;
  for (const char* name : {"a", "b", "c"}) tenants.push_back(counters.Acquire(name));
  for (int i = 0; i < 300; ++i) {
    WaitingEntry entry;
    entry.tenant = tenants[static_cast<size_t>(i) % 3];
    entry.priority = i % 2;
    entry.arrival = absl::UnixEpoch() + absl::Seconds(i);
    queue.Add(entry);
  }
  std::vector<RowView> running(256);
  for (size_t i = 0; i < running.size(); ++i) {
    running[i].decoding = i >= 12;
    running[i].remaining = running[i].decoding ? 1 : 100000;
  }
  std::vector<int32_t> rows;
  uint64_t before = 0;
  for (uint64_t step = 1; step < 500; ++step) {
    if (step == 100) before = testing::NumAllocations();
    queue.BeginRound();
    // Nobody fits: what a step costs under pressure.
    ASSERT_FALSE(queue.Next(9, [&](WaitingId) { return AdmissionNeed{10, 0}; }).has_value());
    queue.EndRound();
    planner.Plan(running, step, RowPlanner::TimeLimit(running, model, absl::Milliseconds(20)), &rows);
    ASSERT_TRUE(CheckBudget(running, rows, limits).empty());
    model.Observe(256 + static_cast<int32_t>(step % 7), 100000, absl::Milliseconds(18));
    predictor.OnStep();
    predictor.Observe(static_cast<int32_t>(1 + step % 50), 512);
    ASSERT_GE(ReservePages({.prompt_tokens = 100, .max_output = 512}, predictor, 16), 7);
    for (const TenantId t : tenants) counters.ChargeOutput(t, 80);
    ASSERT_GE(counters.spread(), 0);
    for (size_t i = 0; i < rows.size(); ++i) {
      running[i].computed += rows[i];
      if (rows[i] > 0) running[i].last_advanced = step;
      if (!running[i].decoding) running[i].remaining -= rows[i];
    }
  }
  EXPECT_EQ(testing::NumAllocations() - before, 0u);
}

}  // namespace
}  // namespace dunlin::worker
