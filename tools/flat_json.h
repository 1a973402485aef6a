// A JSON object of strings, such as an addresses file. Thread-safety: pure functions.
// Errors: ParseFlatJson of anything else is empty.
#ifndef DUNLIN_TOOLS_FLAT_JSON_H_
#define DUNLIN_TOOLS_FLAT_JSON_H_

#include <map>
#include <string>

namespace dunlin::tools {

std::string FlatJson(const std::map<std::string, std::string>& values);  // one line, with a newline
std::map<std::string, std::string> ParseFlatJson(const std::string& text);
// A quoted JSON string; bytes that are not UTF-8 are replaced.
std::string JsonQuote(const std::string& text);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_FLAT_JSON_H_
