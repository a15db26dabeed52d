"""The apps of a pod, by Python's own servers: each argument is KIND:PORT, or KIND:PORT@ADDRESS for one address alone.

http tells what it was sent and by whom, smtp speaks first, echo sends back what it gets, dns answers from the names
given as NAME=ADDRESS. Without an address they listen on all, of both families.
"""

import json
import socket
import socketserver
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def peer_of(address):
    host = address[0]
    return host[len("::ffff:"):] if host.startswith("::ffff:") else host


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body of an answer in one segment.
    wbufsize = -1

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        told = {
            "peer": peer_of(self.client_address),
            "at": peer_of(self.connection.getsockname()),
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode(),
        }
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()

    do_POST = do_GET

    def log_message(self, *_):
        pass


class Smtp(socketserver.StreamRequestHandler):
    """As much of RFC 5321 as curl asks of it. VRFY tells who asked, and what."""

    def handle(self):
        self.wfile.write(b"220 mail.shop ESMTP says hello first\r\n")
        for line in self.rfile:
            verb = line.split()[0].upper() if line.split() else b""
            if verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            if verb == b"VRFY":
                said = f"252 {peer_of(self.client_address)} asked: {line.decode().strip()}\r\n"
                self.wfile.write(said.encode())
            else:
                self.wfile.write(b"250 fine\r\n")


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


NAMES = {}


def dns_answer(query):
    """RFC 1035 section 4.1, one question; A and AAAA alone."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1:at + 3])[0]
    known = NAMES.get(".".join(labels).lower())
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    found = [socket.inet_pton(family, ip) for ip in known or [] if (":" in ip) == (kind == 28)] if family else []
    flags = 0x8180 if known else 0x8183
    head = query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
    records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(data)) + data for data in found)
    return head + query[12:at + 5] + records


class DnsUdp(socketserver.BaseRequestHandler):
    def handle(self):
        query, answering = self.request
        answering.sendto(dns_answer(query), self.client_address)


class DnsTcp(socketserver.StreamRequestHandler):
    def handle(self):
        while len(head := self.rfile.read(2)) == 2:
            answer = dns_answer(self.rfile.read(struct.unpack("!H", head)[0]))
            self.wfile.write(struct.pack("!H", len(answer)) + answer)


def bound(server):
    class Bound(server):
        """One for both families, unless it has an address of its own."""

        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 128

        def __init__(self, address, port, handler):
            self.address_family = socket.AF_INET if address and ":" not in address else socket.AF_INET6
            super().__init__((address or "::", port), handler)

        def server_bind(self):
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # Not HTTPServer's, which asks DNS for our own name.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address[:2]

    return Bound


APPS = {
    "http": [(bound(ThreadingHTTPServer), Http)],
    "smtp": [(bound(socketserver.ThreadingTCPServer), Smtp)],
    "echo": [(bound(socketserver.ThreadingTCPServer), Echo)],
    "dns": [(bound(socketserver.ThreadingTCPServer), DnsTcp), (bound(socketserver.ThreadingUDPServer), DnsUdp)],
}

for argument in sys.argv[1:]:
    if "=" in argument:
        name, ip = argument.split("=")
        NAMES.setdefault(name, []).append(ip)
        continue
    kind, where = argument.split(":", 1)
    port, _, address = where.partition("@")
    for server, handler in APPS[kind]:
        listening = server(address, int(port), handler)
        threading.Thread(target=listening.serve_forever, daemon=True).start()

print("listening", flush=True)
threading.Event().wait()
