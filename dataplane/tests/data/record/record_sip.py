#!/usr/bin/env python3
"""Asks a kernel's IPVS for the Call-IDs of the messages in sip_call_id.txt.

    record_sip.py FILE > NEW

Sends each message from a client of its own to a service with `--pe sip`, and
prints the file with what the kernel keeps of it (`pe_data` of the template), or
`none` where it drops the message. Needs what record.py needs, and ip_vs_pe_sip.
"""
import select
import socket
import sys

import record


def unescaped(text):
    return text[1:-1].encode().decode("unicode_escape").encode("latin-1")


def escaped(data):
    special = {0x0d: "\\r", 0x0a: "\\n", 0x09: "\\t", 0x22: '\\"', 0x5c: "\\\\"}
    one = lambda byte: special.get(byte) or (chr(byte) if 0x20 <= byte < 0x7f else "\\x%02x" % byte)
    return '"%s"' % "".join(map(one, data))


def kept(client):
    """The Call-ID of a client's template."""
    network = "%08X" % int.from_bytes(socket.inet_aton(client), "big")
    with open("/proc/net/ip_vs_conn", "rb") as table:
        lines = [line for line in table.read().split(b"\n") if b" sip " in line]
    return [line.split(b" sip ", 1)[1] for line in lines if line.split()[1].decode() == network]


def main(path):
    record.make_network()
    record.listen()
    record.run("modprobe ip_vs_pe_sip; ipvsadm -A -u 192.0.2.10:80 -s rr -p 60 --pe sip; "
               "ipvsadm -a -u 192.0.2.10:80 -r 10.0.2.1:80 -m")
    servers = record.of_kind(socket.SOCK_DGRAM)
    for number, line in enumerate(open(path).read().splitlines()):
        if not line or line.startswith("#"):
            print(line)
            continue
        name, message = line.split("\t")[:2]
        client = "100.64.%d.%d" % divmod(number, 256)
        sock = record.client(socket.AF_INET, socket.SOCK_DGRAM, (client, 40000))
        sock.sendto(unescaped(message), ("192.0.2.10", 80))
        arrived, _, _ = select.select(servers, [], [], 0.5)
        for server in arrived:
            server.recv(65536)
        found = kept(client)
        if bool(arrived) != bool(found):
            sys.exit("%s: forwarded %s, kept %s" % (name, bool(arrived), found))
        print(name, message, escaped(found[0]) if found else "none", sep="\t")


main(sys.argv[1])
