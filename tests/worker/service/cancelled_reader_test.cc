// A client that goes away in the middle of a stream: the request must always come to its end, whatever lay unread in
// the mailboxes at that moment. A mailbox reports news only once until it is read, so a merger that stops reading is
// never told of the end.
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "worker/service/choice_merger.h"
#include "worker/service/token_stream.h"
#include "worker/service/write_pump.h"

namespace dunlin::worker {
namespace {

SequenceEnd Cancelled() {
  SequenceEnd end;
  end.cause = FinishCause::kCancelled;
  end.status = absl::CancelledError("the client cancelled");
  return end;
}

// Pump and merger as the reactor drives them, with the writes in the test's hands.
class Relay {
 public:
  explicit Relay(int choices) : streams_(MakeStreams(choices)), merger_(streams_, 0) {
    for (const auto& stream : streams_) {
      stream->SetNotify([this] {
        if (pump_.OnNews()) Build();
      });
    }
  }
  TokenStream& stream(size_t i) { return *streams_[i]; }
  bool writing() const { return writing_; }
  bool finished() const { return finished_; }
  void WriteDone(bool ok) {
    writing_ = false;
    pump_.OnWriteDone();
    if (!ok) merger_.Discard();
    Build();
  }

 private:
  static std::vector<std::shared_ptr<TokenStream>> MakeStreams(int choices) {
    std::vector<std::shared_ptr<TokenStream>> streams;
    for (int i = 0; i < choices; ++i) streams.push_back(std::make_shared<TokenStream>());
    return streams;
  }
  void Build() {
    while (true) {
      WritePump::Found found = WritePump::Found::kNothing;
      if (merger_.Next(&message_)) {
        found = WritePump::Found::kMessage;
      } else if (merger_.ended()) {
        found = WritePump::Found::kEnd;
      }
      switch (pump_.Built(found)) {
        case WritePump::Next::kWrite:
          writing_ = true;
          return;
        case WritePump::Next::kFinish:
          finished_ = true;
          return;
        case WritePump::Next::kWait:
          return;
        case WritePump::Next::kBuildAgain:
          break;
      }
    }
  }

  std::vector<std::shared_ptr<TokenStream>> streams_;
  WritePump pump_;
  ChoiceMerger merger_;
  v1::GenerateResponse message_;
  bool writing_ = false;
  bool finished_ = false;
};

TEST(CancelledReaderTest, EndsThoughMessagesWaitedAndTheMailboxHoldsUnreadTokens) {
  Relay relay(1);
  relay.stream(0).PushScheduled(0);
  ASSERT_TRUE(relay.writing());  // the scheduled event
  relay.stream(0).PushToken(1, nullptr);
  relay.WriteDone(true);  // now the first token is being written
  ASSERT_TRUE(relay.writing());
  relay.stream(0).PushToken(2, nullptr);
  relay.WriteDone(false);
  EXPECT_FALSE(relay.finished());
  relay.stream(0).PushEnd(Cancelled());
  EXPECT_TRUE(relay.finished());
}

TEST(CancelledReaderTest, EndsThoughOtherChoicesHadMessagesWaiting) {
  Relay relay(3);
  for (size_t i = 0; i < 3; ++i) relay.stream(i).PushScheduled(0);
  while (relay.writing()) relay.WriteDone(true);
  relay.stream(0).PushToken(1, nullptr);
  ASSERT_TRUE(relay.writing());
  relay.stream(1).PushToken(2, nullptr);
  relay.stream(2).PushToken(3, nullptr);
  relay.WriteDone(true);  // one look takes the tokens of choices 1 and 2; choice 2's waits behind choice 1's
  ASSERT_TRUE(relay.writing());
  for (size_t i = 0; i < 3; ++i) relay.stream(i).PushToken(4, nullptr);  // unread when the client leaves
  relay.WriteDone(false);
  EXPECT_FALSE(relay.finished());
  for (size_t i = 0; i < 3; ++i) relay.stream(i).PushEnd(Cancelled());
  EXPECT_TRUE(relay.finished());
}

TEST(CancelledReaderTest, EndsThoughTheEndArrivedDuringTheWriteThatFailed) {
  Relay relay(2);
  for (size_t i = 0; i < 2; ++i) relay.stream(i).PushScheduled(0);
  while (relay.writing()) relay.WriteDone(true);
  relay.stream(0).PushToken(1, nullptr);
  relay.stream(0).PushToken(2, nullptr);
  relay.stream(1).PushToken(3, nullptr);
  relay.WriteDone(true);
  ASSERT_TRUE(relay.writing());
  for (size_t i = 0; i < 2; ++i) relay.stream(i).PushEnd(Cancelled());
  relay.WriteDone(false);
  EXPECT_TRUE(relay.finished());
}

}  // namespace
}  // namespace dunlin::worker
