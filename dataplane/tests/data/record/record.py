#!/usr/bin/env python3
"""Asks a kernel's IPVS for the answers in a scheduler data file.

    record.py FILE > NEW

Replays every step of FILE with the kernel's IPVS and prints the file with the
kernel's answers in place of those in it. Steps with answers may hold a number
instead (`closed 40`): so many connections are opened. README.md says how to run
this and what the steps mean.

It needs root, Linux 6.1 with ip_vs, ipvsadm and, for `mark`, iptables. It makes
network namespaces ("cl" and "rs1" to "rs6"), changes sysctls, and unloads ip_vs
between cases: run it in a virtual machine that serves no other purpose.
"""
import ctypes
import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import subprocess
import sys
import time

SERVERS = 6
VIP, VIP6, MARKED = "192.0.2.10", "2001:db8:f::10", "198.51.100.0/24"
CLIENTS, CLIENTS6 = "100.64.0.0/10", "2001:db8:c::/48"
ANSWERS_A_LINE = 20

libc = ctypes.CDLL(None, use_errno=True)
root = os.open("/proc/self/ns/net", os.O_RDONLY)


@contextlib.contextmanager
def namespace(name):
    fd = os.open("/run/netns/" + name, os.O_RDONLY)
    try:
        if libc.setns(fd, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        libc.setns(root, 0x40000000)
        os.close(fd)


def run(command):
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit("%s\n%s: status %d" % (done.stderr, command, done.returncode))
    return done.stdout


def make_network():
    """A client, a director (this namespace) and servers in a row, and a way back past the director
    for what a server sends from the VIP."""
    quiet = ("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 "
             "net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0; ")
    run(quiet + f"""set -e
        modprobe ip_vs; modprobe bridge; modprobe veth
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip link set lo up
        ip address add {VIP}/32 dev lo; ip address add {VIP6}/128 dev lo nodad
        ip route add local {MARKED} dev lo
        ip netns add cl
        ip link add c0 type veth peer name eth0 netns cl
        ip address add 10.0.1.254/24 dev c0; ip address add 2001:db8:1::ff/64 dev c0 nodad
        ip link set c0 up
        ip link add r0 type bridge
        ip address add 10.0.2.254/24 dev r0; ip address add 2001:db8:2::ff/64 dev r0 nodad
        ip link set r0 up
        ip route add {CLIENTS} via 10.0.1.1; ip route add {CLIENTS6} via 2001:db8:1::1""")
    run(f"""ip netns exec cl bash -ec '{quiet}
        ip link set lo up; ip link set eth0 up
        ip address add 10.0.1.1/24 dev eth0; ip address add 2001:db8:1::1/64 dev eth0 nodad
        ip route add default via 10.0.1.254; ip route add default via 2001:db8:1::ff
        ip link add d0 type bridge; ip address add 10.0.3.254/24 dev d0; ip link set d0 up
        ip route add local {CLIENTS} dev lo; ip route add local {CLIENTS6} dev lo'""")
    for i in range(1, SERVERS + 1):
        run(f"""set -e
            ip netns add rs{i}
            ip link add v{i} type veth peer name eth0 netns rs{i}
            ip link set v{i} master r0 up
            ip link add eth1 netns rs{i} type veth peer name d{i} netns cl
            ip netns exec cl ip link set d{i} master d0 up
            ip netns exec rs{i} bash -ec '{quiet}
            ip link set lo up; ip link set eth0 up
            ip address add 10.0.2.{i}/24 dev eth0; ip address add 2001:db8:2::{i}/64 dev eth0 nodad
            ip route add default via 10.0.2.254; ip route add default via 2001:db8:2::ff
            sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
            ip link set eth1 up; ip address add 10.0.3.{i}/24 dev eth1; ip address add {VIP}/32 dev lo
            ip rule add from {VIP} table 100; ip route add default via 10.0.3.254 table 100'""")
    # Neighbours are resolved now, so that no packet waits for that later.
    for i in range(1, SERVERS + 1):
        run(f"ping -c1 -W2 10.0.2.{i} >/dev/null; ping -6 -c1 -W2 2001:db8:2::{i} > /dev/null || true")
    run("ping -c1 -W2 10.0.1.1 >/dev/null; ping -6 -c1 -W2 2001:db8:1::1 >/dev/null || true")


listeners = {}


def listen():
    for i in range(1, SERVERS + 1):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with namespace("rs%d" % i):
                server = socket.socket(socket.AF_INET6, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", 80))
            if kind == socket.SOCK_STREAM:
                server.listen(4096)
            server.setblocking(False)
            listeners[server] = "rs%d" % i


def client(family, kind, source):
    with namespace("cl"):
        sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # IP_FREEBIND: a route makes the clients' addresses local, which is not enough for IPv6.
    sock.setsockopt(socket.IPPROTO_IP, 15, 1)
    sock.bind(source)
    sock.setblocking(False)
    return sock


def of_kind(kind):
    return [server for server in listeners if server.type == kind]


def connect(family, source, destination):
    """Opens a connection; returns who serves it, and both its ends."""
    sock = client(family, socket.SOCK_STREAM, source)
    sock.connect_ex(destination)
    servers, pending = of_kind(socket.SOCK_STREAM), [sock]
    while True:
        readable, writable, _ = select.select(servers, pending, [], 5)
        if not readable and not writable:
            raise TimeoutError("connection from %s to %s" % (source, destination))
        for server in readable:
            accepted, _ = server.accept()
            # The last ACK of the handshake came, or accept would have waited.
            return listeners[server], (sock, accepted)
        if writable:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                sock.close()
                if error in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                    return "none", None
                raise OSError(error, "connection from %s to %s" % (source, destination))
            pending = []


def datagram(family, source, destination):
    """Sends a datagram; returns who got it."""
    sock = client(family, socket.SOCK_DGRAM, source)
    sock.connect(destination)
    sock.send(b"x")
    servers = of_kind(socket.SOCK_DGRAM)
    readable, _, _ = select.select(servers + [sock], [], [], 5)
    sock_failed = sock in readable
    sock.close()
    if sock_failed:
        return "none"
    for server in readable:
        server.recv(100)
        return listeners[server]
    raise TimeoutError("datagram from %s to %s" % (source, destination))


def reset(ends):
    """Resets a connection from the client's side."""
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
        time.sleep(0.002)


def unload():
    """Takes ip_vs out and in again: no service, no connection, no server in the trash is left."""
    run("ipvsadm -C")
    for _ in range(100):
        run("for m in $(lsmod | awk '/^ip_vs_/{print $1}'); do rmmod $m; done; rmmod ip_vs 2>/dev/null; true")
        if not os.path.exists("/sys/module/ip_vs"):
            break
        time.sleep(0.1)
    else:
        sys.exit("ip_vs stays in use")
    run("modprobe ip_vs")


class Case:
    """A service and the connections of a case."""

    def __init__(self):
        unload()
        run("iptables -t mangle -F PREROUTING 2>/dev/null || true")
        self.connections = []
        self.source, self.source_step = None, (0, 1)
        self.destination, self.destination_step = None, 0

    def finish(self):
        """Resets what is open, as a later case uses the same ports."""
        for ends in filter(None, self.connections):
            reset(ends)

    def service(self, kind, scheduler, flags=None):
        self.family = socket.AF_INET6 if kind.endswith("6") else socket.AF_INET
        vip = VIP6 if self.family == socket.AF_INET6 else VIP
        self.source = (int(ipaddress.ip_address("2001:db8:1::1" if self.family == socket.AF_INET6 else "10.0.1.1")), 20000)
        self.destination = int(ipaddress.ip_address(vip))
        if kind == "mark":
            run(f"iptables -t mangle -A PREROUTING -d {MARKED} -j MARK --set-mark 1")
            self.name = "-f 1"
        else:
            at = f"[{vip}]:80" if self.family == socket.AF_INET6 else f"{vip}:80"
            self.name = ("-u " if kind.startswith("udp") else "-t ") + at
        run(f"ipvsadm -A {self.name} -s {scheduler}" + (f" -b {flags}" if flags else ""))

    def scheduler(self, scheduler, flags=None):
        run(f"ipvsadm -E {self.name} -s {scheduler}" + (f" -b {flags}" if flags else ""))

    def server(self, name):
        number = int(name[2:])
        return f"[2001:db8:2::{number}]:80" if self.family == socket.AF_INET6 else f"10.0.2.{number}:80"

    def put(self, verb, name, weight, *limits):
        options = dict(zip(limits[::2], limits[1::2]))
        limits = "".join(f" {option} {options[word]}" for word, option in (("upper", "-x"), ("lower", "-y")) if word in options)
        run(f"ipvsadm {verb} {self.name} -r {self.server(name)} -m -w {weight}{limits}")

    def arrival(self):
        """Source and destination of the next connection."""
        (address, port), destination = self.source, self.destination
        make = ipaddress.IPv6Address if self.family == socket.AF_INET6 else ipaddress.IPv4Address
        self.source = (address + self.source_step[0], port + self.source_step[1])
        self.destination = destination + self.destination_step
        return (str(make(address)), port), (str(make(destination)), 80)

    def answer(self, step):
        if step == "datagrams":
            return datagram(self.family, *self.arrival())
        name, ends = connect(self.family, *self.arrival())
        if ends and step == "closed":
            reset(ends)
            ends = None
        if name != "none":
            self.connections.append(ends)
        return name

    def counts(self, name):
        for line in run("ipvsadm -Ln").splitlines():
            words = line.split()
            if words[:2] == ["->", self.server(name)]:
                return "%s %s" % (words[4], words[5])
        sys.exit("no server %s" % name)

    def step(self, step, words):
        """Takes a step; yields the lines that record it."""
        line = " ".join([step] + words)
        if step in ("held", "closed", "datagrams"):
            count = int(words[0]) if words[0].isdigit() else len(words)
            served = [self.answer(step) for _ in range(count)]
            time.sleep(0.02)
            for i in range(0, count, ANSWERS_A_LINE):
                yield " ".join([step] + served[i:i + ANSWERS_A_LINE])
            return
        if step == "counts":
            yield "counts %s %s" % (words[0], self.counts(words[0]))
            return
        if step == "service":
            self.service(*words)
        elif step == "scheduler":
            self.scheduler(*words)
        elif step == "add":
            self.put("-a", *words)
        elif step == "edit":
            self.put("-e", *words)
        elif step == "delete":
            run(f"ipvsadm -d {self.name} -r {self.server(words[0])}")
        elif step == "method":
            weight = [w.split()[3] for w in run("ipvsadm -Ln").splitlines() if self.server(words[0]) in w][0]
            run(f"ipvsadm -e {self.name} -r {self.server(words[0])} -g -w {weight}")
        elif step == "from":
            self.source = (int(ipaddress.ip_address(words[0])), int(words[1]))
            self.source_step = (int(words[3]), int(words[4])) if len(words) > 2 else (0, 1)
        elif step == "to":
            self.destination = int(ipaddress.ip_address(words[0]))
            self.destination_step = int(words[2]) if len(words) > 1 else 0
        elif step == "reset":
            for i, ends in enumerate(self.connections[:int(words[0])]):
                if ends:
                    reset(ends)
                    self.connections[i] = None
            time.sleep(0.1)
        elif step == "wait":
            time.sleep(int(words[0]))
        else:
            sys.exit("unknown step %r" % step)
        yield line


def main():
    make_network()
    listen()
    case = None
    for line in open(sys.argv[1]):
        words = line.split()
        if not words or words[0].startswith("#"):
            print(line.rstrip())
        elif words[0] == "case":
            if case:
                case.finish()
            case = Case()
            print(line.rstrip())
        else:
            for recorded in case.step(words[0], words[1:]):
                print(recorded)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
