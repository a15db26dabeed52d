"""Sockets at both ends of a test: `serve NAME PORT…` answers each connection with who took it and where it was going,
`dial` makes the connections that stdin lists and prints their answers, `hold` keeps one and sends what stdin says."""

import json
import os
import socket
import struct
import sys
import threading

SO_ORIGINAL_DST = 80


def original(connection):
    try:
        if connection.family == socket.AF_INET:
            port, address = struct.unpack("!2xH4s8x", connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
            return f"{socket.inet_ntoa(address)} {port}"
        port, address = struct.unpack("!2xH4x16s4x", connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28))
        return f"{socket.inet_ntop(socket.AF_INET6, address)} {port}"
    except OSError:
        return None


def answer(name, connection, peer):
    with connection:
        told = {"name": name, "port": connection.getsockname()[1], "original": original(connection), "peer": peer[0]}
        connection.sendall(json.dumps(told).encode() + b"\n")
        while data := connection.recv(1024):
            connection.sendall(data)


def accept(name, listener):
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=answer, args=(name, connection, peer), daemon=True).start()


def answer_datagrams(name, server):
    while True:
        _, peer = server.recvfrom(1024)
        server.sendto(json.dumps({"name": name, "port": server.getsockname()[1]}).encode() + b"\n", peer)


def serve(name, ports):
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for port in map(int, ports):
            for kind, work in ((socket.SOCK_STREAM, accept), (socket.SOCK_DGRAM, answer_datagrams)):
                server = socket.socket(family, kind)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                server.bind((everywhere, port))
                if kind == socket.SOCK_STREAM:
                    server.listen(64)
                threading.Thread(target=work, args=(name, server), daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


def connected(uid, gid, to, port, source=None, udp=False):
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    connection.settimeout(5)
    if source is not None:
        connection.bind((source, 0))
    connection.connect((to, port))
    if udp:
        connection.send(b"?")
    return connection


def dial():
    for call in json.load(sys.stdin):
        # A process of its own: it gives up its user for good.
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                told = connected(**call).makefile().readline()
            except OSError as error:
                told = json.dumps({"error": str(error)})
            os.write(writing, told.encode() or b"null")
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            print(told.read().strip(), flush=True)
        os.waitpid(child, 0)


def hold(uid, to, port):
    lines = connected(int(uid), int(uid), to, int(port)).makefile("rw")
    print(lines.readline().strip(), flush=True)
    for line in sys.stdin:
        lines.write(line)
        lines.flush()
        print(lines.readline().strip(), flush=True)


{"serve": lambda name, *ports: serve(name, ports), "dial": dial, "hold": hold}[sys.argv[1]](*sys.argv[2:])
