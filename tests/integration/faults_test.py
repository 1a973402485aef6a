"""What happens when processes die, and when the server is told to stop."""
import os
import signal
import time
import unittest

import grpc
from dunlin.v1 import inference_pb2 as pb

import harness
from answers_test import details
from harness import chat, text_of, wait_until


class FaultsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.need_model(cls)

    def test_a_killed_worker_ends_its_stream_and_comes_back(self):
        with harness.Server() as server:
            [worker] = server.children("dunlin-worker")
            [gateway] = server.children("dunlin-gateway")
            name = server.stub.ListModels(pb.ListModelsRequest(), timeout=10).models[0].name
            self.assertEqual([server.health(s) for s in ("", "dunlin.v1.InferenceService", name)], ["SERVING"] * 3)
            request = chat("Tell me a long story.")
            request.stopping.ignore_eos = True
            stream = server.stub.Generate(request, timeout=60)
            tokens = 0
            while tokens < 5:
                tokens += next(stream).HasField("delta")
            os.kill(worker, signal.SIGKILL)
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in stream:
                    tokens += 1
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            info = details(caught.exception)["ErrorInfo"]
            self.assertEqual((info.reason, info.domain), ("WORKER_LOST", "dunlin"))
            self.assertEqual(server.children("dunlin-gateway"), [gateway], "the gateway survives")
            wait_until("another worker process runs", lambda: server.children("dunlin-worker") not in ([], [worker]), 60)
            wait_until("health is SERVING again", lambda: server.health(name) == "SERVING", 60)
            self.assertEqual(text_of(server.stub.Generate(chat("Name the capital of France."), timeout=60)),
                             "The capital of France is Paris.")
            values, _ = server.metrics("metrics")
            self.assertEqual(values['dunlin_worker_up{worker="worker0"}'], 1.0)

    def test_health_says_so_while_no_worker_is_there(self):
        with harness.Server() as server:
            # Stopped, not killed: the supervisor must not replace it while we look.
            [worker] = server.children("dunlin-worker")
            os.kill(worker, signal.SIGSTOP)
            try:
                wait_until("health is NOT_SERVING", lambda: server.health() == "NOT_SERVING", 30)
                with self.assertRaises(grpc.RpcError) as caught:
                    list(server.stub.Generate(chat("hi"), timeout=20))
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
            finally:
                os.kill(worker, signal.SIGCONT)
            wait_until("health is SERVING again", lambda: server.health() == "SERVING", 60)

    def test_sigterm_lets_open_streams_finish(self):
        with harness.Server() as server:
            request = chat("What is gravity?")
            request.stopping.max_tokens = 60
            request.stopping.ignore_eos = True
            stream = server.stub.Generate(request, timeout=60)
            next(stream)
            server.process.send_signal(signal.SIGTERM)
            events = list(stream)
            self.assertEqual(events[-1].WhichOneof("event"), "summary")
            self.assertEqual(server.process.wait(60), 0)

    def test_an_idle_server_uses_no_processor_time(self):
        with harness.Server() as server:
            list(server.stub.Generate(chat("Name the capital of France."), timeout=60))
            pids = server.children("dunlin-worker") + server.children("dunlin-gateway")
            ticks = os.sysconf("SC_CLK_TCK")

            def used():
                total = 0
                for pid in pids:
                    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                        fields = f.read().rsplit(")", 1)[1].split()
                    total += int(fields[11]) + int(fields[12])
                return total / ticks

            begin = used()
            time.sleep(3)
            self.assertLess(used() - begin, 0.15, "seconds of processor time in 3 s of idling")


if __name__ == "__main__":
    unittest.main()
