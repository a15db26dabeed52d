"""An app that knows nothing of any mesh: answers on port 8080, after asking the next one where there is one."""
import json
import re
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

name, *following = sys.argv[1:]


def ask(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:
        return {"error": str(error)}


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        caller = re.search(r"URI=([^;,]+)", self.headers.get("x-forwarded-client-cert", ""))
        told = {"app": name, "caller": caller and caller[1]}
        if following:
            told["next"] = ask(following[0])
        body = (json.dumps(told) + "\n").encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), App).serve_forever()
