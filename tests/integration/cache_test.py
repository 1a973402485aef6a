"""The KV cache of the real model: shared prefixes, conversations in a small pool, a pool far below the need, short prompts beside
long ones; after each, nothing is held, reserved or pinned. DUNLIN_TEST_FULL=1 (tools/test --all) runs the full counts."""
import concurrent.futures
import os
import random
import statistics
import time
import unittest

from dunlin.v1 import control_pb2, inference_pb2 as pb

import harness
from harness import text_of, wait_until

FULL = os.environ.get("DUNLIN_TEST_FULL") == "1"
VOCAB = 49152
PAGE_BYTES = 188160  # of the default model with FP8 pages of 16 tokens


def words(seed, count):
    """Token ids of no special meaning, the same for the same seed."""
    rng = random.Random(seed)
    return [rng.randrange(100, VOCAB) for _ in range(count)]


def request_of(ids, max_tokens, **output):
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))
    request.sampling.temperature = 0
    request.stopping.max_tokens = max_tokens
    request.stopping.ignore_eos = True
    request.output.token_ids = True
    request.output.timing = True
    return request


def run(stub, request, timeout=600):
    """(token ids, cached prompt tokens, seconds to the first delta)"""
    begin = time.monotonic()
    first = None
    ids, cached = [], None
    for event in stub.Generate(request, timeout=timeout):
        kind = event.WhichOneof("event")
        if kind == "delta":
            if first is None and event.delta.token_ids:
                first = time.monotonic() - begin
            ids.extend(event.delta.token_ids)
        elif kind == "summary":
            cached = event.summary.usage.cached_prompt_tokens
    return ids, cached, first


class CacheTest(unittest.TestCase):
    def setUp(self):
        harness.need_model(self)

    def expect_idle(self, server):
        """Nothing is held, reserved or pinned, by the metrics and by the admin call; blank and cached pages are all there are."""
        def counts():
            values, _ = server.metrics("worker0_metrics")
            states = {s: values[f'dunlin_kv_pages{{state="{s}"}}'] for s in ("blank", "held", "cached", "quarantine")}
            return states, values
        wait_until("every page is free again", lambda: counts()[0]["held"] == 0)
        states, values = counts()
        self.assertEqual(values["dunlin_kv_reserved_pages"], 0)
        self.assertEqual(values["dunlin_kv_pinned_pages"], 0)
        self.assertEqual(values["dunlin_invariant_failures_total"], 0)

        def load():
            return server.control.GetLoad(control_pb2.GetLoadRequest(), timeout=10).workers[0]
        # The gateway asks its workers once a second.
        wait_until("the admin call shows an idle worker", lambda: load().held_pages == 0 and load().running == 0)
        worker = load()
        self.assertEqual((worker.held_pages, worker.reserved_pages, worker.pinned_pages), (0, 0, 0))
        self.assertEqual(sum(states.values()), worker.total_pages)
        self.assertEqual(worker.blank_pages + worker.cached_pages + worker.quarantine_pages, worker.total_pages)
        return values

    def test_a_shared_prefix_of_1000_tokens_is_not_computed_again(self):
        with harness.Server("--kv-cache-memory-bytes=400M") as server:
            run(server.stub, request_of(words(1, 50), 2))  # warm code and memory
            ratios = []
            for i in range(5):
                prefix = words(100 + i, 1000)
                first = run(server.stub, request_of(prefix + words(200 + i, 8), 16))
                again = run(server.stub, request_of(prefix + words(300 + i, 8), 16))
                cold = request_of(prefix + words(300 + i, 8), 16)
                cold.cache.mode = pb.Cache.MODE_BYPASS
                self.assertEqual(first[1], 0)
                self.assertGreaterEqual(again[1], 990)
                self.assertEqual(again[0], run(server.stub, cold)[0], "a hit must give the text of a miss")
                # The same prompt once more computes one token only.
                whole = run(server.stub, request_of(prefix + words(300 + i, 8), 16))
                self.assertEqual(whole[1], 1007)
                self.assertEqual(whole[0], again[0])
                ratios.append(again[2] / first[2])
            print(f"\ntime to first token, hit over miss: median {statistics.median(ratios):.3f} of {len(ratios)}, "
                  f"{min(ratios):.3f} ... {max(ratios):.3f}")
            self.expect_idle(server)

    def test_conversations_in_a_third_of_their_working_set_say_the_same(self):
        conversations, turns = (100, 5) if FULL else (30, 4)

        def talk(stub, number):
            history, answers, cached = words(1000 + number % 7, 48), [], 0  # some share a system prompt
            for turn in range(turns):
                history = history + words(2000 + 10 * number + turn, 24)
                ids, hit, _ = run(stub, request_of(history, 16))
                history, cached = history + ids, cached + hit
                answers.append(ids)
            return answers, cached

        def everyone(*flags):
            with harness.Server("--max-num-seqs=16", *flags) as server:
                with concurrent.futures.ThreadPoolExecutor(16) as pool:
                    result = list(pool.map(lambda n: talk(server.stub, n), range(conversations)))
                values = self.expect_idle(server)
                return [a for a, _ in result], sum(c for _, c in result), values

        tokens = conversations * (48 + turns * 40)
        unbounded, hits, _ = everyone(f"--kv-cache-memory-bytes={2 * tokens // 16 * PAGE_BYTES}", "--max-model-len=512")
        bounded, fewer, values = everyone(f"--kv-cache-memory-bytes={tokens // 16 // 3 * PAGE_BYTES}", "--max-model-len=512")
        self.assertEqual(bounded, unbounded)
        self.assertGreater(values["dunlin_kv_evictions_total"], 0, "the small pool must have been too small")
        print(f"\n{conversations} conversations of {turns} turns: cached prompt tokens {hits} unbounded, {fewer} in a third; "
              f"{values['dunlin_kv_evictions_total']:.0f} evictions, {values['dunlin_preemptions_total']:.0f} preemptions")

    def test_a_pool_of_a_tenth_of_the_need_serves_everybody(self):
        clients, longest = 64, 96
        short_ones, cycle = 200, 300  # streams
        rng = random.Random(7)
        requests = [request_of(words(5000 + i, rng.randrange(20, 260)), longest) for i in range(clients)]
        need = sum((len(r.token_ids.ids) + longest + 15) // 16 for r in requests)
        pages = need // 10
        flags = ["--max-num-seqs=64", "--max-model-len=384", "--max-active-streams=128"]
        with harness.Server(f"--kv-cache-memory-bytes={(need + 64) * PAGE_BYTES}", *flags) as server:
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                expected = list(pool.map(lambda r: run(server.stub, r)[0], requests))
        with harness.Server(f"--kv-cache-memory-bytes={pages * PAGE_BYTES}", *flags) as server:
            begin = time.monotonic()
            done = [0] * clients
            wrong = []

            def client(number):
                mine = random.Random(number)
                # The first streams teach the worker that outputs are short; then they all run to the end, so that what was
                # promised is too little and somebody has to give way.
                def go_on():
                    enough = time.monotonic() > begin + 300 if FULL else sum(done) >= cycle
                    return not wrong and (not enough or done[number] == 0)

                while go_on():
                    i = mine.randrange(clients)
                    request = pb.GenerateRequest()
                    request.CopyFrom(requests[i])
                    want = expected[i]
                    if sum(done) % cycle < short_ones:
                        stop = want[mine.randrange(8)]
                        request.stopping.stop_token_ids.append(stop)
                        want = want[: want.index(stop) + 1]
                    ids, _, _ = run(server.stub, request)
                    done[number] += 1
                    if ids != want:
                        wrong.append((i, ids, want))

            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                for future in [pool.submit(client, n) for n in range(clients)]:
                    future.result()
            self.assertEqual(wrong, [])
            self.assertGreater(min(done), 0, "every client must get through")
            values = self.expect_idle(server)
            self.assertGreater(values["dunlin_preemptions_total"], 0, "nobody had to give way: the load shows too little")
            print(f"\n{pages} pages of {need} needed, {clients} clients, {time.monotonic() - begin:.0f} s: {sum(done)} streams complete and "
                  f"correct, {values['dunlin_preemptions_total']:.0f} preemptions, {values['dunlin_kv_evictions_total']:.0f} evictions, "
                  f"{values['dunlin_recompute_tokens_total']:.0f} tokens recomputed")

    def test_a_short_prompt_does_not_wait_for_long_ones(self):
        with harness.Server("--kv-cache-memory-bytes=1200M") as server:
            idle = [run(server.stub, request_of(words(i, 100), 4))[2] for i in range(5)]
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                long = [pool.submit(run, server.stub, request_of(words(50 + i, 4000), 1)) for i in range(4)]
                wait_until("the long prompts run", lambda: server.metrics("worker0_metrics")[0]["dunlin_num_requests_running"] == 4)
                before = server.metrics("worker0_metrics")[0]
                busy = [run(server.stub, request_of(words(90 + i, 100), 1))[2] for i in range(3)]
                after = server.metrics("worker0_metrics")[0]
                still_running = not any(f.done() for f in long)
                for future in long:
                    self.assertEqual(len(future.result()[0]), 1)
            count = sum(after[k] - before[k] for k in after if k.startswith("dunlin_step_seconds_count"))
            total = sum(after[k] - before[k] for k in after if k.startswith("dunlin_step_seconds_sum"))
            step = total / max(count, 1)
            steps = [(b - statistics.median(idle)) / step for b in busy]
            print(f"\nfirst token of a 100-token prompt: idle {statistics.median(idle) * 1e3:.0f} ms; beside four of 4,000 tokens "
                  f"{[round(b * 1e3) for b in busy]} ms, later by {[round(s, 1) for s in steps]} steps of {step * 1e3:.0f} ms")
            self.assertTrue(still_running, "the long prompts were done before the short ones: nothing was shown")
            self.expect_idle(server)


if __name__ == "__main__":
    unittest.main()
