"""Servers under load: started on a free port, and what their processes took."""
import asyncio
import json
import pathlib
import resource
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import engines
import outputs

START_LIMIT_S = 120
CALL_LIMIT_S = 60  # between two lines of an answer; the slowest first token of a burst seen is a third of it


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, process, condition):
    end = time.monotonic() + START_LIMIT_S
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError(f"{what} is not ready after {START_LIMIT_S} s")
        time.sleep(0.05)


def process_tree(pid):
    """The process and its descendants."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = [pid]
    for p in found:
        found += [child for child, parent in parents.items() if parent == p]
    return found


def peak_rss_mib(pid):
    total = 0
    for p in process_tree(pid):
        try:
            for line in pathlib.Path(f"/proc/{p}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total / 1024


class Server:
    """A server process; a context manager."""

    def __init__(self, command, limits):
        self.limits = limits  # clients, tokens a slot
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([str(c) for c in command], stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        try:
            wait_until("the server", self.process, self.ready)
        except RuntimeError:
            self.stop()
            self.log.seek(0)
            tail = self.log.read().decode("utf-8", "replace").splitlines()[-5:]
            raise RuntimeError("the server did not start:\n" + "\n".join(tail)) from None
        return self

    def __exit__(self, *unused):
        self.stop()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def peak_rss_mib(self):
        return peak_rss_mib(self.process.pid)


class OurServer(Server):
    def __init__(self, ours, ids_file, clients, slot_tokens):
        self.ours, self.ids_file = ours, ids_file
        self.folder = tempfile.TemporaryDirectory(prefix="dunlin-peers-")
        self.addresses = pathlib.Path(self.folder.name) / "addresses.json"
        # Memory for as many tokens as the peers' slots hold, and half as many again for what the cache keeps.
        pool = clients * slot_tokens * 3 // 2 * 12_500
        super().__init__([ours.binary, "serve", f"--model={ours.model}", f"--addresses-file={self.addresses}", "--grpc-port=0",
                          "--admin-port=0", "--metrics-port=0", "--worker-metrics-port=0", f"--threads={ours.threads}",
                          f"--max-num-seqs={max(clients, 2)}", f"--max-model-len={slot_tokens}",
                          f"--kv-cache-memory-bytes={pool}"], (clients, slot_tokens))

    def ready(self):
        return self.addresses.exists() and self.addresses.stat().st_size > 0

    def burst(self, clients, prompt, tokens, shared, first):
        address = json.loads(self.addresses.read_text())["grpc"]
        text = engines.run([self.ours.binary, "bench", "load", "--address", address, "--burst", clients, "--prompt-tokens",
                            prompt, "--max-tokens", tokens, "--shared-tokens", shared, "--ids", self.ids_file, "--first", first,
                            "--json"])[0]
        return json.loads(text)

    def stop(self):
        super().stop()
        self.folder.cleanup()


class LlamaServer(Server):
    def __init__(self, peer, ids, clients, slot_tokens):
        self.ids, self.port = ids, free_port()
        program = peer.bin / "llama-server"
        described = subprocess.run([str(program), "--help"], capture_output=True, text=True, errors="replace", check=False)
        split = ["-no-kvu"] if "-no-kvu" in described.stdout + described.stderr else []
        super().__init__([program, "-m", peer.model, "-t", peer.threads, "-tb", peer.threads, "-np", clients, "-c",
                          clients * slot_tokens, "--host", "127.0.0.1", "--port", self.port, *split, *peer.bare_flags()],
                         (clients, slot_tokens))

    def ready(self):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(f"http://127.0.0.1:{self.port}/health", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    def burst(self, clients, prompt, tokens, shared, first):
        return asyncio.run(self._burst(clients, prompt, tokens, shared, first))

    async def _burst(self, clients, prompt, tokens, shared, first):
        bodies = [json.dumps({"prompt": outputs.prompt_ids(self.ids, prompt, shared, first + i), "n_predict": tokens,
                              "temperature": 0, "ignore_eos": True, "stream": True, "cache_prompt": shared > 0})
                  for i in range(clients)]
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        begin = time.monotonic()
        records = await asyncio.gather(*[self._call(b) for b in bodies])
        seconds = time.monotonic() - begin
        after = resource.getrusage(resource.RUSAGE_SELF)
        for _, count in records:
            if count != tokens:
                raise RuntimeError(f"a stream brought {count} tokens instead of {tokens}")
        used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
        return outputs.burst_summary(begin, records, seconds, used)

    async def _call(self, body):
        """The times at which text came (not every token: half a character waits for the rest), and the tokens in all."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        data = body.encode()
        writer.write(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()
        times, count = [], 0
        while True:
            line = await asyncio.wait_for(reader.readline(), CALL_LIMIT_S)
            if not line:
                break
            if outputs.is_token_event(line):
                times.append(time.monotonic())
            count = outputs.tokens_of_last_event(line) or count
        writer.close()
        return times, count


def server_of(engine, ids_file, ids, clients, slot_tokens):
    if isinstance(engine, engines.Ours):
        return OurServer(engine, ids_file, clients, slot_tokens)
    return LlamaServer(engine, ids, clients, slot_tokens)
