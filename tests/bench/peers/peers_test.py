"""Readers of the benchmark programs' output, on captured output; the table's arithmetic."""
import json
import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import compare
import engines
import outputs
import servers
import table

LLAMA_JSONL = """
{"build_commit": "0c1e570", "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 14.1, "samples_ts": [ 14.1836, 15 ]}
{"build_commit": "0c1e570", "n_prompt": 0, "n_gen": 128, "n_depth": 0, "avg_ts": 3.8, "samples_ts": [ 3.8151 ]}
{"build_commit": "0c1e570", "n_prompt": 0, "n_gen": 64, "n_depth": 1024, "avg_ts": 2.5, "samples_ts": [ 2.5 ]}
"""
OLDER_JSON = """[
  {
    "n_prompt": 512,
    "n_gen": 0,
    "test": "pp512",
    "samples_ts": [ 14.6328 ]
  },
  {
    "n_prompt": 1024,
    "n_gen": 64,
    "test": "tg64@pp1024",
    "samples_ts": [ 30.0417 ]
  }
]
"""
BATCHED = """
llama_model_loader: - kv  31:   tokenizer.chat_template str = {% for message in messages %}{% if lo...
|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    64 |     32 |    1 |     96 |    2.188 |     7.31 |   13.132 |     0.61 |   15.320 |     1.57 |
|    64 |     32 |    8 |    768 |    1.647 |    19.43 |    3.238 |     4.94 |    4.885 |     9.83 |

llama_print_timings:       total time =    3632.05 ms /    76 tokens
"""
BATCHED_JSONL = """
{"n_kv_max": 512, "n_threads": 2, "pp": 64, "tg": 32, "pl": 8, "n_kv": 40, "t_tg": 2.58, "speed_tg": 3.091783, "speed": 7.8}
"""


class OutputsTest(unittest.TestCase):
    def test_llama_bench(self):
        self.assertEqual(outputs.llama_bench(LLAMA_JSONL),
                         {"prefill 512": [14.1836, 15], "decode b1": [3.8151], "decode b1 @1024": [2.5]})

    def test_llama_bench_of_builds_without_depth(self):
        self.assertEqual(outputs.llama_bench(OLDER_JSON), {"prefill 512": [14.6328], "decode b1 @1024": [30.0417]})

    def test_a_mixed_measurement_is_refused(self):
        with self.assertRaises(ValueError):
            outputs.llama_bench('{"n_prompt": 5, "n_gen": 6, "test": "pp5+tg6", "samples_ts": [1]}')

    def test_batched_bench(self):
        self.assertEqual(outputs.batched_bench(BATCHED), {"decode b1": [0.61], "decode b8": [4.94]})
        self.assertEqual(outputs.batched_bench(BATCHED_JSONL), {"decode b8": [3.091783]})
        self.assertEqual(outputs.batched_bench("nothing\n"), {})

    def test_ours(self):
        cells = [{"test": "prefill", "batch": 1, "depth": 0, "tokens": 512, "tokens_per_second": 9.0},
                 {"test": "decode", "batch": 8, "depth": 64, "tokens": 32, "tokens_per_second": 7.0},
                 {"test": "decode", "batch": 1, "depth": 1024, "tokens": 64, "tokens_per_second": 5.0}]
        rates, by_case, _ = outputs.ours(json.dumps({"cells": cells}), batches=True)
        self.assertEqual(rates, {"prefill 512": [9.0], "decode b8": [7.0], "decode b1 @1024": [5.0]})
        self.assertEqual(by_case["decode b8"], cells[1])

    def test_prompts_are_cut_as_the_load_client_does(self):
        self.assertEqual(outputs.prompt_ids(list(range(300)), 3, 2, 0), [0, 1, 2, 3, 4])
        self.assertEqual(outputs.prompt_ids(list(range(300)), 3, 2, 3), [0, 1, 99, 100, 101])

    def test_token_events(self):
        self.assertTrue(outputs.is_token_event(b'data: {"index":0,"content":" a","tokens":[5],"stop":false}\n'))
        self.assertFalse(outputs.is_token_event(b'data: {"index":0,"content":"","tokens":[],"stop":true,"model":"x"}\n'))
        self.assertFalse(outputs.is_token_event(b"data: [DONE]\n"))
        self.assertFalse(outputs.is_token_event(b"HTTP/1.1 200 OK\r\n"))

    def test_the_last_event_counts_the_tokens(self):
        last = b'data: {"index":0,"content":"","stop":true,"tokens_predicted":64,"tokens_evaluated":128}\n'
        self.assertEqual(outputs.tokens_of_last_event(last), 64)
        self.assertIsNone(outputs.tokens_of_last_event(b'data: {"content":" a","stop":false}\n'))

    def test_burst_summary(self):
        s = outputs.burst_summary(10.0, [([10.5, 10.6], 3), ([11.0, 11.3], 2)], 2.0, 0.25)
        self.assertEqual((s["tokens"], s["tokens_per_second"]), (5, 2.5))
        self.assertAlmostEqual(s["ttft_ms"]["p50"], 500)
        self.assertAlmostEqual(s["ttft_ms"]["p99"], 1000)
        self.assertAlmostEqual(s["itl_ms"]["p99"], 300)


class EnginesTest(unittest.TestCase):
    def test_flags_of_the_other_programs(self):
        peer = engines.Llama.__new__(engines.Llama)
        peer.flags = ["-rtr", "1", "-thp", "1", "-mqkv", "0", "-ctk", "q8_0", "-fa", "1"]
        self.assertEqual(peer.bare_flags(), ["-rtr", "-thp", "-ctk", "q8_0", "-fa", "on"])

    def test_a_plan_names_its_cases(self):
        plan = compare.make_plan(["decode", "batch", "prefill"], quick=False)
        self.assertEqual(plan.cases(), ["decode b1", "decode b1 @1024", "decode b2", "decode b4", "decode b8", "decode b16",
                                        "decode b32", "decode b64", "prefill 512"])
        self.assertEqual(compare.make_plan(["prefill"], quick=True).cases(), ["prefill 512"])


class TableTest(unittest.TestCase):
    RATES = {"dunlin": {"a": [10, 30, 20]}, "base": {"a": [4, 5, 6], "b": [1]}, "other": {"a": [8]}}

    def test_ratios_are_of_medians(self):
        a, b = table.compare(["a", "b"], ["dunlin", "base", "other"], self.RATES, {"a": (0.5, 0.25)}, "base")
        self.assertEqual(a["engines"]["dunlin"], {"median": 20, "min": 10, "max": 30, "samples": 3})
        self.assertEqual((a["ratio_to_base"], a["best_peer"], a["ratio_to_best"]), (4, "other", 2.5))
        self.assertEqual((a["read_fraction"], a["int8_fraction"]), (0.5, 0.25))
        self.assertNotIn("ratio_to_base", b)

    def test_the_printed_table_has_every_cell(self):
        rows = table.compare(["a", "b"], ["dunlin", "base", "other"], self.RATES, {"a": (0.5, 0.25)}, "base")
        text = table.engine_table(rows, ["dunlin", "base", "other"], "base").splitlines()
        self.assertEqual(len(text), 4)
        for part in ("20.0 (10.0-30.0)", "4.00x", "2.50x other", "50 %", "25 %"):
            self.assertIn(part, text[2])
        self.assertIn("1.0 (1.0-1.0)", text[3])


class ServersTest(unittest.TestCase):
    def test_this_process_has_a_peak(self):
        self.assertGreater(servers.peak_rss_mib(os.getpid()), 1)


if __name__ == "__main__":
    unittest.main()
