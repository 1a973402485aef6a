"""50 concurrent streams over one connection for a minute, from ghz: no error, and nothing left behind."""
import itertools
import json
import subprocess
import unittest

import harness
from harness import chat, text_of, wait_until

SECONDS = 60


class LoadTest(unittest.TestCase):
    def test_50_streams_over_one_connection_for_a_minute(self):
        harness.need_model(self)
        tool = harness.ghz()
        # A pool that is soon full: what its cache holds is memory well spent, what comes beyond it would be a leak.
        with harness.Server("--max-num-seqs=64", "--max-model-len=512", "--kv-cache-memory-bytes=60M") as server:
            loads = itertools.count()

            def load(seconds):
                # No prompt comes twice, in this load or another: however few a slow machine serves, they fill the pool.
                text = f"Name three rivers of Europe. {next(loads)}.{{{{.RequestNumber}}}}"
                request = {"chat": {"messages": [{"role": "user", "content": text}]},
                           "sampling": {"temperature": 0}, "stopping": {"max_tokens": 16, "ignore_eos": True}}
                done = subprocess.run(
                    [tool, "--insecure", "--call", "dunlin.v1.InferenceService.Generate",
                     "--connections", "1", "--concurrency", "50", "--duration", f"{seconds}s", "--duration-stop", "wait",
                     "--timeout", "60s", "--data", json.dumps(request), "--format", "json", server.addresses()["grpc"]],
                    capture_output=True, text=True, timeout=seconds + 120)
                self.assertEqual(done.returncode, 0, done.stderr)
                return json.loads(done.stdout)

            def evictions():
                return server.metrics("worker0_metrics")[0]["dunlin_kv_evictions_total"]

            while evictions() == 0:
                load(5)
            load(5)  # every buffer of this load exists now, and every page has been written
            pids = {name: server.children(name)[0] for name in ("dunlin-worker", "dunlin-gateway")}
            rss = {name: harness.rss_kb(pid) for name, pid in pids.items()}
            files = {name: harness.open_files(pid) for name, pid in pids.items()}
            report = load(SECONDS)
            print(f"\nghz: {report['count']} calls, {report['rps']:.1f}/s, mean {report['average'] / 1e6:.0f} ms")
            self.assertEqual(report["statusCodeDistribution"], {"OK": report["count"]}, report.get("errorDistribution"))
            self.assertGreater(report["count"], 50)

            wait_until("every page is free again", lambda: server.held_pages() == 0)
            for name, pid in pids.items():
                self.assertEqual(server.children(name), [pid], f"{name} was restarted")
                wait_until(f"{name} closes its files", lambda n=name, p=pid: harness.open_files(p) <= files[n] + 2)
                grown = harness.rss_kb(pid) - rss[name]
                print(f"{name}: RSS {rss[name] // 1024} MB, {grown:+d} KB over the minute")
                self.assertLess(grown, 16 * 1024, f"KB that {name} grew by")
            self.assertEqual(text_of(server.stub.Generate(chat("Name the capital of France."), timeout=60)),
                             "The capital of France is Paris.")


if __name__ == "__main__":
    unittest.main()
