// runtime.h on the host: memory is the host's; work is done when it is issued or, with SetDeferred, when the host
// waits.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/emulator/emulator.h"
#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {
namespace {

class EmulatedDevice final : public Device {
 public:
  EmulatedDevice() {
    info_.name = "emulator";
    info_.compute_capability = 87;
    info_.num_sms = 4;
    info_.l2_bytes = size_t{4} << 20;
    info_.shared_bytes_per_block = emulator::kMaxSharedBytes;
    info_.total_bytes =
        static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    info_.unified_memory = true;
  }

  uint64_t FreeBytes() override {
    return static_cast<uint64_t>(::sysconf(_SC_AVPHYS_PAGES)) * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  // Poisoned: whoever reads what nobody wrote gets NaN.
  void* Allocate(size_t bytes) override {
    if (!ok() || bytes == 0 || bytes > info_.total_bytes) return nullptr;
    void* p = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (p != nullptr) std::memset(p, 0xFF, bytes);
    return p;
  }
  void Free(void* p) override {
    Drain();
    std::free(p);
  }
  void* AllocatePinned(size_t bytes) override { return Allocate(bytes); }
  void FreePinned(void* p) override { Free(p); }

  void CopyToDevice(void* to, const void* from, size_t bytes) override { Copy(to, from, bytes); }
  void CopyToHost(void* to, const void* from, size_t bytes) override { Copy(to, from, bytes); }
  void CopyOnDevice(void* to, const void* from, size_t bytes) override { Copy(to, from, bytes); }
  void Fill(void* to, uint8_t byte, size_t bytes) override {
    Enqueue([=] { std::memset(to, byte, bytes); });
  }
  void Synchronize() override {
    CHECK(!capturing_) << "Synchronize while recording";
    Drain();
  }

  void BeginCapture() override {
    CHECK(!capturing_);
    capturing_ = true;
    recorded_.clear();
  }
  int EndCapture() override {
    CHECK(capturing_);
    capturing_ = false;
    if (!ok()) return -1;
    graphs_[next_graph_] = std::make_shared<const std::vector<std::function<void()>>>(std::move(recorded_));
    recorded_.clear();
    return next_graph_++;
  }
  void LaunchGraph(int graph) override {
    if (!ok()) return;
    const auto it = graphs_.find(graph);
    CHECK(it != graphs_.end()) << "graph " << graph;
    Enqueue([this, works = it->second] {
      for (const auto& work : *works) {
        if (ok()) work();
      }
    });
  }
  void DropGraph(int graph) override { graphs_.erase(graph); }

  void Record(int event) override {
    CHECK(event >= 0 && event < kEvents);
    ++recordings_[event];
    Enqueue([this, event] {
      events_[event] = std::chrono::steady_clock::now();
      --recordings_[event];
    });
  }
  void Wait(int event) override {
    while (recordings_[event] > 0 && ok()) RunNext();
  }
  double Elapsed(int from, int to) override {
    Wait(to);
    return std::chrono::duration<double>(events_[to] - events_[from]).count();
  }

  void* native_stream() override { return nullptr; }
  void Enqueue(std::function<void()> work) override {
    if (!ok()) return;
    if (capturing_) {
      recorded_.push_back(std::move(work));
    } else if (emulator::Deferred()) {
      waiting_.push_back(std::move(work));
    } else {
      Drain();
      work();
    }
  }

 private:
  void RunNext() {
    CHECK(!waiting_.empty());
    const std::function<void()> work = std::move(waiting_.front());
    waiting_.pop_front();
    work();
  }
  void Drain() {
    while (!waiting_.empty() && ok()) RunNext();
  }
  void Copy(void* to, const void* from, size_t bytes) {
    if (bytes == 0) return;
    Enqueue([=] { std::memcpy(to, from, bytes); });
  }

  bool capturing_ = false;
  std::vector<std::function<void()>> recorded_;
  std::map<int, std::shared_ptr<const std::vector<std::function<void()>>>> graphs_;
  std::deque<std::function<void()>> waiting_;  // of a deferring stream
  int recordings_[kEvents] = {};               // of each event, in waiting_
  int next_graph_ = 0;
  std::chrono::steady_clock::time_point events_[kEvents];
};

}  // namespace

int Device::Count(std::string*) { return 1; }

std::unique_ptr<Device> Device::Open(int ordinal, std::string* why) {
  if (ordinal != 0) {
    *why = "device " + std::to_string(ordinal) + ": the emulator has one device";
    return nullptr;
  }
  return std::make_unique<EmulatedDevice>();
}

}  // namespace dunlin::kernels::cuda
