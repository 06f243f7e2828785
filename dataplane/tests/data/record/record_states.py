#!/usr/bin/python3
"""Records the state transitions of IPVS by crafted packets: see README.md.

Every state that packets alone lead to is found by trying all packets in every
state known so far. Nobody answers: the addresses of client and server are not
held by any machine, so that no other packet disturbs.
"""
import os, socket, struct, subprocess, sys, time, ctypes
libc = ctypes.CDLL(None, use_errno=True)
root = os.open('/proc/self/ns/net', os.O_RDONLY)
def run(c): subprocess.run(['bash','-c',c], check=True)
run('''modprobe ip_vs; modprobe veth
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
for n in cl rs; do ip netns add $n; ip link add $n type veth peer name eth0 netns $n; ip netns exec $n ip link set eth0 up; ip link set $n up; done
ip link set cl address 02:00:00:00:01:ff; ip link set rs address 02:00:00:00:02:ff
ip addr add 10.0.1.254/24 dev cl; ip addr add 10.0.2.254/24 dev rs; ip addr add 192.0.2.10/32 dev lo
ip neigh add 10.0.1.1 lladdr 02:00:00:00:01:01 dev cl nud permanent; ip neigh add 10.0.2.1 lladdr 02:00:00:00:02:01 dev rs nud permanent
''')
def sock(n):
    fd = os.open('/run/netns/'+n, os.O_RDONLY); libc.setns(fd, 0x40000000)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(('eth0', 0)); libc.setns(root, 0x40000000); os.close(fd); return s
CL, RS = sock('cl'), sock('rs')
def csum(b):
    if len(b) & 1: b += b'\0'
    s = sum(struct.unpack('!%dH' % (len(b)//2), b)); s = (s>>16)+(s&0xffff); s += s>>16; return ~s & 0xffff
T = []
for i in range(256):
    c = i
    for _ in range(8): c = (c>>1) ^ (0x82f63b78 if c & 1 else 0)
    T.append(c)
def crc32c(b):
    c = 0xffffffff
    for x in b: c = T[(c ^ x) & 255] ^ (c >> 8)
    return c ^ 0xffffffff
def frame(dm, sm, src, dst, proto, l4):
    s, d = socket.inet_aton(src), socket.inet_aton(dst)
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20+len(l4), 1, 0, 64, proto, 0, s, d)
    ip = ip[:10] + struct.pack('!H', csum(ip)) + ip[12:]
    return bytes.fromhex(dm.replace(':','')) + bytes.fromhex(sm.replace(':','')) + b'\x08\0' + ip + l4
def tcp(src, dst, sp, dp, flags):
    l = struct.pack('!HHIIBBHHH', sp, dp, 1, 1, 0x50, flags, 1000, 0, 0)
    p = socket.inet_aton(src)+socket.inet_aton(dst)+struct.pack('!BBH', 0, 6, len(l))
    return l[:16] + struct.pack('!H', csum(p+l)) + l[18:]
def sctp(src, dst, sp, dp, chunks):
    l = struct.pack('!HHII', sp, dp, 7, 0)
    for c in chunks:
        body = {1: struct.pack('!IIHHI', 9, 65536, 1, 1, 1), 2: struct.pack('!IIHHI', 9, 65536, 1, 1, 1), 0: struct.pack('!IHHI', 1, 0, 0, 0)+b'data'}.get(c, b'\0\0\0\0')
        l += struct.pack('!BBH', c, 3 if c == 0 else 0, 4+len(body)) + body
    return l[:8] + struct.pack('<I', crc32c(l)) + l[12:]
FL = {'F':1,'S':2,'R':4,'P':8,'A':16,'.':0}
def send(proto, direction, port, what):
    if proto == 6: mk = lambda *a: tcp(*a, sum(FL[c] for c in what))
    else: mk = lambda *a: sctp(*a, [int(x) for x in what.split('+')])
    if direction == 'in': CL.send(frame('02:00:00:00:01:ff', '02:00:00:00:01:01', '10.0.1.1', '192.0.2.10', proto, mk('10.0.1.1', '192.0.2.10', port, 80)))
    else: RS.send(frame('02:00:00:00:02:ff', '02:00:00:00:02:01', '10.0.2.1', '10.0.1.1', proto, mk('10.0.2.1', '10.0.1.1', 80, port)))
def look(port):
    time.sleep(0.004)
    for line in open('/proc/net/ip_vs_conn').read().splitlines()[1:]:
        w = line.split()
        if int(w[2], 16) == port: return w[7], int(w[8])
    return 'gone', 0
port = [1000]
def record(name, proto, events, directions, first):
    paths = {'NONE': []}; todo = ['NONE']; lines = []
    while todo:
        state = todo.pop(0)
        for d in directions:
            for e in events:
                if state == 'NONE' and d == 'out': continue
                port[0] += 1; p = port[0]
                for step in paths[state]: send(proto, step[0], p, step[1])
                if paths[state]:
                    got = look(p)[0]
                    assert got == state, (state, paths[state], got)
                send(proto, d, p, e)
                after, secs = look(p)
                lines.append('%-6s %-11s %-3s %-5s %-11s %d' % (name, state, d, e, after, secs))
                if after != 'gone' and after not in paths:
                    paths[after] = paths[state] + [(d, e)]; todo.append(after)
        run('ipvsadm -C')
        service(name)
    print('\n'.join(lines)); sys.stdout.flush()
def service(name):
    proto, opt = ('-t', '') if 'tcp' in name else ('--sctp-service', '')
    run('ipvsadm -A %s 192.0.2.10:80 -s rr; ipvsadm -a %s 192.0.2.10:80 -r 10.0.2.1:80 %s' % (proto, proto, '-m' if 'nat' in name else '-g'))
flags = ['S','F','A','R','P','.','SA','FA','RA','SF','SR','FR','SFRA']
run('sysctl -w net.ipv4.vs.secure_tcp=3'); time.sleep(3); run('sysctl net.ipv4.vs.secure_tcp')
for n, ds in (('tcp-nat', ['in','out']), ('tcp-dr', ['in'])):
    run('ipvsadm -C'); service(n); record(n, 6, flags, ds, 'S')
run('sysctl -qw net.ipv4.vs.secure_tcp=0')
chunks = ['0','1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','64','10+0','10+6','11+0','11+6','0+6','3+0']
for n, ds in (('sctp-nat', ['in','out']), ('sctp-dr', ['in'])):
    run('ipvsadm -C'); service(n); record(n, 132, chunks, ds, '1')
run('sysctl -qw net.ipv4.vs.sloppy_sctp=1')
for n in ('sctp-nat', 'sctp-dr'):
    run('ipvsadm -C'); service(n)
    for e in chunks:
        port[0] += 1; send(132, 'in', port[0], e)
        print('%s-sloppy NONE in %s %s %d' % ((n, e) + look(port[0])))
