// A stretch of prompt text and whether special-token text inside it counts. Thread-safety: plain data.
#ifndef DUNLIN_MODEL_TEXT_SEGMENT_H_
#define DUNLIN_MODEL_TEXT_SEGMENT_H_

#include <string>

namespace dunlin::model {

// Chat templates produce a list of these and the tokenizer reads it: a template's own text is trusted, a message's
// content is not.
struct TextSegment {
  std::string text;
  bool parse_special = true;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TEXT_SEGMENT_H_
