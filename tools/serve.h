// `dunlin serve`: one worker process per --workers and one gateway on this machine, supervised until a signal ends
// them. A worker that dies is started again; the gateway's end, or a worker that never became ready, ends everything.
// Thread-safety: call once, from the main thread, before any other thread exists (it blocks signals for the process).
#ifndef DUNLIN_TOOLS_SERVE_H_
#define DUNLIN_TOOLS_SERVE_H_

#include <string>
#include <vector>

namespace dunlin::tools {

// args: what follows `serve`. Returns the exit code.
int Serve(const std::vector<std::string>& args);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_SERVE_H_
