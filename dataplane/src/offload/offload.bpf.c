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

/* All that follows must agree with offload/layout.rs, slot.rs and table.rs. */

#define MOST_WORKERS 256
#define MOST_HOPS 65536
#define MOST_INTERFACES 64

/* A flow is in its home slot, or 1, 3, 6, 10 and so on behind it: in the middle of
 * those of other homes, and not where theirs would be. */
#define WINDOW 16

/* As everywhere in the director, one of IPv4 is IPv4-mapped. */
struct address {
	__be32 word[4];
};

/* In the kind of a slot: Rewrite::Keep, Replace and Encapsulate. */
#define KIND_REPLACE 0x01
#define KIND_ENCAPSULATE 0x02
/* What is between the IP headers of a tunnel. */
#define BETWEEN_GUE 0x04
#define BETWEEN_GRE 0x08
#define COPY_DONT_FRAGMENT 0x10
#define OUTER_IS_V6 0x20

/* What is known of a flow whatever its family is. The worker that has the slot
 * writes it before the term, and then only the term and what is its own; the
 * program writes what it is said to.
 */
struct slot {
	/* The generation under which the flow is in force, and the token of its
	 * connection: the same in the slot of what answers. Generation 0 is never
	 * in force; all 0 is nobody's. The token's highest byte is the worker that
	 * entered it, and has to be alive.
	 */
	__u32 generation;
	__u32 token;
	/* Part of the key, with the addresses */
	__be16 source_port;
	__be16 dest_port;
	__u8 protocol;
	__u8 kind;
	/* The worker's: how often it looked in vain */
	__u8 rounds;
	/* The program sets it at a packet that may end the connection. */
	__u8 closed;
	/* The slot of what answers, in the same table; for a tunnel of IPv4 in
	 * IPv6, that of the table for IPv6 that has the outer addresses.
	 */
	__u32 peer;
	__u16 hop;
	/* Which of the slots of its window have one that has its home here. Whoever
	 * has such a slot writes its bit.
	 */
	__u16 near;
	/* New ports; those of GUE for a tunnel of that kind. */
	__be16 new_source_port;
	__be16 new_dest_port;
	/* What is added to the sums, in the byte order of the packet; a hop less
	 * is in the first. */
	__u16 ip_delta;
	__u16 transport_delta;
	/* The program adds packets, from bit PACKET_SHIFT on, and their bytes; the
	 * worker takes them.
	 */
	__u64 carried;
	/* The worker's */
	__u32 connection;
	__u32 server;
};

#define PACKET_SHIFT 38

/* A cache line */
struct slot_v4 {
	struct slot slot;
	__be32 source;
	__be32 dest;
	/* New ones; those of the outer header for a tunnel. */
	__be32 new_source;
	__be32 new_dest;
};

/* Two */
struct slot_v6 {
	struct slot slot;
	struct address source;
	struct address dest;
	struct address new_source;
	struct address new_dest;
	__u64 reserved[2];
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

#define SEEDS 10

struct state {
	__u64 generation;
	/* Nanoseconds after which a worker is taken to be dead. */
	__u64 stale;
	/* Slots that are home to flows. */
	__u64 homes_v4;
	__u64 homes_v6;
	/* What the place of a flow is made by, too. */
	__u64 seed[SEEDS];
	/* When each was alive, nanoseconds of CLOCK_MONOTONIC. */
	__u64 alive[MOST_WORKERS];
};

/* The loader sets how many slots there are. All four are the director's memory,
 * too.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WINDOW);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct slot_v4);
} flows_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WINDOW);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct slot_v6);
} flows_v6 SEC(".maps");

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

/* What the outer header of a tunnel is given for fragments of it to be told by:
 * counted by each CPU, over all tunnels.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} identification SEC(".maps");

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
	__be16 source_port;
	__be16 dest_port;
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

/* Of a header of IPv4 without options, so that the sum of a sound one is 0xffff. */
static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return fold(sum);
}

static __always_inline int is_mapped(const struct in6_addr *address)
{
	const __be32 *word = address->in6_u.u6_addr32;

	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

/* Whether the transport header is whole and sound, as packet.rs has it. */
static __always_inline int sound(void *transport, void *end, __u32 segment, struct packet *packet)
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
		packet->source_port = tcp->source;
		packet->dest_port = tcp->dest;
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
		packet->source_port = udp->source;
		packet->dest_port = udp->dest;
		return 1;
	}
	return 0;
}

/* What comes before in the program is done before what comes after. Loads, that
 * is: on x86 they are anyway. Elsewhere an atomic instruction that gives a value
 * back is what orders them.
 */
#ifdef LOADS_IN_ORDER
#define in_order(slot) asm volatile("" : : : "memory")
#else
#define in_order(slot)                                                  \
	({                                                              \
		__u64 before = __sync_fetch_and_add(&(slot)->carried, 0); \
		asm volatile("" : : "r"(before) : "memory");            \
	})
#endif

static __always_inline __u64 term_of(const struct slot *slot)
{
	return *(const volatile __u64 *)&slot->generation;
}

/* The slot in the middle of homes to which a sum of products of the key and the
 * seed leads (table.rs).
 */
static __always_inline __u32 home_of(__u64 sum, __u64 homes)
{
	sum ^= sum >> 32;
	sum *= 0x9e3779b97f4a7c15;
	return ((sum >> 32) * homes) >> 32;
}

static __always_inline __u64 of_ports(const struct packet *packet, const __u64 *seed)
{
	__u32 ports = packet->source_port | (__u32)packet->dest_port << 16;

	return (seed[0] + ports) * (seed[1] + packet->protocol);
}

static __always_inline int has_ports(const struct slot *slot, const struct packet *packet)
{
	return slot->source_port == packet->source_port && slot->dest_port == packet->dest_port &&
	       slot->protocol == packet->protocol;
}

/* A flow that is in force, and the term under which it is. */
struct found {
	struct slot *slot;
	__u64 term;
};

/* The slot at a place of the table of a family. */
static __always_inline struct slot *slot_at(int is_v4, __u32 place)
{
	if (is_v4) {
		struct slot_v4 *v4 = bpf_map_lookup_elem(&flows_v4, &place);

		return v4 ? &v4->slot : 0;
	} else {
		struct slot_v6 *v6 = bpf_map_lookup_elem(&flows_v6, &place);

		return v6 ? &v6->slot : 0;
	}
}

static __always_inline int same_address(const struct address *a, const struct in6_addr *b)
{
	const __be32 *word = b->in6_u.u6_addr32;

	return a->word[0] == word[0] && a->word[1] == word[1] && a->word[2] == word[2] && a->word[3] == word[3];
}

/* Whether a slot has the addresses of a packet, whose header this is. */
static __always_inline int has_addresses(int is_v4, const struct slot *slot, const void *header)
{
	if (is_v4) {
		const struct slot_v4 *v4 = (const struct slot_v4 *)slot;
		const struct iphdr *ip = header;

		return v4->source == ip->saddr && v4->dest == ip->daddr;
	} else {
		const struct slot_v6 *v6 = (const struct slot_v6 *)slot;
		const struct ipv6hdr *ip = header;

		return same_address(&v6->source, &ip->saddr) && same_address(&v6->dest, &ip->daddr);
	}
}

/* Whether the flow at a slot is that of a packet, and in force. What is read of it
 * afterwards is of that flow if its term is still the same then.
 */
static __always_inline int is_flow(int is_v4, struct slot *slot, const void *header, const struct packet *packet,
				   __u32 generation, struct found *found)
{
	found->slot = slot;
	found->term = term_of(slot);
	if ((__u32)found->term != generation)
		return 0;
	in_order(slot);
	return has_addresses(is_v4, slot, header) && has_ports(slot, packet);
}

/* Goes through the window of a home. */
static __always_inline int find(int is_v4, __u32 place, const void *header, const struct packet *packet,
				__u32 generation, struct found *found)
{
	struct slot *slot = slot_at(is_v4, place);
	__u16 near;

	if (!slot)
		return 0;
	near = slot->near;
	if ((near & 1) && is_flow(is_v4, slot, header, packet, generation, found))
		return 1;
	for (int i = 1; i < WINDOW; i++) {
		near >>= 1;
		if (!near)
			return 0;
		place += i;
		slot = slot_at(is_v4, place);
		if (!slot)
			return 0;
		if ((near & 1) && is_flow(is_v4, slot, header, packet, generation, found))
			return 1;
	}
	return 0;
}

static __always_inline int find_v4(const struct iphdr *ip, const struct packet *packet, const struct state *now,
				   struct found *found)
{
	const __u64 *seed = now->seed;
	__u64 sum = (seed[2] + ip->saddr) * (seed[3] + ip->daddr) + of_ports(packet, seed);

	return find(1, home_of(sum, now->homes_v4), ip, packet, now->generation, found);
}

static __always_inline int find_v6(const struct ipv6hdr *ip, const struct packet *packet, const struct state *now,
				   struct found *found)
{
	const __be32 *source = ip->saddr.in6_u.u6_addr32, *dest = ip->daddr.in6_u.u6_addr32;
	const __u64 *seed = now->seed;
	__u64 sum = (seed[2] + source[0]) * (seed[3] + source[1]) + (seed[4] + source[2]) * (seed[5] + source[3]) +
		    (seed[6] + dest[0]) * (seed[7] + dest[1]) + (seed[8] + dest[2]) * (seed[9] + dest[3]) +
		    of_ports(packet, seed);

	return find(0, home_of(sum, now->homes_v6), ip, packet, now->generation, found);
}

/* The flow goes to its worker from now on, and so does what answers it. */
static __always_inline void close_flow(const struct found *found, const struct packet *packet)
{
	struct slot *slot = found->slot, *peer;
	__u32 place = slot->peer;

	in_order(slot);
	if (term_of(slot) != found->term)
		return;
	slot->closed = 1;
	peer = slot_at(packet->is_v4, place);
	if (peer && term_of(peer) == found->term)
		peer->closed = 1;
}

/* Whether there is a flow of the packet, and it is whole and sound. */
static __always_inline int inspect(void *data, void *end, const struct state *now, struct packet *packet,
				   struct found *found)
{
	struct ethhdr *eth = data;
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

		if ((void *)(ip + 1) > end)
			return 0;
		packet->is_v4 = 1;
		packet->header = sizeof(*ip);
		packet->length = bpf_ntohs(ip->tot_len);
		packet->protocol = ip->protocol;
		if (*(__u8 *)ip != 0x45 || (ip->frag_off & bpf_htons(0x3fff)) || ip->ttl <= 1)
			return 0;
		if (packet->length < sizeof(*ip) || packet->length > end - l3 || header_sum(ip) != 0xffff)
			return 0;
		if (!sound(ip + 1, end, packet->length - sizeof(*ip), packet))
			return 0;
		packet->padding = (end - l3) - packet->length;
		return find_v4(ip, packet, now, found);
	}
	if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = l3;

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
		if (!sound(ip + 1, end, packet->length - sizeof(*ip), packet))
			return 0;
		packet->padding = (end - l3) - packet->length;
		return find_v6(ip, packet, now, found);
	}
	return 0;
}

/* What is done to the packets of a flow. */
struct action {
	struct address source;
	struct address dest;
	__be16 source_port;
	__be16 dest_port;
	__u16 ip_delta;
	__u16 transport_delta;
	__u16 hop;
	__u8 kind;
	__u8 worker;
};

/* Reads it. Returns whether it is that of the flow that was found: its worker may
 * take it out, and another enter one, at any time.
 */
static __always_inline int read_action(const struct found *found, const struct packet *packet, struct action *action)
{
	struct slot *slot = found->slot;
	__u32 place = slot->peer;

	action->source_port = slot->new_source_port;
	action->dest_port = slot->new_dest_port;
	action->ip_delta = slot->ip_delta;
	action->transport_delta = slot->transport_delta;
	action->hop = slot->hop;
	action->kind = slot->kind;
	action->worker = slot->token >> 24;
	if (slot->closed)
		return 0;
	if (!packet->is_v4) {
		struct slot_v6 *v6 = (struct slot_v6 *)slot;

		action->source = v6->new_source;
		action->dest = v6->new_dest;
	} else if (action->kind & OUTER_IS_V6) {
		struct slot_v6 *more = bpf_map_lookup_elem(&flows_v6, &place);

		if (!more || term_of(&more->slot) != found->term)
			return 0;
		in_order(slot);
		action->source = more->new_source;
		action->dest = more->new_dest;
		in_order(slot);
		if (term_of(&more->slot) != found->term)
			return 0;
	} else {
		struct slot_v4 *v4 = (struct slot_v4 *)slot;

		action->source.word[3] = v4->new_source;
		action->dest.word[3] = v4->new_dest;
	}
	in_order(slot);
	return term_of(slot) == found->term;
}

/* Gives the packet other addresses and ports, and takes a hop off. */
static __always_inline int rewrite(void *l3, void *end, const struct packet *packet, const struct action *flow)
{
	int replaces = flow->kind & KIND_REPLACE;
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

static __always_inline __u32 between_length(__u8 kind)
{
	if (kind & BETWEEN_GUE)
		return sizeof(struct udphdr) + sizeof(struct gue_header);
	return kind & BETWEEN_GRE ? sizeof(struct gre_header) : 0;
}

/* Fills in what is between the headers. Returns the outer header's protocol, or
 * 0 where the frame is too short.
 */
static __always_inline __u8 fill_between(void *at, void *end, const struct packet *packet, const struct action *flow)
{
	__u8 protocol = packet->is_v4 ? IPPROTO_IPIP : IPPROTO_IPV6;

	if (flow->kind & BETWEEN_GUE) {
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
	if (flow->kind & BETWEEN_GRE) {
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
				       const struct action *flow, __u16 id)
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
		ip->frag_off = flow->kind & COPY_DONT_FRAGMENT ? inner.dont_fragment : 0;
		ip->ttl = inner.ttl;
		ip->protocol = protocol;
		ip->check = 0;
		ip->saddr = flow->source.word[3];
		ip->daddr = flow->dest.word[3];
		ip->check = ~header_sum(ip);
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
static __always_inline int carry(struct xdp_md *ctx, struct packet *packet, const struct state *now,
				 const struct found *found)
{
	__u32 outer = 0, more = 0, link = ETH_HLEN, hop_number;
	struct slot *slot = found->slot;
	__u8 outer_is_v4 = packet->is_v4;
	struct action action, *flow = &action;
	struct next_hop *hop;
	void *data, *end, *l3;
	struct ethhdr *eth;
	int grows;
	__u32 zero = 0, *next;
	__u16 id = 0;

	if (!read_action(found, packet, flow))
		return -1;
	if ((__s64)(bpf_ktime_get_coarse_ns() - now->alive[flow->worker]) > (__s64)now->stale)
		return -1;
	hop_number = flow->hop;
	hop = bpf_map_lookup_elem(&next_hops, &hop_number);
	if (!hop || !hop->usable)
		return -1;
	if (flow->kind & KIND_ENCAPSULATE) {
		outer_is_v4 = !(flow->kind & OUTER_IS_V6);
		outer = outer_is_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
		more = outer + between_length(flow->kind);
		next = bpf_map_lookup_elem(&identification, &zero);
		if (!next)
			return -1;
		/* The CPUs begin far from each other. */
		id = (*next)++ + bpf_get_smp_processor_id() * 0x9e37;
	} else if ((flow->kind & KIND_REPLACE) && packet->unsummed) {
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
	__sync_fetch_and_add(&slot->carried, (1ull << PACKET_SHIFT) + packet->length);
	return bpf_redirect_map(&devices, hop->interface, XDP_DROP);
}

SEC("xdp")
int sluice_offload(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0, ifindex, *number;
	struct packet packet = {};
	struct found found;
	struct state *now;

	now = bpf_map_lookup_elem(&state, &zero);
	if (now && inspect(data, end, now, &packet, &found)) {
		int verdict = -1;

		if (packet.plain)
			verdict = carry(ctx, &packet, now, &found);
		else
			close_flow(&found, &packet);
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
