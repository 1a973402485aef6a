// The pages of one device as ids: which are blank, held, cached or set aside. The bytes belong to the runner.
// Thread-safety: engine thread only.  Owns: every page's state, 16 bytes per page, allocated by the constructor.
// Borrows: the listener (may be nullptr).
// A PageRef is one reference, a pin another; the last one to go makes the page blank, or cached when the index knows
// it. Two structures of free pages: blank ones on a stack, cached ones in an eviction queue, both threaded
// through the records of the pages. Errors: too few pages is a
// return value (and leaves everything as it was); a stale handle CHECK-fails. Cost: O(1) per page, never allocates
// after construction. Source: ours.
#ifndef DUNLIN_KVSTORE_PAGE_POOL_H_
#define DUNLIN_KVSTORE_PAGE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvstore/eviction_queue.h"
#include "kvstore/kv_types.h"
#include "kvstore/page_ref.h"

namespace dunlin::kv {

enum class PageState : uint8_t {
  kBlank,       // on the blank stack
  kHeld,        // at least one reference
  kCached,      // no reference, content worth keeping; in the eviction queue
  kQuarantine,  // no reference, content suspect; not handed out until Absolve
};

class EvictionListener {
 public:
  // A cached page is about to be handed out for something else; it still says kCached. Must leave its node -1.
  virtual void OnEvict(PageId page) = 0;

 protected:
  ~EvictionListener() = default;
};

class PagePool {
 public:
  explicit PagePool(int32_t num_pages, EvictionPolicy policy = EvictionPolicy::kGreedyDual,
                    EvictionListener* listener = nullptr);
  PagePool(const PagePool&) = delete;  // PageRefs point here
  PagePool& operator=(const PagePool&) = delete;
  ~PagePool();  // CHECK-fails while a page is held

  // Fills `out` (of empty handles) with fresh pages: blank ones first, then the weakest cached ones. Nothing changed
  // unless kGranted.
  ReserveOutcome Acquire(std::span<PageRef> out);
  // One more reference to a page that is held or cached; a cached one leaves the eviction queue.
  PageRef Hold(PageId page);
  // References without a handle, for transfers; the page is held or cached.
  void Pin(PageId page);
  void Unpin(PageId page);

  // What becomes of a held page when its last reference goes; kBlank unless said otherwise.
  void SetFate(PageId page, PageState fate);
  // Of a held page: how much it counts when it becomes cached (EvictionQueue).
  void SetWeight(PageId page, int weight);
  // The index' name for the page, -1 for none; a fresh page has none.
  void SetNode(PageId page, int32_t node) { meta_[Index(page)].node = node; }
  // A cached page enters the eviction queue anew, as if released now; or becomes blank, forgotten by the caller.
  void Requeue(PageId page, int weight);
  void Discard(PageId page);
  int32_t Absolve();  // quarantined pages become blank; how many

  PageState state(PageId page) const { return static_cast<PageState>(meta_[Index(page)].state); }
  PageState fate(PageId page) const { return static_cast<PageState>(meta_[Index(page)].fate); }
  int32_t node(PageId page) const { return meta_[Index(page)].node; }
  int32_t ref_count(PageId page) const { return Refs(meta_[Index(page)]); }  // pins among them
  int32_t pins(PageId page) const { return Pins(meta_[Index(page)]); }
  int32_t num_pages() const { return static_cast<int32_t>(meta_.size()); }
  int32_t available() const { return blank_size_ + cached_.size(); }
  int32_t available_without_pins() const { return available() + waiting_for_pins_; }  // if all pins went
  PageId Weakest() const { return static_cast<PageId>(cached_.Weakest()); }           // -1 when no page is cached
  KvStats stats() const;                                                              // the fields that are the pool's
  void Prefetch(PageId page) const { __builtin_prefetch(&meta_[static_cast<size_t>(page)], 1); }

  // Walks every structure; "" or the first violated invariant by name with its values.
  std::string CheckInvariants() const;
  void AppendSnapshot(std::string* out) const;
  // Cached pages in the order of eviction.
  std::vector<int32_t> EvictionOrder() const { return cached_.Order(meta_.data()); }

 private:
  friend class PageRef;
  friend struct TestPeer;
  // What a page's state does not need, it does not have room for.
  struct Meta {
    union {
      int32_t prev = -1;  // in the list of kCached or kQuarantine
      int32_t refs;       // kHeld: of tables and pins
    };
    union {
      int32_t next = -1;  // in the list of kCached or kQuarantine; kBlank: the one below on the stack
      int32_t pins;       // kHeld
    };
    int32_t node = -1;
    uint16_t generation = 0;  // counts the times the page stopped being held
    uint8_t state : 2 = 0;
    uint8_t fate : 2 = 0;
    uint8_t rank : 4 = 0;  // kCached: the queue's; kHeld: the weight
  };

 public:
  static constexpr size_t kBytesPerPage = sizeof(Meta);

 private:
  size_t Index(PageId page) const;
  static bool Held(const Meta& m) { return m.state == static_cast<uint32_t>(PageState::kHeld); }
  static int32_t Refs(const Meta& m) { return Held(m) ? m.refs : 0; }
  static int32_t Pins(const Meta& m) { return Held(m) ? m.pins : 0; }
  // The only function that changes a state, and with it the structure that lists the page.
  void Transition(int32_t page, PageState from, PageState to);
  // Whether only pins keep the page from being available.
  static bool WaitsForPins(const Meta& m);
  void Evict();
  void AddReference(PageId page, int pins);
  void Unref(int32_t page, uint16_t generation);
  void CheckHandle(int32_t page, uint16_t generation) const;
  std::string CheckList(const char* name, const LinkedList<Meta>& list, PageState state) const;

  EvictionListener* const listener_;
  std::vector<Meta> meta_;
  int32_t blank_top_ = -1;  // not beside blank_size_: written as one word and read as two they would stall
  EvictionQueue<Meta> cached_;
  LinkedList<Meta> quarantine_;
  int32_t blank_size_ = 0;
  int32_t waiting_for_pins_ = 0;
  int32_t pinned_ = 0;
  uint64_t evictions_ = 0;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PAGE_POOL_H_
