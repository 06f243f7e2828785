#!/usr/bin/env python3
"""Pairs a Linux director with Sluice by the kernel's sync protocol; see README.md.

    pair.py kernel      Linux is the master, Sluice the backup, then the VIP moves
    pair.py sluice      the reverse

Two directors, d1 and d2, each with c0 on the clients' bridge and s0 on the servers';
the master is d1. The gateway addresses 10.0.1.254 and 10.0.2.254 are what moves.
"""
import json, os, select, socket, subprocess, sys, time

VIP, VIP6 = '192.0.2.10', '2001:db8:f::10'
SOCKET = '/run/sluice.sock'
CONFIG = '/run/sluice.toml'
FAILED = []


class Inside:
    """The namespace of this name, until the end of the block."""
    def __init__(self, name):
        self.name = name

    def enter(self, path):
        import ctypes
        with open(path) as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), path)

    def __enter__(self):
        self.enter('/run/netns/' + self.name)

    def __exit__(self, *_):
        self.enter('/proc/1/ns/net')


def run(commands, namespace=None, quiet=False):
    prefix = ['ip', 'netns', 'exec', namespace] if namespace else []
    done = subprocess.run(prefix + ['bash', '-c', commands], capture_output=True, text=True)
    if done.returncode and not quiet:
        print('%s: %s: %s%s' % (namespace, commands, done.stdout, done.stderr))
    return done.stdout


def check(what, holds, detail=''):
    print(('ok      ' if holds else 'FAILED  ') + what + ('' if holds else ': %s' % (detail,)), flush=True)
    if not holds:
        FAILED.append(what)


def wait_for(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return check(what, False, 'not in %d s' % seconds)
        time.sleep(0.2)
    check(what, True)


def lab():
    for module in 'ip_vs ip_vs_rr veth bridge tun nf_tables ipv6'.split():
        run('modprobe %s || true' % module)
    for bridge in 'brc', 'brs':
        run(f'ip link add {bridge} type bridge mcast_snooping 0; ip link set {bridge} up')
    hosts = [('cl', 'eth0', 'brc', '1.1'), ('rs1', 'eth0', 'brs', '2.1'), ('rs2', 'eth0', 'brs', '2.2')]
    for d in 1, 2:
        hosts += [(f'd{d}', 'c0', 'brc', f'1.25{d}'), (f'd{d}', 's0', 'brs', f'2.25{d}')]
    for host, interface, bridge, place in hosts:
        net, last = place.split('.')
        peer = host + interface
        run(f'''ip netns add {host} 2>/dev/null; ip link add {peer} type veth peer name {interface} netns {host}
            ip link set {peer} master {bridge} up''', quiet=True)
        run(f'''sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.{interface}.accept_dad=0
            sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{interface}.rp_filter=0
            ip link set lo up; ip link set {interface} up; ip addr add 10.0.{net}.{last}/24 dev {interface}
            ip -6 addr add 2001:db8:{net}::{last}/64 dev {interface} nodad''', host)
        # A packet must have its checksum, as on a wire, when XDP sees it.
        run(f'ethtool -K {interface} tx off gro off', host)
    run('ip route add default via 10.0.1.254; ip -6 route add default via 2001:db8:1::254', 'cl')
    for server in 'rs1', 'rs2':
        run('ip route add default via 10.0.2.254; ip -6 route add default via 2001:db8:2::254', server)
    for d in 'd1', 'd2':
        run(f'''sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0
            ip addr add {VIP}/32 dev lo; ip -6 addr add {VIP6}/128 dev lo nodad''', d)


def move(to, away=None):
    """Has the gateways at one director."""
    for net, interface in (1, 'c0'), (2, 's0'):
        if away:
            run(f'ip addr del 10.0.{net}.254/24 dev {interface}; '
                f'ip -6 addr del 2001:db8:{net}::254/64 dev {interface}', away)
        run(f'ip addr add 10.0.{net}.254/24 dev {interface}; '
            f'ip -6 addr add 2001:db8:{net}::254/64 dev {interface} nodad', to)
    for host in 'cl', 'rs1', 'rs2':
        run('ip neigh flush dev eth0', host)


RULES = [
    (f'-t {VIP}:80', '', '-t', [('10.0.2.1:80', '-m'), ('10.0.2.2:80', '-m')]),
    (f'-t {VIP}:81', '-p 300', '-t', [('10.0.2.1:81', '-m'), ('10.0.2.2:81', '-m')]),
    (f'-u {VIP}:53', '', '-u', [('10.0.2.1:53', '-m')]),
    (f'-t [{VIP6}]:80', '', '-t', [('[2001:db8:2::1]:80', '-m')]),
    (f'-u [{VIP6}]:53', '-p 400', '-u', [('[2001:db8:2::1]:53', '-m')]),
]


def rules(ipvsadm):
    for service, options, _, servers in RULES:
        ipvsadm(f'-A {service} -s rr {options}')
        for server, method in servers:
            ipvsadm(f'-a {service} -r {server} {method}')


class Kernel:
    def __init__(self, where):
        self.where = where
        rules(self.ipvsadm)

    def ipvsadm(self, line):
        return run('ipvsadm ' + line, self.where)


class Sluice:
    def __init__(self, where):
        self.where = where
        with open(CONFIG, 'w') as config:
            config.write('[director]\ninterfaces = ["c0", "s0"]\nworkers = [0]\nidle = "sleep"\n'
                         f'connections_per_worker = 4096\nsocket = "{SOCKET}"\nxdp_mode = "generic"\n')
        self.log = open('/run/sluice.log', 'w')
        self.process = subprocess.Popen(['ip', 'netns', 'exec', where, 'sluice', 'run', '--config', CONFIG],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        check('Sluice runs', line.strip() == 'ready', open('/run/sluice.log').read())
        rules(self.ipvsadm)

    def ipvsadm(self, line):
        return run(f'SLUICE_SOCKET={SOCKET} sluice ipvsadm {line}', self.where)

    def status(self):
        return json.loads(run(f'SLUICE_SOCKET={SOCKET} sluice status --json', self.where))


def listed(director):
    """Connections, without the time that is left."""
    lines = (line.split() for line in director.ipvsadm('-Lnc').splitlines()[2:])
    return sorted(' '.join(words[:1] + words[2:]) for words in lines)


def connect(address, port):
    """A client's socket and the server's, found by what was sent."""
    with Inside('cl'):
        client = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    client.settimeout(20)
    client.connect((address, port))
    ready, _, _ = select.select([s for s in LISTENERS if s.type == socket.SOCK_STREAM], [], [], 20)
    server, _ = ready[0].accept()
    server.settimeout(20)
    return client, server


LISTENERS = []


def listen():
    for host in 'rs1', 'rs2':
        for port in 80, 81:
            with Inside(host):
                s = socket.socket(socket.AF_INET6)
            s.bind(('::', port))
            s.listen(16)
            LISTENERS.append(s)


def talk(pair, times=5):
    for number in range(times):
        for one, other in (pair, pair[::-1]):
            word = b'%d' % number
            one.sendall(word)
            if other.recv(100) != word:
                return False
    return True


def datagrams(address, source_port, number=6):
    with Inside('cl'), socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('::' if ':' in address else '', source_port))
        for _ in range(number):
            s.sendto(b'x', (address, 53))
            time.sleep(0.05)


def survives(what, pair):
    try:
        check(what, talk(pair))
    except OSError as error:
        check(what, False, error)


def main():
    order = (Kernel, Sluice) if sys.argv[1] == 'kernel' else (Sluice, Kernel)
    lab()
    time.sleep(1)
    listen()
    move('d1')
    one, other = order[0]('d1'), order[1]('d2')
    one.ipvsadm('--start-daemon master --mcast-interface s0 --syncid 7')
    other.ipvsadm('--start-daemon backup --mcast-interface s0 --syncid 7')
    for director in one, other:
        print(director.ipvsadm('-L --daemon').strip())
    connections = {}
    for name, vip, port in (('TCP', VIP, 80), ('TCP of the other server', VIP, 80),
                            ('TCP with persistence', VIP, 81), ('TCP over IPv6', VIP6, 80)):
        try:
            connections[name] = connect(vip, port)
        except OSError as error:
            check(name, False, error)
    for name, pair in connections.items():
        survives(name + ' at the master', pair)
    datagrams(VIP, 5353)
    datagrams(VIP6, 5354)
    least = 4 + 1 + 2 + 1
    wait_for('all is at the backup', lambda: len(listed(other)) >= least)
    wait_for('the same lines at both', lambda: listed(one) == listed(other), 30)
    print('\n'.join(['master:'] + listed(one) + ['backup:'] + listed(other)))
    move('d2', 'd1')
    for name, pair in connections.items():
        survives(name + ' goes on at the backup', pair)
    try:
        again = connect(VIP, 81)
        check('a new connection goes to the server of its template',
              again[1].getsockname()[0] == connections['TCP with persistence'][1].getsockname()[0])
    except OSError as error:
        check('a new connection with persistence', False, error)
    for director in one, other:
        if isinstance(director, Sluice):
            status = director.status()
            print({key: value for key, value in status.items() if key.startswith('lvs')})
            if FAILED:
                print(status['interfaces'], status['workers'])
    print('\n'.join(['backup afterwards:'] + listed(other)))
    other.ipvsadm('--stop-daemon backup')
    one.ipvsadm('--stop-daemon master')
    if FAILED:
        print(open('/run/sluice.log').read() if os.path.exists('/run/sluice.log') else '')
    sys.exit(bool(FAILED))


if __name__ == '__main__':
    main()
