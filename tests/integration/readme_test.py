"""Runs the README's examples: every fenced block after `<!-- example: name -->`, against a server on free ports."""
import os
import re
import subprocess
import sys
import tempfile
import unittest

import harness

BLOCK = re.compile(r"<!-- example: (?P<name>[\w-]+)(?: expect: (?P<expect>.+?))? -->\n```(?P<language>\w+)\n(?P<body>.*?)```", re.DOTALL)


class ReadmeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.need_model(cls)
        cls.server = harness.Server()
        text = (harness.ROOT / "README.md").read_text(encoding="utf-8")
        cls.blocks = {m["name"]: m for m in BLOCK.finditer(text)}

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def run_block(self, name, **environment):
        block = self.blocks[name]
        addresses = self.server.addresses()
        body = block["body"].replace("localhost:50051", addresses["grpc"]).replace("localhost:50052", addresses["admin"])
        body = body.replace("localhost:9400", addresses["metrics"]).replace("localhost:9401", addresses["worker0_metrics"])
        with tempfile.TemporaryDirectory() as scratch:
            if block["language"] == "python":
                command = [sys.executable, "-c", body]
            else:
                command = ["bash", "-euo", "pipefail", "-c", body]
            env = dict(os.environ, SCRATCH=scratch, NO_PROXY="127.0.0.1,localhost", **environment)
            env["PATH"] = os.pathsep.join([str(harness.BIN), str(harness.CACHE / "tools"), os.path.dirname(sys.executable), env["PATH"]])
            done = subprocess.run(command, cwd=harness.ROOT, env=env, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        if block["expect"]:
            self.assertIn(block["expect"], done.stdout)

    def test_grpcurl(self):
        harness.grpcurl()
        self.run_block("grpcurl")

    def test_python(self):
        self.run_block("python")

    def test_ghz(self):
        harness.ghz()
        self.run_block("ghz")

    def test_command_line(self):
        self.run_block("cli", MODEL=str(harness.MODEL))

    def test_dry_run(self):
        self.run_block("dry-run", MODEL=str(harness.MODEL))

    def test_metrics(self):
        self.run_block("metrics")

    def test_every_marked_example_has_a_test(self):
        tested = {name[5:].replace("_", "-") for name in dir(self) if name.startswith("test_")}
        aliases = {"command-line": "cli"}
        tested = {aliases.get(t, t) for t in tested}
        self.assertEqual(set(self.blocks) - tested, set())


if __name__ == "__main__":
    unittest.main()
