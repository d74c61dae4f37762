#!/usr/bin/env python3
"""scripts/download_fineweb against a web server on this machine that misbehaves on request."""
import fcntl
import http.server
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "download_fineweb")
VALIDATION, TRAIN1, TRAIN2 = "fineweb_val_000000.bin", "fineweb_train_000001.bin", "fineweb_train_000002.bin"


def token_file(tokens, magic=20240520, version=1, promised=None):
    header = struct.pack("<3i", magic, version, tokens if promised is None else promised)
    return header.ljust(1024, b"\0") + struct.pack(f"<{tokens}H", *(i * 7919 % 50257 for i in range(tokens)))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server.site
        name, asked = self.path.rsplit("/", 1)[-1], self.headers.get("Range")
        site.requests.append((name, asked))
        body = site.files.get(name)
        if body is None:
            return self.answer(404, b"no such file")
        if site.busy.get(name, 0) > 0:
            site.busy[name] -= 1
            return self.answer(503, b"busy")
        begin = 0
        if asked and site.ranges:
            begin = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1))
            if begin >= len(body):
                return self.answer(416, b"")
        self.send_response(206 if asked and site.ranges else 200)
        if asked and site.ranges:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        end = len(body)
        if site.cuts.get(name):
            end = min(end, begin + site.cuts[name].pop(0))
        self.wfile.write(body[begin:end])
        self.close_connection = self.close_connection or end < len(body)

    def answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Site:
    """What the server holds, and how it misbehaves."""

    def __init__(self):
        self.files = {VALIDATION: token_file(3000), TRAIN1: token_file(200_000), TRAIN2: token_file(5)}
        self.ranges = True  # it understands Range
        self.cuts = {}      # name: bytes after which each of the next answers ends early
        self.busy = {}      # name: answers 503 so many times
        self.requests = []  # (name, Range header)


class DownloadFineweb(unittest.TestCase):
    def setUp(self):
        self.site = Site()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.site = self.site
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.url = f"http://127.0.0.1:{server.server_address[1]}/data"
        self.out = os.path.join(directory.name, "shards")

    def run_script(self, *arguments, shards=2, base_url=None):
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        done = subprocess.run([sys.executable, SCRIPT, "--base-url", base_url or self.url, "--out", self.out, "--shards",
                               str(shards), "--wait", "0", *arguments], capture_output=True, text=True, timeout=60,
                              env=environment)
        return done.returncode, done.stdout, done.stderr

    def path(self, name):
        return os.path.join(self.out, name)

    def place(self, name, contents):
        os.makedirs(self.out, exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(contents)

    def assert_has(self, *names):
        """Exactly these files, each as the server has it."""
        self.assertEqual(sorted(os.listdir(self.out)), sorted(names))
        for name in names:
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), self.site.files[name], name)

    def assert_fails(self, outcome, *parts):
        code, _, errors = outcome
        self.assertEqual(code, 1, errors)
        self.assertTrue(errors.startswith("download_fineweb: "), errors)
        self.assertEqual(errors.count("\n"), 1, errors)
        for part in parts:
            self.assertIn(part, errors)

    def test_downloads_what_is_asked_for(self):
        self.assertEqual(self.run_script()[0], 0)
        self.assert_has(VALIDATION, TRAIN1, TRAIN2)

    def test_fewer_shards(self):
        self.assertEqual(self.run_script(shards=0)[0], 0)
        self.assert_has(VALIDATION)

    def test_complete_files_are_not_asked_for_again(self):
        self.run_script()
        self.site.requests.clear()
        code, text, _ = self.run_script()
        self.assertEqual((code, self.site.requests), (0, []))
        self.assertIn("3 of 3 shards are complete already", text)

    def test_goes_on_with_a_partial_file(self):
        self.place(TRAIN1 + ".part", self.site.files[TRAIN1][:150_001])
        self.assertEqual(self.run_script(shards=1)[0], 0)
        self.assertIn((TRAIN1, "bytes=150001-"), self.site.requests)
        self.assert_has(VALIDATION, TRAIN1)

    def test_a_partial_file_that_is_whole_needs_only_its_name(self):
        self.place(TRAIN1 + ".part", self.site.files[TRAIN1])
        self.assertEqual(self.run_script(shards=1)[0], 0)
        self.assert_has(VALIDATION, TRAIN1)

    def test_a_server_without_ranges_is_asked_for_the_whole_file(self):
        self.site.ranges = False
        self.place(TRAIN1 + ".part", b"x" * 5000)
        self.assertEqual(self.run_script(shards=1)[0], 0)
        self.assert_has(VALIDATION, TRAIN1)

    def test_cut_connections_go_on_where_they_ended(self):
        self.site.cuts = {TRAIN1: [100, 3000, 100_000]}
        code, text, _ = self.run_script()
        self.assertEqual(code, 0)
        self.assert_has(VALIDATION, TRAIN1, TRAIN2)
        self.assertIn("ended at byte 100 of 401024; trying again", text)
        ranges = [asked for name, asked in self.site.requests if name == TRAIN1]
        self.assertEqual(ranges, [None, "bytes=100-", "bytes=3100-", "bytes=103100-"])

    def test_a_busy_server_is_asked_again(self):
        self.site.busy = {VALIDATION: 2}
        self.assertEqual(self.run_script(shards=0)[0], 0)
        self.assert_has(VALIDATION)

    def test_gives_up_when_no_byte_comes_and_keeps_what_it_has(self):
        self.site.cuts = {TRAIN1: [4000] + [0] * 9}
        self.assert_fails(self.run_script("--retries", "2", shards=1), TRAIN1, "ended at byte 4000 of 401024",
                          "run this again")
        self.assertEqual(os.path.getsize(self.path(TRAIN1 + ".part")), 4000)
        self.assertEqual(len([1 for name, _ in self.site.requests if name == TRAIN1]), 3)  # one that helped, two that did not

    def test_no_server(self):
        self.assert_fails(self.run_script("--retries", "1", base_url="http://127.0.0.1:9/none"), "connection failed")

    def test_missing_file(self):
        del self.site.files[TRAIN1]
        self.assert_fails(self.run_script(shards=1), TRAIN1, "answered 404")
        self.assertFalse(os.path.exists(self.path(TRAIN1)))

    def test_wrong_contents_never_get_the_name(self):
        for contents, part in [(token_file(1000, magic=20240801), "begins with 20240801"),
                               (token_file(1000, version=7), "version 7"),
                               (b"<html>sign in first</html>" * 100, "is no token file"),
                               (b"short", "is no token file"),
                               (token_file(1000, promised=1001), "has 3024 bytes where its header promises 3026"),
                               (token_file(1000, promised=999), "has 3024 bytes where its header promises 3022"),
                               (token_file(10, promised=0), "with 0 tokens")]:
            with self.subTest(part):
                self.site.files[VALIDATION] = contents
                self.assert_fails(self.run_script(shards=0), VALIDATION, part)
                self.assertEqual(os.listdir(self.out), [])

    def test_a_wrong_file_of_that_name_is_the_users_to_remove(self):
        self.place(VALIDATION, token_file(3000)[:-2])
        self.assert_fails(self.run_script(shards=0), "has 7022 bytes where its header promises 7024", "remove it")
        self.assertEqual(os.path.getsize(self.path(VALIDATION)), 7022)

    def test_two_processes_do_not_write_the_same_file(self):
        self.place(VALIDATION + ".part", b"")
        with open(self.path(VALIDATION + ".part"), "ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            self.assert_fails(self.run_script(shards=0), "another process")

    def test_wrong_requests(self):
        for arguments, part in [(["--shards", "104"], "103 training shards"), (["--shards", "-1"], "103 training"),
                                (["--dataset", "fineweb"], "invalid choice"), (["--jobs", "0"], "--jobs"),
                                (["--base-url", "ftp://x"], "http")]:
            code, _, errors = self.run_script(*arguments)
            self.assertEqual(code, 2)
            self.assertIn(part, errors)

    def test_other_data_sets_have_their_own_names(self):
        self.site.files = {"finewebedu_val_000000.bin": token_file(9), "finewebedu_train_000001.bin": token_file(8)}
        self.assertEqual(self.run_script("--dataset", "finewebedu10B", shards=1)[0], 0)
        self.assert_has("finewebedu_val_000000.bin", "finewebedu_train_000001.bin")


if __name__ == "__main__":
    unittest.main()
