/* Carries packets of established connections, as their worker would.
 *
 * The steering program of each interface calls this one for frames that are for
 * its MAC. A packet of a flow that a worker entered, and to which nothing
 * happens but what happens to most, is rewritten and sent out of another
 * interface here; every other goes back to the steering program as it came.
 * Nothing is changed before that is decided.
 *
 * What is rewritten is the worker's Rewrite (forward/mod.rs), byte for byte: a
 * test runs both on the same packets.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* All that follows must agree with offload/layout.rs. */

#define MOST_WORKERS 256
#define MOST_HOPS 65536
#define MOST_INTERFACES 64

/* As everywhere in the director, one of IPv4 is IPv4-mapped. */
struct address {
	__be32 word[4];
};

struct key_v4 {
	__be32 source;
	__be32 dest;
	__be16 source_port;
	__be16 dest_port;
	__u32 protocol;
};

struct key_v6 {
	struct address source;
	struct address dest;
	__be16 source_port;
	__be16 dest_port;
	__u32 protocol;
};

/* Rewrite::Keep, Replace and Encapsulate. */
#define KIND_KEEP 0
#define KIND_REPLACE 1
#define KIND_ENCAPSULATE 2

#define BETWEEN_NOTHING 0
#define BETWEEN_GUE 1
#define BETWEEN_GRE 2

struct flow {
	/* It is in force with this generation only. */
	__u32 generation;
	/* And while its place, which it shares with the answers, has this token. */
	__u32 token;
	__u32 place;
	__u16 hop;
	/* Who entered it, and has to be alive. */
	__u8 worker;
	__u8 kind;
	/* Which of the place's tallies it is counted by. */
	__u8 side;
	/* What is between the IP headers of a tunnel. */
	__u8 between;
	__u8 copy_dont_fragment;
	__u8 reserved;
	/* New ports; those of GUE for a tunnel of that kind. */
	__be16 source_port;
	__be16 dest_port;
	/* What is added to the sums, in the byte order of the packet; a hop less
	 * is in the first. */
	__u16 ip_delta;
	__u16 transport_delta;
	/* New addresses; those of the outer header for a tunnel. */
	struct address source;
	struct address dest;
};

struct next_hop {
	__u8 mac[6];
	__u8 source_mac[6];
	__u16 mtu;
	__be16 vlan;
	/* Place of the interface in the map of devices. */
	__u16 interface;
	__u16 reserved;
	/* 0 where packets cannot go. */
	__u32 usable;
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/* What both directions of a connection have in common: one cache line. */
struct place {
	/* The worker writes, the program reads. */
	__u64 token;
	/* The program writes its token here at a packet that may end the
	 * connection, and carries none of it any more.
	 */
	__u64 closed;
	/* The program adds, the worker reads. */
	struct tally side[2];
	__u64 reserved[2];
};

struct state {
	__u64 generation;
	/* Nanoseconds after which a worker is taken to be dead. */
	__u64 stale;
	/* When each was alive, nanoseconds of CLOCK_MONOTONIC. */
	__u64 alive[MOST_WORKERS];
};

/* The loader sets how many there may be. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key_v4);
	__type(value, struct flow);
} flows_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key_v6);
	__type(value, struct flow);
} flows_v6 SEC(".maps");

/* The director's memory, too: workers read it as it is. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct place);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct state);
} state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOST_HOPS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct next_hop);
} next_hops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, MOST_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* The director's number of an interface, by the kernel's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MOST_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} numbers SEC(".maps");

/* What each interface goes on with. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, MOST_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} steering SEC(".maps");

struct vlan_header {
	__be16 tci;
	__be16 protocol;
};

/* <linux/tcp.h> does not compile for BPF. */
struct tcp_header {
	__be16 source;
	__be16 dest;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__u16 checksum;
	__be16 urgent;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct gue_header {
	__u8 variant_length;
	__u8 protocol;
	__be16 flags;
};

struct gre_header {
	__be16 flags;
	__be16 protocol;
};

#define ECN_CE 3
#define ECN_ECT_0 2

/* What is known of a packet that may be carried. */
struct packet {
	/* Bytes before the IP header. */
	__u32 link;
	/* Bytes of the IP packet. */
	__u32 length;
	/* Of the IP header. */
	__u32 header;
	/* What the frame has behind the packet. */
	__u32 padding;
	__u8 is_v4;
	__u8 protocol;
	/* Whether it leaves its connection as it is. */
	__u8 plain;
	/* UDP of IPv6 without a checksum */
	__u8 unsummed;
};

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* RFC 1624, equation 3. */
static __always_inline __u16 updated(__u16 checksum, __u16 delta)
{
	return ~fold((__u32)(__u16)~checksum + delta);
}

static __always_inline __u32 header_sum(const struct iphdr *ip)
{
	const __u16 *word = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	return sum;
}

static __always_inline int is_mapped(const struct in6_addr *address)
{
	const __be32 *word = address->in6_u.u6_addr32;

	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

/* Whether the transport header is whole and sound, as packet.rs has it. */
static __always_inline int sound(void *transport, void *end, __u32 segment, struct packet *packet, __be16 *ports)
{
	if (packet->protocol == IPPROTO_TCP) {
		struct tcp_header *tcp = transport;
		__u32 length;

		if ((void *)(tcp + 1) > end)
			return 0;
		length = (tcp->offset >> 4) * 4;
		if (length < sizeof(*tcp) || length > segment)
			return 0;
		packet->plain = (tcp->flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK)) == TCP_ACK;
		ports[0] = tcp->source;
		ports[1] = tcp->dest;
		return 1;
	}
	if (packet->protocol == IPPROTO_UDP) {
		struct udphdr *udp = transport;
		__u32 length;

		if ((void *)(udp + 1) > end)
			return 0;
		length = bpf_ntohs(udp->len);
		if (length < sizeof(*udp) || length > segment)
			return 0;
		packet->plain = 1;
		packet->unsummed = !packet->is_v4 && udp->check == 0;
		ports[0] = udp->source;
		ports[1] = udp->dest;
		return 1;
	}
	return 0;
}

/* The flow goes to its worker from now on, and so does what answers it. */
static __always_inline void close_flow(const struct flow *flow)
{
	__u32 number = flow->place;
	struct place *place = bpf_map_lookup_elem(&places, &number);

	if (place)
		place->closed = flow->token;
}

/* The flow of a packet that is whole and sound; NULL if there is none. */
static __always_inline struct flow *inspect(void *data, void *end, struct packet *packet)
{
	struct ethhdr *eth = data;
	__be16 ports[2];
	__be16 type;
	void *l3;

	if ((void *)(eth + 1) > end)
		return 0;
	type = eth->h_proto;
	l3 = eth + 1;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) {
			struct vlan_header *vlan = l3;

			if ((void *)(vlan + 1) > end)
				return 0;
			type = vlan->protocol;
			l3 = vlan + 1;
		}
	}
	packet->link = l3 - data;
	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = l3;
		struct key_v4 key = {};

		if ((void *)(ip + 1) > end)
			return 0;
		packet->is_v4 = 1;
		packet->header = sizeof(*ip);
		packet->length = bpf_ntohs(ip->tot_len);
		packet->protocol = ip->protocol;
		if (*(__u8 *)ip != 0x45 || (ip->frag_off & bpf_htons(0x3fff)) || ip->ttl <= 1)
			return 0;
		if (packet->length < sizeof(*ip) || packet->length > end - l3 || fold(header_sum(ip)) != 0xffff)
			return 0;
		if (!sound(ip + 1, end, packet->length - sizeof(*ip), packet, ports))
			return 0;
		packet->padding = (end - l3) - packet->length;
		key.source = ip->saddr;
		key.dest = ip->daddr;
		key.source_port = ports[0];
		key.dest_port = ports[1];
		key.protocol = packet->protocol;
		return bpf_map_lookup_elem(&flows_v4, &key);
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = l3;
		struct key_v6 key = {};

		if ((void *)(ip + 1) > end)
			return 0;
		packet->is_v4 = 0;
		packet->header = sizeof(*ip);
		packet->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
		packet->protocol = ip->nexthdr;
		if (ip->version != 6 || ip->hop_limit <= 1 || packet->length > end - l3)
			return 0;
		if (is_mapped(&ip->saddr) || is_mapped(&ip->daddr))
			return 0;
		if (!sound(ip + 1, end, packet->length - sizeof(*ip), packet, ports))
			return 0;
		packet->padding = (end - l3) - packet->length;
		__builtin_memcpy(&key.source, &ip->saddr, sizeof(key.source));
		__builtin_memcpy(&key.dest, &ip->daddr, sizeof(key.dest));
		key.source_port = ports[0];
		key.dest_port = ports[1];
		key.protocol = packet->protocol;
		return bpf_map_lookup_elem(&flows_v6, &key);
	}
	return 0;
}

/* Gives the packet other addresses and ports, and takes a hop off. */
static __always_inline int rewrite(void *l3, void *end, const struct packet *packet, const struct flow *flow)
{
	int replaces = flow->kind == KIND_REPLACE;
	void *transport;

	if (packet->is_v4) {
		struct iphdr *ip = l3;

		if ((void *)(ip + 1) > end)
			return 0;
		if (replaces) {
			ip->saddr = flow->source.word[3];
			ip->daddr = flow->dest.word[3];
		}
		ip->ttl--;
		ip->check = updated(ip->check, flow->ip_delta);
		transport = ip + 1;
	} else {
		struct ipv6hdr *ip = l3;

		if ((void *)(ip + 1) > end)
			return 0;
		if (replaces) {
			__builtin_memcpy(&ip->saddr, &flow->source, sizeof(flow->source));
			__builtin_memcpy(&ip->daddr, &flow->dest, sizeof(flow->dest));
		}
		ip->hop_limit--;
		transport = ip + 1;
	}
	if (!replaces)
		return 1;
	if (packet->protocol == IPPROTO_TCP) {
		struct tcp_header *tcp = transport;

		if ((void *)(tcp + 1) > end)
			return 0;
		tcp->source = flow->source_port;
		tcp->dest = flow->dest_port;
		tcp->checksum = updated(tcp->checksum, flow->transport_delta);
	} else {
		struct udphdr *udp = transport;

		if ((void *)(udp + 1) > end)
			return 0;
		udp->source = flow->source_port;
		udp->dest = flow->dest_port;
		if (udp->check) {
			__u16 sum = updated(udp->check, flow->transport_delta);

			udp->check = sum ? sum : 0xffff;
		}
	}
	return 1;
}

/* What an outer header takes over from the packet in it. */
struct inner {
	__u8 tos;
	__u8 ttl;
	__be16 dont_fragment;
};

static __always_inline int look_into(void *l3, void *end, int is_v4, struct inner *inner)
{
	if (is_v4) {
		struct iphdr *ip = l3;

		if ((void *)(ip + 1) > end)
			return 0;
		inner->tos = ip->tos;
		inner->ttl = ip->ttl;
		inner->dont_fragment = ip->frag_off & bpf_htons(0x4000);
	} else {
		struct ipv6hdr *ip = l3;
		__u8 *byte = l3;

		if ((void *)(ip + 1) > end)
			return 0;
		inner->tos = (byte[0] << 4) | (byte[1] >> 4);
		inner->ttl = ip->hop_limit;
		inner->dont_fragment = 0;
	}
	if ((inner->tos & ECN_CE) == ECN_CE)
		inner->tos = (inner->tos & ~ECN_CE) | ECN_ECT_0;
	return 1;
}

static __always_inline __u32 between_length(__u8 between)
{
	if (between == BETWEEN_GUE)
		return sizeof(struct udphdr) + sizeof(struct gue_header);
	return between == BETWEEN_GRE ? sizeof(struct gre_header) : 0;
}

static __always_inline int is_v4_mapped(const struct address *address)
{
	return address->word[0] == 0 && address->word[1] == 0 && address->word[2] == bpf_htonl(0xffff);
}

/* Fills in what is between the headers. Returns the outer header's protocol, or
 * 0 where the frame is too short.
 */
static __always_inline __u8 fill_between(void *at, void *end, const struct packet *packet, const struct flow *flow)
{
	__u8 protocol = packet->is_v4 ? IPPROTO_IPIP : IPPROTO_IPV6;

	if (flow->between == BETWEEN_GUE) {
		struct udphdr *udp = at;
		struct gue_header *gue = (void *)(udp + 1);

		if ((void *)(gue + 1) > end)
			return 0;
		udp->source = flow->source_port;
		udp->dest = flow->dest_port;
		udp->len = bpf_htons(sizeof(*udp) + sizeof(*gue) + packet->length);
		udp->check = 0;
		gue->variant_length = 0;
		gue->protocol = protocol;
		gue->flags = 0;
		return IPPROTO_UDP;
	}
	if (flow->between == BETWEEN_GRE) {
		struct gre_header *gre = at;

		if ((void *)(gre + 1) > end)
			return 0;
		gre->flags = 0;
		gre->protocol = packet->is_v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
		return IPPROTO_GRE;
	}
	return protocol;
}

/* Fills in the headers that a tunnel puts before the packet, which is at inner. */
static __always_inline int encapsulate(void *l3, void *end, __u32 outer, __u32 more, const struct packet *packet,
				       const struct flow *flow, __u16 id)
{
	struct inner inner;
	__u8 protocol;

	if (!look_into(l3 + more, end, packet->is_v4, &inner))
		return 0;
	protocol = fill_between(l3 + outer, end, packet, flow);
	if (!protocol)
		return 0;
	if (outer == sizeof(struct iphdr)) {
		struct iphdr *ip = l3;

		if ((void *)(ip + 1) > end)
			return 0;
		*(__u8 *)ip = 0x45;
		ip->tos = inner.tos;
		ip->tot_len = bpf_htons(more + packet->length);
		ip->id = bpf_htons(id);
		ip->frag_off = flow->copy_dont_fragment ? inner.dont_fragment : 0;
		ip->ttl = inner.ttl;
		ip->protocol = protocol;
		ip->check = 0;
		ip->saddr = flow->source.word[3];
		ip->daddr = flow->dest.word[3];
		ip->check = ~fold(header_sum(ip));
	} else {
		struct ipv6hdr *ip = l3;
		__u8 *byte = l3;

		if ((void *)(ip + 1) > end)
			return 0;
		byte[0] = 0x60 | (inner.tos >> 4);
		byte[1] = inner.tos << 4;
		byte[2] = byte[3] = 0;
		ip->payload_len = bpf_htons(more - outer + packet->length);
		ip->nexthdr = protocol;
		ip->hop_limit = inner.ttl;
		__builtin_memcpy(&ip->saddr, &flow->source, sizeof(flow->source));
		__builtin_memcpy(&ip->daddr, &flow->dest, sizeof(flow->dest));
	}
	return 1;
}

/* Sends a packet on its way. Returns -1, and everything is as it was, if that
 * is its worker's to do.
 */
static __always_inline int carry(struct xdp_md *ctx, struct packet *packet, struct flow *flow)
{
	__u32 zero = 0, hop_number = flow->hop, number = flow->place;
	__u32 outer = 0, more = 0, link = ETH_HLEN;
	__u8 outer_is_v4 = packet->is_v4;
	struct next_hop *hop;
	struct place *place;
	struct tally *tally;
	struct state *now;
	void *data, *end, *l3;
	struct ethhdr *eth;
	int grows;
	__u16 id;

	now = bpf_map_lookup_elem(&state, &zero);
	if (!now || flow->generation != (__u32)now->generation)
		return -1;
	place = bpf_map_lookup_elem(&places, &number);
	if (!place || place->token != flow->token || place->closed == flow->token)
		return -1;
	if ((__s64)(bpf_ktime_get_coarse_ns() - now->alive[flow->worker]) > (__s64)now->stale)
		return -1;
	hop = bpf_map_lookup_elem(&next_hops, &hop_number);
	if (!hop || !hop->usable)
		return -1;
	if (flow->kind == KIND_ENCAPSULATE) {
		outer_is_v4 = is_v4_mapped(&flow->dest);
		outer = outer_is_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
		more = outer + between_length(flow->between);
	} else if (flow->kind == KIND_REPLACE && packet->unsummed) {
		return -1;
	}
	if (packet->length + more > hop->mtu)
		return -1;
	if (hop->vlan)
		link += sizeof(struct vlan_header);

	grows = (int)(link + more) - (int)packet->link;
	if (grows && bpf_xdp_adjust_head(ctx, -grows))
		return -1;
	/* From here on the frame is not what it was. */
	if (packet->padding && bpf_xdp_adjust_tail(ctx, -(int)packet->padding))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	tally = &place->side[flow->side & 1];
	id = tally->packets;
	l3 = data + link;
	if (!rewrite(l3 + more, end, packet, flow))
		return XDP_DROP;
	if (more && !encapsulate(l3, end, outer, more, packet, flow, id))
		return XDP_DROP;
	eth = data;
	if ((void *)(eth + 1) + sizeof(struct vlan_header) > end)
		return XDP_DROP;
	__builtin_memcpy(eth->h_dest, hop->mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hop->source_mac, ETH_ALEN);
	eth->h_proto = outer_is_v4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (hop->vlan) {
		struct vlan_header *vlan = (void *)(eth + 1);

		vlan->tci = hop->vlan;
		vlan->protocol = eth->h_proto;
		eth->h_proto = bpf_htons(ETH_P_8021Q);
	}
	__sync_fetch_and_add(&tally->packets, 1);
	__sync_fetch_and_add(&tally->bytes, packet->length);
	return bpf_redirect_map(&devices, hop->interface, XDP_DROP);
}

SEC("xdp")
int sluice_offload(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct packet packet = {};
	__u32 ifindex, *number;
	struct flow *flow;

	flow = inspect(data, end, &packet);
	if (flow) {
		int verdict = -1;

		if (packet.plain)
			verdict = carry(ctx, &packet, flow);
		else
			close_flow(flow);
		if (verdict >= 0)
			return verdict;
	}
	ifindex = ctx->ingress_ifindex;
	number = bpf_map_lookup_elem(&numbers, &ifindex);
	if (number)
		bpf_tail_call(ctx, &steering, *number);
	/* The director is about to end, and its interface about to be left. */
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
