"""The metrics of the contract are on both processes, well-formed, and move as they should."""
import re
import shutil
import subprocess
import unittest

import harness
from harness import chat

GATEWAY = """dunlin_requests_total dunlin_active_streams dunlin_queued_requests dunlin_rejected_total dunlin_time_to_first_token_seconds
dunlin_inter_token_latency_seconds dunlin_e2e_request_latency_seconds dunlin_prompt_tokens_total dunlin_generation_tokens_total
dunlin_migrations_total dunlin_worker_up dunlin_routing_decisions_total dunlin_client_stall_seconds_total dunlin_build_info""".split()
WORKER = """dunlin_num_requests_running dunlin_num_requests_waiting dunlin_preemptions_total dunlin_step_seconds dunlin_step_tokens
dunlin_queue_time_seconds dunlin_cancel_to_free_seconds dunlin_kv_pages dunlin_kv_cache_usage_ratio dunlin_kv_cache_bytes
dunlin_kv_page_size_tokens dunlin_kv_evictions_total dunlin_kv_saturated_values_total dunlin_prefix_cache_queries_total
dunlin_prefix_cache_hits_total dunlin_kv_host_tier_pages dunlin_kv_host_tier_bytes_total dunlin_kv_host_tier_hits_total
dunlin_kv_reserved_pages dunlin_kv_pinned_pages dunlin_kv_dedup_pages_total dunlin_kv_cow_copies_total
dunlin_recompute_tokens_total dunlin_vtc_spread_tokens dunlin_step_time_predicted_seconds dunlin_invariant_failures_total
dunlin_spec_decode_drafts_total dunlin_spec_decode_draft_tokens_total dunlin_spec_decode_accepted_tokens_total
dunlin_kv_cache_info dunlin_memory_bytes_total dunlin_memory_bandwidth_bytes_per_second dunlin_memory_bandwidth_peak_bytes_per_second
dunlin_memory_bandwidth_utilization_ratio dunlin_device_graph_steps_total dunlin_build_info dunlin_model_info vllm:num_requests_running vllm:num_requests_waiting
vllm:kv_cache_usage_perc vllm:prefix_cache_queries_total vllm:prefix_cache_hits_total vllm:generation_tokens_total
vllm:prompt_tokens_total vllm:time_to_first_token_seconds vllm:inter_token_latency_seconds vllm:cache_config_info""".split()


def families(text):
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


class MetricsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.need_model(cls)
        cls.server = harness.Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def test_every_name_of_the_contract_is_exported(self):
        for which, names in (("metrics", GATEWAY), ("worker0_metrics", WORKER)):
            _, text = self.server.metrics(which)
            self.assertEqual([n for n in names if n not in families(text)], [], which)

    def test_counters_follow_a_request(self):
        before, _ = self.server.metrics("worker0_metrics")
        gateway_before, _ = self.server.metrics("metrics")
        request = chat("What is gravity?")
        request.stopping.max_tokens = 20
        request.stopping.ignore_eos = True
        request.speculation.disable = True  # one step for each token
        events = list(self.server.stub.Generate(request, timeout=60))
        prompt_tokens = events[0].accepted.prompt_tokens
        after, _ = self.server.metrics("worker0_metrics")
        gateway_after, _ = self.server.metrics("metrics")
        weights = 'dunlin_memory_bytes_total{kind="weights",phase="decode"}'
        # Each of the 19 or 20 decode steps reads every packed weight once: about 96 MB for the default model.
        self.assertGreater(after[weights] - before[weights], 19 * 60e6)
        written = sum(after[k] - before[k] for k in after if k.startswith('dunlin_memory_bytes_total{kind="kv_write"'))
        # 30 layers x 3 heads x (64 + 64 bytes + 2 scale bytes) per token in FP8.
        self.assertGreaterEqual(written, (prompt_tokens + 19) * 30 * 3 * 130 * 0.99)
        self.assertGreater(after["dunlin_memory_bandwidth_peak_bytes_per_second"], 1e9)
        self.assertGreater(after['dunlin_memory_bandwidth_bytes_per_second{phase="decode"}'], 1e8)
        moved = {k: gateway_after[k] - gateway_before.get(k, 0) for k in gateway_after}
        self.assertEqual(sum(v for k, v in moved.items() if k.startswith("dunlin_generation_tokens_total")), 20)
        ok = [v for k, v in moved.items() if k.startswith("dunlin_requests_total") and 'code="OK"' in k]
        self.assertEqual(sum(ok), 1)

    def test_speculation_changes_no_answer_and_is_counted_apart(self):
        answers, drafted = [], []
        for disable in (False, True):
            before, _ = self.server.metrics("worker0_metrics")
            request = chat("Repeat ten times: the harbour was quiet when the old boat came in.")
            request.sampling.seed = 7
            request.stopping.max_tokens = 80
            request.output.timing = True
            request.speculation.disable = disable
            events = list(self.server.stub.Generate(request, timeout=60))
            answers.append("".join(e.delta.text for e in events if e.HasField("delta")))
            after, _ = self.server.metrics("worker0_metrics")
            name = "dunlin_spec_decode_draft_tokens_total"
            drafted.append(after[name] - before[name])
            timing = events[-1].summary.timing
            self.assertEqual(timing.draft_tokens, drafted[-1])
            self.assertLessEqual(timing.accepted_draft_tokens, timing.draft_tokens)
        self.assertEqual(answers[0], answers[1])
        self.assertEqual(drafted[1], 0)

    def test_promtool_finds_nothing_to_say(self):
        promtool = shutil.which("promtool")
        if promtool is None:
            self.skipTest("promtool (Debian package prometheus) is not installed")
        for which in ("metrics", "worker0_metrics"):
            _, text = self.server.metrics(which)
            ours = "\n".join(block for block in re.split(r"(?=^# HELP )", text, flags=re.MULTILINE)
                             if not re.match(r"# HELP (vllm:|exposer_)", block))
            done = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, text=True)
            self.assertEqual(done.stdout + done.stderr, "")


if __name__ == "__main__":
    unittest.main()
