"""A neighbour who writes frames himself: TCP from and to any address, to a MAC of his choice.

Arguments: interface, MAC, and JSON: a list of {"from", "to", "port", "request"}, one after the other. Without a request
it is a SYN alone, whose answer nobody waits for. What comes back is told in JSON, one a line: {"answered", "reset",
"text"}; what was only a SYN counts as answered where an answer came before the last of all was over.
"""

import json
import select
import socket
import struct
import sys
import time

FIN, SYN, RST, ACK = 1, 2, 4, 16
PATIENCE = 10

interface, theirs, wanted = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), json.loads(sys.argv[3])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((interface, 0))
ours = wire.getsockname()[4]


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Connection:
    def __init__(self, index, call):
        self.number, self.call = 40000 + index, call
        self.told = {"answered": False, "reset": False, "text": ""}

    def send(self, flags, data=b"", seq=0, ack=0):
        source, target = (socket.inet_pton(family_of(a), a) for a in (self.call["from"], self.call["to"]))
        tcp = struct.pack("!HHIIBBHHH", self.number, self.call["port"], seq, ack, 5 << 4, flags, 65000, 0, 0) + data
        pseudo = source + target + struct.pack("!II", len(tcp), 6)
        tcp = tcp[:16] + struct.pack("!H", checksum(pseudo + tcp)) + tcp[18:]
        if len(source) == 16:
            kind, head = 0x86DD, struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + source + target
        else:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + source + target
            kind, head = 0x0800, head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        wire.send(theirs + ours + struct.pack("!H", kind) + head + tcp)

    def talk(self):
        self.send(SYN)
        if "request" not in self.call:
            return
        until, heard, request = time.time() + PATIENCE, None, self.call["request"].encode()
        while time.time() < until and select.select([wire], [], [], PATIENCE)[0]:
            found = segment(wire.recv(65535))
            if found is None or found[0] is not self:
                continue
            _, flags, seq, data = found
            if flags & RST:
                self.told["reset"] = True
                return
            if flags & SYN:
                heard = seq + 1
                self.send(ACK, b"", 1, heard)
                self.send(ACK, request, 1, heard)
            elif seq == heard:
                self.told["text"] += data.decode("latin1")
                heard += len(data) + (flags & FIN)
                if data or flags & FIN:
                    self.send(ACK, b"", 1 + len(request), heard)
                if flags & FIN:
                    return


def segment(frame):
    """Whose it is, its flags, number and data; None: nothing to one of ours."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00" and packet[9] == 6:
        tcp = packet[(packet[0] & 15) * 4:struct.unpack("!H", packet[2:4])[0]]
    elif kind == b"\x86\xdd" and packet[6] == 6:
        tcp = packet[40:40 + struct.unpack("!H", packet[4:6])[0]]
    else:
        return None
    _, number, seq, _, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
    # What we wrote ourselves is not seen here: it has their MAC.
    connection = connections.get(number) if frame[:6] == ours else None
    if connection is None:
        return None
    connection.told["answered"] = True
    return connection, flags, seq, tcp[(offset >> 4) * 4:]


connections = {40000 + index: Connection(index, call) for index, call in enumerate(wanted)}
for connection in connections.values():
    connection.talk()
for connection in connections.values():
    print(json.dumps(connection.told))
