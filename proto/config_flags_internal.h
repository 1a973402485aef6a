// Shared by config_flags.cc (parsing) and config_flags_text.cc (printing). Not for others.
// Thread-safety: pure functions.
#ifndef DUNLIN_PROTO_CONFIG_FLAGS_INTERNAL_H_
#define DUNLIN_PROTO_CONFIG_FLAGS_INTERNAL_H_

#include <string>

#include "absl/strings/string_view.h"
#include "dunlin/v1/config.pb.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace dunlin::config_internal {

inline const v1::FlagOptions& OptionsOf(const google::protobuf::FieldDescriptor* field) {
  return field->options().GetExtension(v1::flag);
}
// Whether the executable takes the field as a flag.
bool UsedBy(const google::protobuf::FieldDescriptor* field, absl::string_view used_by);
// max_num_seqs -> max-num-seqs
std::string FlagName(const google::protobuf::FieldDescriptor* field);
bool IsSet(const google::protobuf::Message& message, const google::protobuf::FieldDescriptor* field);
// The value as a flag would write it. index: of a repeated field, else ignored.
std::string ValueText(const google::protobuf::Message& message, const google::protobuf::FieldDescriptor* field,
                      int index);

}  // namespace dunlin::config_internal

#endif  // DUNLIN_PROTO_CONFIG_FLAGS_INTERNAL_H_
