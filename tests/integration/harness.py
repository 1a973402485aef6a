"""A running `dunlin serve` with its endpoints, and small clients of it. Every port is chosen by the system."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

import grpc
from dunlin.v1 import control_pb2_grpc, inference_pb2, inference_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

BIN = None
CACHE = None
MODEL = None
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
START_LIMIT_S = 120


def need_model(test):
    if not MODEL.exists():
        raise unittest.SkipTest(f"the default model is not in the cache ({MODEL.name})")


def go_tool(name, package):
    """Path of a tool built once with Go; skips the test when it cannot be had."""
    path = CACHE / "tools" / name
    if not path.exists():
        go = shutil.which("go")
        if go is None:
            raise unittest.SkipTest(f"{name} is not in the cache and Go, which builds it, is not installed")
        path.parent.mkdir(parents=True, exist_ok=True)
        env = dict(os.environ, GOBIN=str(path.parent), CGO_ENABLED="0", GOTOOLCHAIN="local")
        done = subprocess.run([go, "install", "-trimpath", "-ldflags", "-s -w", package], env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise unittest.SkipTest(f"{name} could not be built: {done.stderr.strip().splitlines()[-1]}")
    return str(path)


def ghz():
    return go_tool("ghz", "github.com/bojand/ghz/cmd/ghz@v0.93.0")


def grpcurl():
    return go_tool("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4")


def wait_until(what, condition, limit_s=30.0):
    """Polls until `condition()` is true; fails naming `what` after the limit."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s} s: {what}")
        time.sleep(0.02)


class Server:
    """`dunlin serve` on free loopback ports. Use as a context manager."""

    def __init__(self, *flags):
        self.scratch = tempfile.mkdtemp(prefix="dunlin-test-")
        self.addresses_file = os.path.join(self.scratch, "addresses.json")
        self.log_path = os.path.join(self.scratch, "log")
        self.log = open(self.log_path, "wb")
        ports = ["--grpc-port=0", "--admin-port=0", "--metrics-port=0", "--worker-metrics-port=0"]
        self.process = subprocess.Popen(
            [str(BIN / "dunlin"), "serve", f"--model={MODEL}", f"--addresses-file={self.addresses_file}", *ports, *flags],
            stdout=self.log, stderr=subprocess.STDOUT)
        try:
            wait_until("the server announces its addresses", self._announced, START_LIMIT_S)
        except AssertionError:
            self.stop()
            raise
        self.channel = self.connect()
        self.stub = inference_pb2_grpc.InferenceServiceStub(self.channel)
        self.admin_channel = grpc.insecure_channel(self.addresses()["admin"], options=[("grpc.enable_http_proxy", 0)])
        self.control = control_pb2_grpc.ControlServiceStub(self.admin_channel)

    def _announced(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with status {self.process.returncode}:\n{self.log_text()}")
        return os.path.exists(self.addresses_file) and os.path.getsize(self.addresses_file) > 0

    def log_text(self):
        with open(self.log_path, "rb") as f:
            return f.read().decode("utf-8", "replace")

    def addresses(self):
        with open(self.addresses_file, encoding="utf-8") as f:
            return json.load(f)

    def connect(self):
        return grpc.insecure_channel(self.addresses()["grpc"], options=[("grpc.use_local_subchannel_pool", 1),
                                                                        ("grpc.enable_http_proxy", 0)])

    def health(self, service=""):
        try:
            reply = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        except grpc.RpcError as error:
            return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def metrics(self, which):
        """name{labels} -> value of one process's exposition."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        text = opener.open(f"http://{self.addresses()[which]}/metrics", timeout=10).read().decode()
        values = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                values[name] = float(value)
        return values, text

    def held_pages(self):
        values, _ = self.metrics("worker0_metrics")
        return values['dunlin_kv_pages{state="held"}']

    def children(self, name):
        """Process ids of the server's own children running the executable `name`."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text()
                exe = os.path.basename(os.readlink(entry / "exe"))
            except OSError:
                continue
            parent = int(stat.rsplit(")", 1)[1].split()[1])
            if parent == self.process.pid and exe == name:
                found.append(int(entry.name))
        return found

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.channel.close()
        self.admin_channel.close()
        self.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)


def rss_kb(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def chat(question, **fields):
    """A greedy chat request with one user message."""
    request = inference_pb2.GenerateRequest(**fields)
    request.chat.messages.add(role="user", content=question)
    request.sampling.temperature = 0
    return request


def text_of(responses):
    return "".join(r.delta.text for r in responses if r.HasField("delta"))
