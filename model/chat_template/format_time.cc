// strftime_now: the C locale's strftime on a civil time.
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/civil_time.h"
#include "base/status_macros.h"
#include "model/chat_template/format.h"

namespace dunlin::model::jinja {
namespace {

constexpr absl::string_view kDays[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
constexpr absl::string_view kMonths[] = {"January", "February", "March",     "April",   "May",      "June",
                                         "July",    "August",   "September", "October", "November", "December"};

// A number, padded to `width` with `pad`; 0 pads nothing ("%-d").
std::string Number(int64_t n, size_t width, char pad) {
  std::string digits = absl::StrCat(n);
  if (pad != 0 && digits.size() < width) digits.insert(0, width - digits.size(), pad);
  return digits;
}

struct IsoWeek {
  int64_t year;
  int64_t week;
};

// ISO 8601: weeks begin on Monday, week 1 holds the year's first Thursday.
IsoWeek IsoWeekOf(absl::CivilDay day) {
  const int64_t weekday = static_cast<int64_t>(absl::GetWeekday(day));  // 0 = Monday
  const absl::CivilDay thursday = day - weekday + 3;
  return {thursday.year(), (absl::GetYearDay(thursday) - 1) / 7 + 1};
}

// One directive; `flag` is '-', '_', '0' or 0. False when there is no such directive.
bool AppendDirective(absl::CivilSecond t, char directive, char flag, std::string* out) {
  const absl::CivilDay day(t);
  const int64_t monday_based = static_cast<int64_t>(absl::GetWeekday(day));  // 0 = Monday
  const int64_t sunday_based = (monday_based + 1) % 7;
  const int64_t year_day = absl::GetYearDay(day);
  const int64_t hour12 = t.hour() % 12 == 0 ? 12 : t.hour() % 12;
  const auto number = [&](int64_t n, size_t width, char pad = '0') {
    *out += Number(n, width, flag == '-' ? '\0' : flag == '_' ? ' ' : flag == '0' ? '0' : pad);
  };
  const auto all = [&](absl::string_view directives) {
    for (const char c : directives) {
      if (absl::string_view("/: ,").find(c) != absl::string_view::npos) {
        out->push_back(c);
      } else {
        AppendDirective(t, c, 0, out);
      }
    }
  };
  switch (directive) {
    case 'Y':
      number(t.year(), 1);
      return true;
    case 'C':
      number(t.year() / 100, 2);
      return true;
    case 'y':
      number(t.year() % 100, 2);
      return true;
    case 'm':
      number(t.month(), 2);
      return true;
    case 'd':
      number(t.day(), 2);
      return true;
    case 'e':
      number(t.day(), 2, ' ');
      return true;
    case 'H':
      number(t.hour(), 2);
      return true;
    case 'k':
      number(t.hour(), 2, ' ');
      return true;
    case 'I':
      number(hour12, 2);
      return true;
    case 'l':
      number(hour12, 2, ' ');
      return true;
    case 'M':
      number(t.minute(), 2);
      return true;
    case 'S':
      number(t.second(), 2);
      return true;
    case 'j':
      number(year_day, 3);
      return true;
    case 'u':
      number(monday_based + 1, 1);
      return true;
    case 'w':
      number(sunday_based, 1);
      return true;
    case 'U':
      number((year_day + 6 - sunday_based) / 7, 2);
      return true;
    case 'W':
      number((year_day + 6 - monday_based) / 7, 2);
      return true;
    case 'V':
      number(IsoWeekOf(day).week, 2);
      return true;
    case 'G':
      number(IsoWeekOf(day).year, 1);
      return true;
    case 'g':
      number(IsoWeekOf(day).year % 100, 2);
      return true;
    case 'f':
      *out += "000000";
      return true;  // whole seconds only
    case 'Z':
    case 'z':
      return true;  // a civil time has no zone
    case 'a':
      absl::StrAppend(out, kDays[sunday_based].substr(0, 3));
      return true;
    case 'A':
      absl::StrAppend(out, kDays[sunday_based]);
      return true;
    case 'b':
    case 'h':
      absl::StrAppend(out, kMonths[t.month() - 1].substr(0, 3));
      return true;
    case 'B':
      absl::StrAppend(out, kMonths[t.month() - 1]);
      return true;
    case 'p':
      *out += t.hour() < 12 ? "AM" : "PM";
      return true;
    case 'P':
      *out += t.hour() < 12 ? "am" : "pm";
      return true;
    case 'D':
    case 'x':
      all("m/d/y");
      return true;
    case 'F':
      number(t.year(), 1), *out += absl::StrFormat("-%02d-%02d", t.month(), t.day());
      return true;
    case 'R':
      all("H:M");
      return true;
    case 'T':
    case 'X':
      all("H:M:S");
      return true;
    case 'r':
      all("I:M:S p");
      return true;
    case 'c':
      all("a b e H:M:S Y");
      return true;
    case 'n':
      out->push_back('\n');
      return true;
    case 't':
      out->push_back('\t');
      return true;
    case '%':
      out->push_back('%');
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<Value> FormatTime(Env& env, const MarkedText& format) {
  RETURN_IF_ERROR(env.Spend(format.size() / 4));
  const absl::string_view s = format.view();
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    RETURN_IF_ERROR(env.CheckBytes(out.size()));
    size_t at = i + 1;
    char flag = 0;
    if (s[i] == '%' && at < s.size() && (s[at] == '-' || s[at] == '_' || s[at] == '0')) flag = s[at++];
    if (s[i] != '%' || at >= s.size() || !AppendDirective(env.now(), s[at], flag, &out)) {
      out.push_back(s[i]);
      continue;
    }
    i = at;
  }
  return env.NewText(MarkedText(std::move(out), format.has_input()));
}

}  // namespace dunlin::model::jinja
