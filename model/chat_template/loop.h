// The `loop` object of a for statement (private to the interpreter).
// Owns: the elements; the interpreter fills `items` on demand because a filtered loop looks ahead only when asked.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_LOOP_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_LOOP_H_

#include <cstddef>
#include <memory>
#include <vector>

#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

struct Stmt;
struct Scope;

struct LoopHeap {
  const Stmt* statement = nullptr;
  std::shared_ptr<Scope> scope;  // around the for statement
  std::vector<Value> source;     // what the for iterates over
  size_t taken = 0;              // of source
  std::vector<Value> items;      // what passed the filter
  size_t index0 = 0;
  int depth0 = 0;
  std::vector<Value> last_changed;
  bool changed_called = false;
};

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_LOOP_H_
