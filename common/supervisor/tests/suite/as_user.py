"""A client that needs nothing: it starts two jobs on the socket that it is given, and prints what it receives."""
import json, socket, struct, sys

peer = socket.socket(socket.AF_UNIX)
peer.settimeout(30)
peer.connect(sys.argv[1])


def send(seq, request):
    body = b"\x01" + json.dumps({"seq": seq, "request": request}).encode()
    peer.sendall(struct.pack(">I", len(body)) + body)


send(1, {"hello": {"version_min": 1, "version_max": 1}})
send(2, {"start": {"id": "own", "command": ["id"], "uid": 1000}})
send(3, {"start": {"id": "other", "command": ["id"], "uid": 1001}})
received = b""
while received.count(b'"ended":') < 2:
    received += peer.recv(65536) or sys.exit("closed after " + repr(received))
print(received.decode(errors="replace"))
