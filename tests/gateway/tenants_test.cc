#include "gateway/tenants.h"

#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "proto/limits.h"
#include "proto/status_map.h"
#include "tests/support/status_matchers.h"

namespace dunlin::gateway {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

Tenants Make(const std::vector<std::string>& keys, bool trust = false) {
  absl::StatusOr<Tenants> tenants = Tenants::Create(keys, trust);
  EXPECT_OK(tenants);
  return *std::move(tenants);
}

absl::StatusOr<Caller> Identify(const Tenants& tenants, std::vector<absl::string_view> authorization,
                                std::vector<absl::string_view> tenant = {},
                                std::vector<absl::string_view> priority = {}) {
  return tenants.Identify({std::move(authorization), std::move(tenant), std::move(priority)});
}

TEST(Tenants, WithoutKeysEverybodyIsOneTenant) {
  const Tenants open = Make({});
  ASSERT_OK_AND_ASSIGN(const Caller plain, Identify(open, {}));
  EXPECT_EQ(plain.tenant, "");
  EXPECT_EQ(plain.priority, 0);
  ASSERT_OK_AND_ASSIGN(const Caller other, Identify(open, {"Bearer anything"}, {"somebody"}));
  EXPECT_EQ(other.tenant, "") << "nobody vouches for that name";
}

TEST(Tenants, EachKeyIsATenantWhoseNameDoesNotShowTheKey) {
  const Tenants tenants = Make({"alpha-key", "beta-key"});
  ASSERT_OK_AND_ASSIGN(const Caller a, Identify(tenants, {"Bearer alpha-key"}));
  ASSERT_OK_AND_ASSIGN(const Caller b, Identify(tenants, {"bearer beta-key"}));
  EXPECT_NE(a.tenant, b.tenant);
  EXPECT_NE(a.tenant, "");
  EXPECT_LE(a.tenant.size(), limits::kMaxTenantBytes);
  EXPECT_THAT(a.tenant, Not(HasSubstr("alpha")));
  // Another replica, its keys in another order, agrees.
  EXPECT_EQ(Identify(Make({"beta-key", "alpha-key"}), {"Bearer alpha-key"})->tenant, a.tenant);
}

TEST(Tenants, WhoBringsNoKnownKeyIsUnauthenticated) {
  const Tenants tenants = Make({"secret-one", "secret-two"});
  const std::vector<std::vector<absl::string_view>> bad = {
      {},
      {""},
      {"secret-one"},
      {"Basic secret-one"},
      {"Bearer"},
      {"Bearer "},
      {"Bearer secret-on"},
      {"Bearer secret-onee"},
      {"Bearer secret-one "},
      {"Bearer  secret-one"},
      {"Bearer SECRET-ONE"},
      {"Bearer wrong", "Bearer secret-one"},
  };
  for (const auto& authorization : bad) {
    const absl::Status status = Identify(tenants, authorization).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnauthenticated, Not(HasSubstr("secret"))));
    EXPECT_EQ(GetErrorInfo(status)->reason, "UNAUTHENTICATED");
  }
}

TEST(Tenants, ATrustedProxyNamesItsClientsWithinItsKey) {
  const Tenants tenants = Make({"one", "two"}, /*trust=*/true);
  std::set<std::string> seen;
  for (const char* key : {"Bearer one", "Bearer two"}) {
    ASSERT_OK_AND_ASSIGN(const Caller plain, Identify(tenants, {key}));
    EXPECT_TRUE(seen.insert(plain.tenant).second);
    for (const char* name : {"acme", "globex"}) {
      ASSERT_OK_AND_ASSIGN(const Caller named, Identify(tenants, {key}, {name}));
      EXPECT_TRUE(seen.insert(named.tenant).second) << key << " " << name;
      EXPECT_EQ(Identify(tenants, {key}, {name})->tenant, named.tenant);
    }
  }
  EXPECT_EQ(Identify(Make({"one", "two"}), {"Bearer one"}, {"acme"})->tenant, Identify(tenants, {"Bearer one"})->tenant)
      << "not trusted, so not looked at";
  EXPECT_THAT(Identify(tenants, {}, {"acme"}), StatusIs(absl::StatusCode::kUnauthenticated, HasSubstr("key")));
  for (const std::vector<absl::string_view>& bad :
       std::vector<std::vector<absl::string_view>>{{""}, {"a b"}, {"a", "b"}, {"t\xc3\xa9"}}) {
    EXPECT_THAT(Identify(tenants, {"Bearer one"}, bad),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x-dunlin-tenant")));
  }
  const std::string longest(limits::kMaxNameBytes, 'x');
  EXPECT_OK(Identify(tenants, {"Bearer one"}, {longest}));
  EXPECT_THAT(Identify(tenants, {"Bearer one"}, {longest + "x"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x-dunlin-tenant")));
}

TEST(Tenants, PrioritiesAreWholeNumbersOfASmallRange) {
  const Tenants open = Make({});
  for (const int32_t p : {-2, -1, 0, 1, 2}) {
    EXPECT_EQ(Identify(open, {}, {}, {std::to_string(p)})->priority, p);
  }
  for (const std::vector<absl::string_view>& bad : std::vector<std::vector<absl::string_view>>{
           {"3"}, {"-3"}, {""}, {"high"}, {"1.0"}, {" 1"}, {"1 "}, {"1", "1"}, {"99999999999999999999"}}) {
    EXPECT_THAT(Identify(open, {}, {}, bad),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x-dunlin-priority")));
  }
}

TEST(Tenants, BadKeysAreRefusedWithoutBeingShown) {
  for (const std::vector<std::string>& keys :
       std::vector<std::vector<std::string>>{{""},
                                             {"hunter2", "hunter 2"},
                                             {"hunter2\n"},
                                             {"hunt\xc3\xa9r"},
                                             {"hunter2", "hunter2"},
                                             {"hunter" + std::string(limits::kMaxApiKeyBytes, 'x')}}) {
    EXPECT_THAT(Tenants::Create(keys, false),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--api-key"), Not(HasSubstr("hunt")))));
  }
}

TEST(CacheNamespace, NoTwoPairsOfTenantAndSaltShareOne) {
  const std::vector<std::string> words = {"",    "a",    "aa", std::string(1, '\0'), std::string(1, '\1'),
                                          "\1a", "\2aa", "b"};
  std::set<std::string> seen;
  for (const std::string& tenant : words) {
    for (const std::string& salt : words) EXPECT_TRUE(seen.insert(CacheNamespace(tenant, salt)).second);
  }
  EXPECT_EQ(seen.size(), words.size() * words.size());
  const std::string longest =
      CacheNamespace(std::string(limits::kMaxTenantBytes, 't'), std::string(limits::kMaxNameBytes, 's'));
  EXPECT_EQ(longest.size(), limits::kMaxCacheNamespaceBytes);
}

}  // namespace
}  // namespace dunlin::gateway
