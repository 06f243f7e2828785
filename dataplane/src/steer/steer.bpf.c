/* Which packets come to the director's workers, and which stay with the kernel.
 *
 * Redirected to the AF_XDP socket of the receiving queue:
 *   - TCP, UDP and SCTP to VIP:port of a service (port 0 stands for all ports);
 *   - those that mark rules give a mark of a service, by destination, source,
 *     destination port and interface;
 *   - TCP and UDP to a LIP, from the first port that FULLNAT uses;
 *   - TCP, UDP and SCTP from RIP:port of a NAT real server;
 *   - TCP to a VIP of FTP, and from an FTP server by NAT, where the port is one
 *     of passive mode;
 *   - fragments of TCP, UDP and SCTP, of which only the first has ports: to a VIP
 *     with services of the protocol or mark rules that fit, to a LIP, or from a
 *     NAT real server; the
 *     worker leaves to the kernel what it does not know;
 *   - ICMP and ICMPv6 errors about a packet that went the other way, or to a tunnel's
 *     real server;
 *   - with one or two VLAN tags as without, and behind IPv6 extension headers.
 * All else is passed: ARP, other ICMP and ICMPv6, ssh, BGP, VRRP, frames that are
 * not for our MAC (a bridge may flood them to us, and forwarding them again
 * would duplicate packets).
 *
 * The loader keeps one instance for each interface, since libbpf enters a
 * socket under its queue number in the map named xsks_map.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Roles of an address; must agree with steer/rules.rs. */
#define ROLE_VIP 1
#define ROLE_LIP 2
#define ROLE_RIP 4
#define ROLE_TUNNEL 8
/* Protocols of the services or NAT servers at an address. */
#define ROLE_TCP 16
#define ROLE_UDP 32
#define ROLE_SCTP 64
/* A VIP or RIP of FTP: its passive ports are not known beforehand. */
#define ROLE_FTP 128

/* ICMP errors (RFC 792). <linux/icmp.h> does not compile for BPF. */
#define ICMP_UNREACHABLE 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
/* ICMPv6 errors are 1 to 4 (RFC 4443). */
#define ICMPV6_PARAMETER_PROBLEM 4

/* An IPv4 address is kept IPv4-mapped, as everywhere in the director. */
struct address {
	__be32 word[4];
};

struct endpoint {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 role;
};

struct interface {
	__u8 mac[6];
	__be16 first_local_port;
	__be16 first_passive_port;
	__be16 last_passive_port;
	/* Whether there are mark rules. */
	__u32 marks;
	/* XDP_PASS or XDP_DROP: what becomes of packets on a queue without a socket. */
	__u32 without_socket;
};

/* A mark rule, or one of its ranges of ports; must agree with steer/marks.rs. */
struct mark_step {
	struct address source;
	struct address source_mask;
	__u32 value;
	/* Bits of the mark that stay. */
	__u32 keep;
	/* In host order. */
	__u16 first_port;
	__u16 last_port;
	/* 0 for any */
	__u8 protocol;
	__u8 kind;
	__u8 padding[2];
};

#define KIND_RULE 0
#define KIND_END 1

/* The steps of a prefix: lists, each with an end. */
struct mark_list {
	__u32 first;
	__u32 count;
	/* 4 or 6: an IPv4 address is in ::/0 too, and not meant there. */
	__u32 family;
};

struct mark_key {
	__u32 mark;
	__u32 family;
};

struct destination {
	__u32 length;
	struct address address;
};

#define MOST_STEPS (2 * 2 * 8192)

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} xsks_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct interface);
} interface SEC(".maps");

/* Looked up first, so that traffic that is not ours costs two lookups. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, __u8);
} roles SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u8);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct destination);
	__type(value, struct mark_list);
} mark_lists SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOST_STEPS);
	__type(key, __u32);
	__type(value, struct mark_step);
} mark_steps SEC(".maps");

/* Marks that services have. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mark_key);
	__type(value, __u8);
} mark_services SEC(".maps");

/* The program that carries flows, if it does (offload/offload.bpf.c). The kernel
 * empties this when the director ends.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} offload SEC(".maps");

struct vlan_header {
	__be16 tci;
	__be16 protocol;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 info;
};

struct ports {
	__be16 source;
	__be16 dest;
};

/* Extension headers that are looked past; as wire/ipv6.rs. */
#define MOST_EXTENSIONS 6

/* What all of those have in common. */
struct extension {
	__u8 next;
	__u8 length;
	__u8 type;
	__u8 segments_left;
};

struct fragment {
	__u8 next;
	__u8 reserved;
	__be16 offset_more;
	__be32 id;
};

/* Looks past hop-by-hop options, destination options and routing headers that
 * lead nowhere else. Returns what follows them, and its protocol; NULL where
 * that is not to be had.
 */
static __always_inline void *upper_layer(void *header, void *end, __u8 *protocol)
{
#pragma unroll
	for (int i = 0; i <= MOST_EXTENSIONS; i++) {
		struct extension *extension = header;

		if (*protocol != IPPROTO_HOPOPTS && *protocol != IPPROTO_DSTOPTS && *protocol != IPPROTO_ROUTING)
			return header;
		if (i == MOST_EXTENSIONS || (void *)(extension + 1) > end)
			return 0;
		if (*protocol == IPPROTO_ROUTING && extension->segments_left)
			return 0;
		*protocol = extension->next;
		header += (extension->length + 1) * 8;
	}
	return 0;
}

static __always_inline int known(const struct address *address, __be16 port, __u8 protocol, __u8 role)
{
	struct endpoint key = { .address = *address, .port = port, .protocol = protocol, .role = role };

	if (bpf_map_lookup_elem(&endpoints, &key))
		return 1;
	key.port = 0;
	return bpf_map_lookup_elem(&endpoints, &key) != 0;
}

static __always_inline int within(const struct address *address, const struct mark_step *step)
{
#pragma unroll
	for (int i = 0; i < 4; i++)
		if ((address->word[i] & step->source_mask.word[i]) != step->source.word[i])
			return 0;
	return 1;
}

/* A packet on its way through mark rules. */
struct marking {
	struct address source;
	/* In host order. */
	__u16 port;
	/* 0 where it is not known */
	__u8 protocol;
	/* Whether the port is not known, and so any rule may be the one. */
	__u8 fragment;
	__u32 first_step;
	struct mark_key key;
	int wanted;
};

/* One step of it; 1 ends it. */
static int mark(__u64 number, struct marking *packet)
{
	__u32 index = packet->first_step + number;
	struct mark_step *step = bpf_map_lookup_elem(&mark_steps, &index);

	if (!step)
		return 1;
	if (step->kind == KIND_END) {
		packet->wanted = packet->key.mark && bpf_map_lookup_elem(&mark_services, &packet->key);
		packet->key.mark = 0;
		return packet->wanted;
	}
	if (step->protocol && packet->protocol && step->protocol != packet->protocol)
		return 0;
	if (!within(&packet->source, step))
		return 0;
	if (packet->fragment) {
		packet->wanted = step->value != 0;
		return packet->wanted;
	}
	if (packet->port < step->first_port || packet->port > step->last_port)
		return 0;
	packet->key.mark = (packet->key.mark & step->keep) | step->value;
	return 0;
}

/* Whether mark rules give a packet to dest a mark that a service has. All that
 * match are gone through in order, and none ends it, as in iptables' mangle
 * table.
 */
static __noinline int marked(const struct address *dest, struct marking *packet)
{
	struct destination key = { .length = 128, .address = *dest };
	struct mark_list *list = bpf_map_lookup_elem(&mark_lists, &key);
	int is_v4 = dest->word[0] == 0 && dest->word[1] == 0 && dest->word[2] == bpf_htonl(0xffff);

	packet->key.family = is_v4 ? 4 : 6;
	if (!list || list->family != packet->key.family)
		return 0;
	packet->first_step = list->first;
	/* Not a loop, which the verifier would go through step by step. */
	bpf_loop(list->count, mark, packet, 0);
	return packet->wanted;
}

static __always_inline int passive(__be16 port, __u8 protocol, __u8 role, const struct interface *self)
{
	__u16 number = bpf_ntohs(port);

	return (role & ROLE_FTP) && protocol == IPPROTO_TCP && number >= bpf_ntohs(self->first_passive_port) &&
	       number <= bpf_ntohs(self->last_passive_port);
}

/* Whether the director wants packets from source to dest. */
static __always_inline int wanted(const struct address *source, const struct address *dest,
				  const struct ports *ports, __u8 protocol, const struct interface *self)
{
	__u8 *role = bpf_map_lookup_elem(&roles, dest);

	if (role) {
		if ((*role & ROLE_VIP) && (passive(ports->dest, protocol, *role, self) ||
					   known(dest, ports->dest, protocol, ROLE_VIP)))
			return 1;
		if ((*role & ROLE_LIP) && protocol != IPPROTO_SCTP && bpf_ntohs(ports->dest) >= bpf_ntohs(self->first_local_port))
			return 1;
	}
	role = bpf_map_lookup_elem(&roles, source);
	if (role && (*role & ROLE_RIP) && (passive(ports->source, protocol, *role, self) ||
					   known(source, ports->source, protocol, ROLE_RIP)))
		return 1;
	if (self->marks) {
		struct marking packet = {
			.source = *source, .port = bpf_ntohs(ports->dest), .protocol = protocol
		};

		return marked(dest, &packet);
	}
	return 0;
}

/* The same for a fragment, whose ports are not there. Of IPv6, extension
 * headers may be in the way of its protocol too.
 */
static __always_inline int wanted_fragment(const struct address *source, const struct address *dest,
					   __u8 protocol, int is_v6, const struct interface *self)
{
	__u8 *role, of_protocol;

	if (protocol == IPPROTO_TCP)
		of_protocol = ROLE_TCP;
	else if (protocol == IPPROTO_UDP)
		of_protocol = ROLE_UDP;
	else if (protocol == IPPROTO_SCTP)
		of_protocol = ROLE_SCTP;
	else if (is_v6 && (protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_DSTOPTS ||
			   protocol == IPPROTO_ROUTING))
		of_protocol = ROLE_TCP | ROLE_UDP | ROLE_SCTP;
	else
		return 0;
	role = bpf_map_lookup_elem(&roles, dest);
	if (role && (((*role & ROLE_LIP) && of_protocol != ROLE_SCTP) || ((*role & ROLE_VIP) && (*role & of_protocol))))
		return 1;
	role = bpf_map_lookup_elem(&roles, source);
	if (role && (*role & ROLE_RIP) && (*role & of_protocol))
		return 1;
	if (self->marks) {
		struct marking packet = { .source = *source, .protocol = protocol, .fragment = 1 };

		if (of_protocol == (ROLE_TCP | ROLE_UDP | ROLE_SCTP))
			packet.protocol = 0;

		return marked(dest, &packet);
	}
	return 0;
}

/* Whether a quoted packet is one that the director sent: packets the other way
 * are the director's. Of a tunnel's packet the outer header says it; it may look
 * like any other of UDP.
 */
static __always_inline int wanted_quoted(const struct address *source, const struct address *dest,
					 struct ports *ports, void *end, __u8 protocol,
					 const struct interface *self)
{
	struct ports other_way;
	__u8 *role;

	if (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 || protocol == IPPROTO_GRE ||
	    protocol == IPPROTO_UDP) {
		role = bpf_map_lookup_elem(&roles, dest);
		if (role && (*role & ROLE_TUNNEL))
			return 1;
	}
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_SCTP)
		return 0;
	if ((void *)(ports + 1) > end)
		return 0;
	other_way.source = ports->dest;
	other_way.dest = ports->source;
	return wanted(dest, source, &other_way, protocol, self);
}

static __always_inline int wanted_error(struct icmp_header *icmp, void *end, const struct interface *self)
{
	struct address source = {}, dest = {};
	struct iphdr *ip;

	ip = (void *)(icmp + 1);
	if ((void *)(ip + 1) > end)
		return 0;
	if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_SOURCE_QUENCH &&
	    icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER_PROBLEM)
		return 0;
	if (ip->version != 4 || ip->ihl < 5 || (ip->frag_off & bpf_htons(0x1fff)))
		return 0;
	source.word[2] = dest.word[2] = bpf_htonl(0xffff);
	source.word[3] = ip->saddr;
	dest.word[3] = ip->daddr;
	return wanted_quoted(&source, &dest, (void *)ip + ip->ihl * 4, end, ip->protocol, self);
}

static __always_inline int wanted_error_v6(struct icmp_header *icmp, void *end, const struct interface *self)
{
	struct address source, dest;
	struct ipv6hdr *ip;
	void *upper;
	__u8 protocol;

	ip = (void *)(icmp + 1);
	if ((void *)(ip + 1) > end)
		return 0;
	if (icmp->type == 0 || icmp->type > ICMPV6_PARAMETER_PROBLEM || ip->version != 6)
		return 0;
	__builtin_memcpy(&source, &ip->saddr, sizeof(source));
	__builtin_memcpy(&dest, &ip->daddr, sizeof(dest));
	protocol = ip->nexthdr;
	upper = upper_layer(ip + 1, end, &protocol);
	if (!upper)
		return 0;
	if (protocol == IPPROTO_FRAGMENT) {
		struct fragment *fragment = upper;

		if ((void *)(fragment + 1) > end || (fragment->offset_more & bpf_htons(0xfff8)))
			return 0;
		protocol = fragment->next;
		upper = fragment + 1;
	}
	return wanted_quoted(&source, &dest, upper, end, protocol, self);
}

/* Not memcmp, which clang makes a call of. */
static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

/* What becomes of a frame for our MAC. */
static __always_inline int steer(struct xdp_md *ctx, const struct interface *self)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct address source = {}, dest = {};
	struct ethhdr *eth = data;
	struct ports *ports;
	__be16 type;
	__u8 protocol;
	void *l3;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;

	type = eth->h_proto;
	l3 = eth + 1;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) {
			struct vlan_header *vlan = l3;

			if ((void *)(vlan + 1) > end)
				return XDP_PASS;
			type = vlan->protocol;
			l3 = vlan + 1;
		}
	}

	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = l3;

		if ((void *)(ip + 1) > end || ip->ihl < 5)
			return XDP_PASS;
		source.word[2] = dest.word[2] = bpf_htonl(0xffff);
		source.word[3] = ip->saddr;
		dest.word[3] = ip->daddr;
		protocol = ip->protocol;
		if (ip->frag_off & bpf_htons(0x3fff)) {
			if (!wanted_fragment(&source, &dest, protocol, 0, self))
				return XDP_PASS;
			goto ours;
		}
		ports = l3 + ip->ihl * 4;
		if (protocol == IPPROTO_ICMP) {
			struct icmp_header *icmp = (void *)ports;

			if ((void *)(icmp + 1) > end || !wanted_error(icmp, end, self))
				return XDP_PASS;
			goto ours;
		}
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = l3;

		if ((void *)(ip + 1) > end)
			return XDP_PASS;
		__builtin_memcpy(&source, &ip->saddr, sizeof(source));
		__builtin_memcpy(&dest, &ip->daddr, sizeof(dest));
		protocol = ip->nexthdr;
		ports = upper_layer(ip + 1, end, &protocol);
		if (!ports)
			return XDP_PASS;
		if (protocol == IPPROTO_FRAGMENT) {
			struct fragment *fragment = (void *)ports;

			if ((void *)(fragment + 1) > end ||
			    !wanted_fragment(&source, &dest, fragment->next, 1, self))
				return XDP_PASS;
			goto ours;
		}
		if (protocol == IPPROTO_ICMPV6) {
			struct icmp_header *icmp = (void *)ports;

			if ((void *)(icmp + 1) > end || !wanted_error_v6(icmp, end, self))
				return XDP_PASS;
			goto ours;
		}
	} else {
		return XDP_PASS;
	}
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP && protocol != IPPROTO_SCTP)
		return XDP_PASS;
	if ((void *)(ports + 1) > end)
		return XDP_PASS;

	if (!wanted(&source, &dest, ports, protocol, self))
		return XDP_PASS;
ours:
	return bpf_redirect_map(&xsks_map, ctx->rx_queue_index, self->without_socket);
}

SEC("xdp")
int sluice_steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct interface *self;
	__u32 zero = 0;

	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	self = bpf_map_lookup_elem(&interface, &zero);
	if (!self || !same_mac(eth->h_dest, self->mac))
		return XDP_PASS;
	/* Does not come back if there is such a program. */
	bpf_tail_call(ctx, &offload, 0);
	return steer(ctx, self);
}

/* Goes on with what that one does not carry. */
SEC("xdp")
int sluice_rest(struct xdp_md *ctx)
{
	struct interface *self;
	__u32 zero = 0;

	self = bpf_map_lookup_elem(&interface, &zero);
	return self ? steer(ctx, self) : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
