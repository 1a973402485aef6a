// One HTTP GET over loopback, for tests that look at /metrics. Thread-safety: pure function.
#ifndef DUNLIN_TESTS_WORKER_SERVICE_SCRAPER_H_
#define DUNLIN_TESTS_WORKER_SERVICE_SCRAPER_H_

#include <string>

namespace dunlin::testing {

// The whole answer with its headers; "" when nothing listens. address: "127.0.0.1:port".
std::string HttpGet(const std::string& address, const std::string& path);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_SERVICE_SCRAPER_H_
