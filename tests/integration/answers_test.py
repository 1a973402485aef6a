"""What clients see of the default model: answers, batching, errors, cancellation, slow readers."""
import concurrent.futures
import random
import threading
import unittest

import grpc
from dunlin.v1 import control_pb2, inference_pb2 as pb
from google.rpc import error_details_pb2, status_pb2

import harness
from harness import chat, text_of, wait_until

QUESTIONS = ["What is gravity?", "Name the capital of France.", "Write a haiku about the sea.", "Count from one to ten.",
             "Explain photosynthesis to a child.", "What is 2 + 2?", "List three fruits.", "Tell me a story about a fox. " * 12]


def details(error):
    """The google.rpc details of a failed call, by message name."""
    found = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for any_message in status_pb2.Status.FromString(value).details:
                name = any_message.type_url.rsplit(".", 1)[1]
                message = getattr(error_details_pb2, name)()
                any_message.Unpack(message)
                found[name] = message
    return found


class AnswersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.need_model(cls)
        cls.server = harness.Server("--max-num-seqs=64", "--max-active-streams=128")

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def generate(self, request, **kwargs):
        return list(self.server.stub.Generate(request, timeout=120, **kwargs))

    def failure(self, request):
        with self.assertRaises(grpc.RpcError) as caught:
            self.generate(request)
        return caught.exception

    def test_greedy_answers_with_wide_margins_are_right(self):
        gravity = chat("What is gravity?")
        gravity.stopping.max_tokens = 40
        self.assertTrue(text_of(self.generate(gravity)).startswith(
            "Gravity is a fundamental concept in physics that describes the curvature of spacetime"))
        self.assertEqual(text_of(self.generate(chat("Name the capital of France."))), "The capital of France is Paris.")

    def test_events_come_in_order_and_are_numbered(self):
        request = chat("What is gravity?")
        request.stopping.max_tokens = 12
        events = self.generate(request)
        self.assertEqual([e.sequence for e in events], list(range(len(events))))
        kinds = [e.WhichOneof("event") for e in events]
        self.assertEqual(kinds[0], "accepted")
        self.assertEqual(kinds[-2:], ["finished", "summary"])
        self.assertEqual(events[-2].finished.reason, pb.FINISH_REASON_LENGTH)
        usage = events[-1].summary.usage
        self.assertEqual(usage.completion_tokens, 12)
        self.assertEqual(usage.prompt_tokens, events[0].accepted.prompt_tokens)

    def test_unary_gives_what_streaming_gives(self):
        request = chat("Name the capital of France.")
        reply = self.server.stub.GenerateUnary(pb.GenerateUnaryRequest(request=request), timeout=60)
        self.assertEqual(reply.choices[0].text, "The capital of France is Paris.")
        self.assertEqual(reply.choices[0].reason, pb.FINISH_REASON_EOS)

    def test_32_concurrent_greedy_streams_give_what_each_gives_alone(self):
        def request(i):
            r = chat(QUESTIONS[i % len(QUESTIONS)] + f" ({i})")
            r.stopping.max_tokens = 8 + 5 * (i % 9)
            r.output.token_ids = True
            return r

        def ids(i):
            return [t for e in self.generate(request(i)) if e.HasField("delta") for t in e.delta.token_ids]

        alone = [ids(i) for i in range(32)]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            together = list(pool.map(ids, range(32)))
        self.assertEqual(alone, together)
        self.assertGreater(len({tuple(a) for a in alone}), 16, "the streams should differ from each other")

    def test_a_seed_draws_the_same_tokens_alone_and_in_a_crowd(self):
        def draw(seed):
            r = chat("Tell me something surprising.")
            r.sampling.temperature, r.sampling.seed = 1.0, seed
            r.stopping.max_tokens = 24
            return text_of(self.generate(r))

        alone = [draw(s) for s in range(6)]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            self.assertEqual(list(pool.map(draw, range(6))), alone)
        self.assertGreater(len(set(alone)), 1)

    def test_a_stop_string_cuts_across_chunk_borders(self):
        plain = chat("What is gravity?")
        plain.stopping.max_tokens = 24
        whole = text_of(self.generate(plain))
        stop = whole[20:29]  # spans several tokens
        for include in (False, True):
            request = chat("What is gravity?")
            request.stopping.stop.append(stop)
            request.stopping.include_stop = include
            events = self.generate(request)
            cut = whole.index(stop) + (len(stop) if include else 0)
            self.assertEqual(text_of(events), whole[:cut])
            finished = [e.finished for e in events if e.HasField("finished")][0]
            self.assertEqual((finished.reason, finished.stop), (pb.FINISH_REASON_STOP, stop))

    def test_logprobs_describe_the_distribution(self):
        request = chat("Name the capital of France.")
        request.output.logprobs = 5
        records = [t for e in self.generate(request) if e.HasField("delta") for t in e.delta.tokens]
        self.assertGreater(len(records), 4)
        for record in records:
            self.assertLessEqual(record.logprob, 1e-6)
            self.assertEqual(record.rank, 1)  # greedy draws the most likely token
            self.assertEqual(record.top[0].id, record.id)
            values = [t.logprob for t in record.top]
            self.assertEqual(values, sorted(values, reverse=True))

    def test_bad_requests_get_their_documented_status(self):
        context = self.server.stub.ListModels(pb.ListModelsRequest(), timeout=10).models[0].context_tokens
        nan = chat("hi")
        nan.sampling.temperature = float("nan")
        error = self.failure(nan)
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details(error)["BadRequest"].field_violations[0].field, "sampling.temperature")

        many = chat("hi")
        many.stopping.stop.extend(f"s{i}" for i in range(10_000))
        error = self.failure(many)
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(details(error)["BadRequest"].field_violations[0].field, "stopping.stop")

        self.assertEqual(self.failure(pb.GenerateRequest(prompt="")).code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(self.failure(pb.GenerateRequest()).code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(self.failure(pb.GenerateRequest(model="no-such", prompt="hi")).code(), grpc.StatusCode.NOT_FOUND)
        error = self.failure(pb.GenerateRequest(prompt="one " * (context + 10)))
        self.assertEqual(error.code(), grpc.StatusCode.OUT_OF_RANGE)
        self.assertIn(str(context), error.details())
        constrained = chat("hi")
        constrained.constraint.regex = "a*"
        error = self.failure(constrained)
        self.assertEqual(error.code(), grpc.StatusCode.UNIMPLEMENTED)
        self.assertIn("constraint.regex", error.details())
        embed = self.server.stub.Embed
        with self.assertRaises(grpc.RpcError) as caught:
            embed(pb.EmbedRequest(texts=["x"]), timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_invalid_utf8_is_refused_by_the_parser(self):
        raw = self.server.channel.unary_stream("/dunlin.v1.InferenceService/Generate", request_serializer=lambda b: b,
                                               response_deserializer=pb.GenerateResponse.FromString)
        with self.assertRaises(grpc.RpcError) as caught:
            list(raw(b"\x22\x02\xc3\x28", timeout=10))  # field 4 (prompt) with a broken sequence
        self.assertIn(caught.exception.code(), (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT))

    def test_cancelling_at_every_step_frees_every_page(self):
        for read in range(0, 24):
            call = self.server.stub.Generate(chat("Tell me a long story."), timeout=60)
            for _ in range(read):
                next(call)
            call.cancel()
        wait_until("every page is free again", lambda: self.server.held_pages() == 0)
        load = self.server.control.GetLoad(control_pb2.GetLoadRequest(), timeout=10)
        self.assertEqual(load.active_streams, 0)

    def test_a_deadline_ends_the_stream_and_frees_its_pages(self):
        with self.assertRaises(grpc.RpcError) as caught:
            request = chat("Tell me a long story.")
            request.stopping.ignore_eos = True
            list(self.server.stub.Generate(request, timeout=0.4))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        wait_until("every page is free again", lambda: self.server.held_pages() == 0)

    def test_max_time_ends_the_stream_with_status_ok(self):
        request = chat("Tell me a long story.")
        request.stopping.ignore_eos = True
        request.stopping.max_time_ms = 300
        finished = [e.finished for e in self.generate(request) if e.HasField("finished")]
        self.assertEqual(finished[0].reason, pb.FINISH_REASON_DEADLINE)

    def test_a_client_that_never_reads_does_not_slow_others(self):
        stuck_channel = self.server.connect()
        stuck = [pb_stub(stuck_channel).Generate(slow_reader_request()) for _ in range(4)]
        try:
            for _ in range(3):
                self.assertEqual(text_of(self.generate(chat("Name the capital of France."))), "The capital of France is Paris.")
        finally:
            for call in stuck:
                call.cancel()
            stuck_channel.close()
        wait_until("every page is free again", lambda: self.server.held_pages() == 0)

    def test_a_request_id_in_use_is_refused(self):
        request = chat("Tell me a long story.", request_id="the-only-one")
        request.stopping.ignore_eos = True
        first = self.server.stub.Generate(request, timeout=60)
        next(first)
        error = self.failure(request)
        first.cancel()
        self.assertEqual(error.code(), grpc.StatusCode.ALREADY_EXISTS)

    def test_tokenize_and_detokenize_are_inverse(self):
        text = "Gravity, naïve café 👩‍👩‍👧‍👦 \n\t 12345"
        reply = self.server.stub.Tokenize(pb.TokenizeRequest(text=text), timeout=10)
        self.assertEqual(reply.count, len(reply.token_ids))
        self.assertEqual(b"".join(reply.pieces).decode(), text)
        back = self.server.stub.Detokenize(pb.DetokenizeRequest(token_ids=reply.token_ids), timeout=10)
        self.assertEqual((back.text, back.lossy), (text, False))

    def test_special_token_text_in_a_message_stays_text(self):
        plain = self.server.stub.Tokenize(pb.TokenizeRequest(text="<|im_end|>", parse_special=False), timeout=10).count
        self.assertGreater(plain, 1)
        base = self.generate(tiny(chat("x")))[0].accepted.prompt_tokens
        injected = self.generate(tiny(chat("x<|im_end|>")))[0].accepted.prompt_tokens
        self.assertGreaterEqual(injected - base, plain - 1)

    def test_random_requests_leave_nothing_behind(self):
        rng = random.Random(7)
        lock = threading.Lock()

        def one(_):
            with lock:
                request = chat(rng.choice(QUESTIONS))
                request.stopping.max_tokens = rng.randint(1, 30)
                request.sampling.temperature = rng.choice([0, 0.7, 1.5])
                request.sampling.n = rng.randint(1, 3)
                cancel_after = rng.choice([None, 0, 1, 5])
            call = self.server.stub.Generate(request, timeout=120)
            for i, _event in enumerate(call):
                if cancel_after is not None and i >= cancel_after:
                    call.cancel()
                    break

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(one, range(64)))
        wait_until("every page is free again", lambda: self.server.held_pages() == 0)


def tiny(request):
    request.stopping.max_tokens = 1
    return request


def pb_stub(channel):
    from dunlin.v1 import inference_pb2_grpc
    return inference_pb2_grpc.InferenceServiceStub(channel)


def slow_reader_request():
    request = chat("Tell me a long story.")
    request.stopping.ignore_eos = True
    request.stopping.max_tokens = 400
    return request


if __name__ == "__main__":
    unittest.main()
