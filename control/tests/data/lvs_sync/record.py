#!/usr/bin/env python3
"""Records what Linux's IPVS tells a backup of its connections; see README.md.

Prints cases: a title, what ipvsadm lists at the master and at a backup, and the
datagrams in hexadecimal. The director is the root namespace, with a veth to the
client's (c0), one to each server's (s1, s2) and one to the backup's (m0).
"""
import contextlib, ctypes, os, re, select, socket, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
ROOT = os.open('/proc/self/ns/net', os.O_RDONLY)
VIP, VIP_DR, VIP_TUN, VIP6 = '192.0.2.10', '192.0.2.11', '192.0.2.12', '2001:db8:f::10'
CALL = b'INVITE sip:a@b SIP/2.0\r\nCall-ID: %s@10.0.1.9\r\n\r\n'


@contextlib.contextmanager
def inside(name):
    if name:
        with open('/run/netns/' + name) as namespace:
            libc.setns(namespace.fileno(), 0x40000000)
    try:
        yield
    finally:
        libc.setns(ROOT, 0x40000000)


def run(commands, namespace=None):
    with inside(namespace):
        done = subprocess.run(['bash', '-c', commands], capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write('%s: %s\n' % (commands, done.stderr))
    return done.stdout


def namespace(name, ours, v4, v6, addresses):
    run(f'''ip netns add {name}; ip link add {ours} type veth peer name eth0 netns {name}
        sysctl -qw net.ipv6.conf.{ours}.accept_dad=0 net.ipv4.conf.{ours}.accept_local=1; ip link set {ours} up
        ip addr add {v4}.254/24 dev {ours}; ip -6 addr add {v6}::ff/64 dev {ours} nodad''')
    run('sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0 '
        'net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0; ip link set lo up; ip link set eth0 up', name)
    for address in addresses:
        run(f'ip addr add {address} dev eth0 ' + ('nodad' if ':' in address else ''), name)
    run(f'ip route add default via {v4}.254; ip -6 route add default via {v6}::ff || true', name)


def lab():
    for module in 'ip_vs ip_vs_rr ip_vs_ftp ip_vs_pe_sip veth sctp iptable_mangle xt_MARK nf_tables ipip'.split():
        run('modprobe %s || true' % module)
    run('sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 '
        'net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.all.send_redirects=0; ip link set lo up')
    for vip in (VIP, VIP_DR, VIP_TUN):
        run(f'ip addr add {vip}/32 dev lo')
    run(f'ip -6 addr add {VIP6}/128 dev lo nodad')
    clients = ['10.0.1.%d/24' % i for i in range(1, 33)] + ['2001:db8:1::%x/64' % i for i in range(1, 5)]
    namespace('cl', 'c0', '10.0.1', '2001:db8:1', clients)
    for i in (1, 2):
        namespace('rs%d' % i, 's%d' % i, '10.0.%d' % (i + 1), '2001:db8:%d' % (i + 1),
                  ['10.0.%d.1/24' % (i + 1), '2001:db8:%d::1/64' % (i + 1)])
        # Replies of DR and TUN pass this machine, though not IPVS's eyes.
        run(f'ip addr add {VIP_DR}/32 dev lo; ip addr add {VIP_TUN}/32 dev lo; ip link set tunl0 up || true; '
            'sysctl -qw net.ipv4.conf.tunl0.rp_filter=0 || true; '
            'sysctl -qw net.ipv4.conf.eth0.arp_ignore=1', 'rs%d' % i)
    namespace('bk', 'm0', '10.9.0', '2001:db8:9', ['10.9.0.1/24'])
    time.sleep(1)


LISTENERS = []


def listen(server, port, kind=socket.SOCK_STREAM, family=socket.AF_INET6, protocol=0):
    with inside(server):
        s = socket.socket(family, kind, protocol)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', port))
    if kind == socket.SOCK_STREAM:
        s.listen(16)
    LISTENERS.append(s)
    return s


class Connection:
    """The client's socket and the server's."""
    def __init__(self, vip, port, source, source_port, protocol=0):
        with inside('cl'):
            self.client = socket.socket(socket.AF_INET6 if ':' in vip else socket.AF_INET, socket.SOCK_STREAM, protocol)
        self.client.bind((source, source_port))
        self.client.settimeout(5)
        self.client.connect((vip, port))
        streams = [s for s in LISTENERS if s.type == socket.SOCK_STREAM]
        ready, _, _ = select.select(streams, [], [], 5)
        self.server, _ = ready[0].accept()
        self.server.settimeout(5)

    def talk(self, times=4):
        for _ in range(times):
            self.client.send(b'hello')
            self.server.recv(100)
        return self

    def reset(self):
        for s in (self.client, self.server):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            s.close()


def datagrams(vip, port, source, source_port, data=b'x', number=5):
    with inside('cl'), socket.socket(socket.AF_INET6 if ':' in vip else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((source, source_port))
        for _ in range(number):
            s.sendto(data, (vip, port))
            time.sleep(0.02)


def clients(message):
    """Who a message is about, as ipvsadm shows them."""
    def shown(address, port):
        if len(address) == 4:
            return '%s:%d' % (socket.inet_ntop(socket.AF_INET, address), port)
        return '[%s]:%d' % (socket.inet_ntop(socket.AF_INET6, address), port)
    if message[0]:
        at = 4
        while at < len(message):
            yield shown(message[at + 8:at + 12], struct.unpack('>H', message[at + 2:at + 4])[0])
            at += 24
        return
    at = 8
    while at < len(message):
        size = struct.unpack('>H', message[at + 2:at + 4])[0] & 0xfff
        length = 16 if message[at] else 4
        yield shown(message[at + 24:at + 24 + length], struct.unpack('>H', message[at + 10:at + 12])[0])
        at += (size + 3) & ~3


WIRE = None


def case(title, *rules):
    """Begins a case: services for it, and nothing in the wire."""
    global NAME
    NAME = title
    run('ipvsadm -C')
    run('ipvsadm -C', 'bk')
    for rule in rules:
        run('ipvsadm ' + rule)
        run('ipvsadm ' + rule, 'bk')


def wait(note=''):
    """Prints what came since the last time. The master waits up to 2 s."""
    messages, end = [], time.monotonic() + 4
    while time.monotonic() < end:
        if not select.select([WIRE], [], [], 0.1)[0]:
            continue
        frame = WIRE.recv(70000)
        if frame[12:14] == b'\x08\x00' and frame[23] == 17:
            udp = frame[14 + (frame[14] & 15) * 4:]
        elif frame[12:14] == b'\x86\xdd' and frame[20] == 17:
            udp = frame[54:]
        else:
            continue
        if udp[2:4] == struct.pack('>H', 8848):
            messages.append(udp[8:struct.unpack('>H', udp[4:6])[0]])
    told = {client for message in messages for client in clients(message)}
    print('\n# %s%s' % (NAME, note))
    for who, name in (None, 'master'), ('bk', 'backup'):
        listed = run('ipvsadm -Lnc --persistent-conn', who).splitlines()[2:]
        for line in sorted(line for line in listed if line.split()[3] in told):
            print('# %s: %s' % (name, ' '.join(line.split())))
    for message in messages:
        print(message.hex())
    sys.stdout.flush()


def daemons(options=''):
    run('ipvsadm --start-daemon master --mcast-interface m0 --syncid 7 ' + options)
    run('ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 7 ' + options, 'bk')


def nat(protocol, vip, server, persistence=''):
    return f'-A {protocol} {vip} -s rr {persistence}', f'-a {protocol} {vip} -r {server} -m'


def main():
    global WIRE
    lab()
    WIRE = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    WIRE.bind(('m0', 0))
    # Every odd packet, so that short connections show.
    run('sysctl -qw net.ipv4.vs.sync_threshold="1 2"')
    daemons()
    for server in 'rs1', 'rs2':
        for port in 80, 8080, 21:
            listen(server, port)

    case('TCP by NAT', *nat('-t', VIP + ':80', '10.0.2.1:8080'))
    c = Connection(VIP, 80, '10.0.1.1', 21001).talk()
    wait(': established')
    c.client.close()
    wait(': the client closes')
    c.server.close()
    c = Connection(VIP, 80, '10.0.1.2', 21002).talk()
    c.server.close()
    wait(': the server closes')
    c.client.close()
    Connection(VIP, 80, '10.0.1.3', 21003).talk().reset()
    wait(': reset')

    case('TCP by direct routing', f'-A -t {VIP_DR}:80 -s rr', f'-a -t {VIP_DR}:80 -r 10.0.2.1 -g')
    c = Connection(VIP_DR, 80, '10.0.1.4', 21004).talk()
    wait()
    c.client.close()
    wait(': the client closes')
    case('TCP by a tunnel', f'-A -t {VIP_TUN}:80 -s rr', f'-a -t {VIP_TUN}:80 -r 10.0.3.1 -i')
    c = Connection(VIP_TUN, 80, '10.0.1.5', 21005).talk()
    wait()

    case('UDP by NAT', *nat('-u', VIP + ':53', '10.0.3.1:53'))
    datagrams(VIP, 53, '10.0.1.6', 21006)
    wait()
    case('IPv6 by NAT', *nat('-t', f'[{VIP6}]:80', '[2001:db8:2::1]:80'),
         *nat('-u', f'[{VIP6}]:53', '[2001:db8:3::1]:53'))
    c = Connection(VIP6, 80, '2001:db8:1::1', 21007).talk()
    datagrams(VIP6, 53, '2001:db8:1::1', 21008)
    wait(': TCP and UDP')

    case('persistence', *nat('-t', VIP + ':80', '10.0.2.1:80', '-p 300'))
    c = Connection(VIP, 80, '10.0.1.8', 21009).talk()
    wait()
    case('persistence of every port, by network', *nat('-t', VIP + ':0', '10.0.2.1:0', '-p 400 -M 255.255.255.0'))
    c = Connection(VIP, 80, '10.0.1.9', 21010).talk()
    wait()
    run(f'iptables -t mangle -A PREROUTING -d {VIP} -p tcp --dport 8080 -j MARK --set-mark 3; '
        f'ip6tables -t mangle -A PREROUTING -d {VIP6} -j MARK --set-mark 4')
    case('persistence of marks, of both families', *nat('-f', '3', '10.0.2.1:0', '-p 500'),
         *nat('-f', '4 -6', '[2001:db8:2::1]:0', '-p 600'))
    c = Connection(VIP, 8080, '10.0.1.10', 21011).talk()
    d = Connection(VIP6, 80, '2001:db8:1::2', 21012).talk()
    wait()
    case('TCP of a mark', *nat('-f', '3', '10.0.2.1:80'))
    c = Connection(VIP, 8080, '10.0.1.11', 21013).talk()
    wait()
    case('SIP', *nat('-u', VIP + ':5060', '10.0.2.1:5060', '-p 700 --pe sip'))
    datagrams(VIP, 5060, '10.0.1.12', 21014, CALL % b'1a2b3c')
    wait()
    case('SIP, one packet at a time', *nat('-u', VIP + ':5060', '10.0.2.1:5060', '-p 700 --pe sip -o'))
    datagrams(VIP, 5060, '10.0.1.13', 21015, CALL % b'77')
    wait()
    case('FTP', *nat('-t', VIP + ':21', '10.0.2.1:21'))
    c = Connection(VIP, 21, '10.0.1.14', 21016)
    for _ in range(2):
        c.client.send(b'PASV\r\n')
        c.server.recv(100)
        c.server.send(b'227 Entering Passive Mode (10,0,2,1,156,64).\r\n')
        sys.stderr.write(repr(c.client.recv(100)) + '\n')
    c.talk()
    wait(': passive mode was announced twice, by text of another length')
    listen('rs1', 40000)
    d = Connection(VIP, 40000, '10.0.1.14', 21020).talk()
    wait(': a data connection')
    case('SCTP by NAT', *nat('--sctp-service', VIP + ':80', '10.0.2.1:80'))
    listen('rs1', 80, family=socket.AF_INET, protocol=132)
    c = Connection(VIP, 80, '10.0.1.15', 21017, 132).talk()
    wait(': established')
    c.client.close()
    wait(': closed')

    run('sysctl -qw net.ipv4.vs.sync_version=0')
    case('version 0', *nat('-t', VIP + ':80', '10.0.2.1:80', '-p 300'), *nat('-u', VIP + ':53', '10.0.3.1:53'))
    datagrams(VIP, 53, '10.0.1.16', 21018)
    c = Connection(VIP, 80, '10.0.1.16', 21019).talk()
    wait(': UDP, and TCP with persistence')
    run('sysctl -qw net.ipv4.vs.sync_version=1')
    run('ipvsadm --stop-daemon master')
    run('ipvsadm --stop-daemon backup', 'bk')
    daemons('--mcast-group ff02::81')
    case('to an IPv6 group', *nat('-u', VIP + ':53', '10.0.3.1:53'))
    datagrams(VIP, 53, '10.0.1.17', 21020)
    wait()


if __name__ == '__main__':
    main()
