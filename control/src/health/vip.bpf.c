/* Takes checks of a VIP to the server that is asked: what the director does to
 * clients' packets, done to those of its own checks.
 *
 * A check is a connection of the kernel's to the server's own address, by which
 * it is routed. On the way out the VIP becomes its destination, and with a
 * tunnel it is wrapped in IP for the server (RFC 2003, RFC 2473); on the way in
 * the VIP as the source becomes the server's address again. Which packets these
 * are is said by the check's port, which it has for itself while it lasts.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* IPv4 is IPv4-mapped, as in all maps. */
struct address {
	__be32 word[4];
};

struct flow {
	struct address server;
	struct address vip;
	/* 1 if packets are to be wrapped for the server */
	__u32 tunnel;
	/* 1 once a packet went out so */
	__u32 seen;
};

struct key {
	__be16 port;
	__u8 protocol;
	__u8 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct key);
	__type(value, struct flow);
} sluice_vip SEC(".maps");

#define PORT_OFFSET(out) ((out) ? 0 : 2)
#define TTL 64
#define FRAGMENT 0x3fff

static __always_inline struct flow *find(struct __sk_buff *skb, __u8 protocol, int transport, int out)
{
	struct key key = { .protocol = protocol };

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, transport + PORT_OFFSET(out), &key.port, sizeof(key.port)))
		return 0;
	return bpf_map_lookup_elem(&sluice_vip, &key);
}

static __always_inline int is(const struct address *a, const __be32 *word, int words)
{
	if (words == 1)
		return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff) &&
		       a->word[3] == word[0];
	return a->word[0] == word[0] && a->word[1] == word[1] && a->word[2] == word[2] &&
	       a->word[3] == word[3];
}

static __always_inline int checksum_offset(__u8 protocol, int transport)
{
	return transport + (protocol == IPPROTO_TCP ? 16 : 6);
}

/* 0 if it was done. */
static __always_inline int rewrite4(struct __sk_buff *skb, int field, __u8 protocol, int transport,
				    __be32 from, __be32 to)
{
	__u64 flags = BPF_F_PSEUDO_HDR | sizeof(to);

	if (protocol == IPPROTO_UDP)
		flags |= BPF_F_MARK_MANGLED_0;
	if (bpf_l4_csum_replace(skb, checksum_offset(protocol, transport), from, to, flags))
		return -1;
	if (bpf_l3_csum_replace(skb, ETH_HLEN + offsetof(struct iphdr, check), from, to, sizeof(to)))
		return -1;
	return bpf_skb_store_bytes(skb, field, &to, sizeof(to), 0);
}

static __always_inline int rewrite6(struct __sk_buff *skb, int field, __u8 protocol, int transport,
				    const struct address *from, const struct address *to, __u64 pseudo)
{
	__u64 flags = pseudo | sizeof(to->word[0]);

#pragma unroll
	for (int i = 0; i < 4; i++)
		if (bpf_l4_csum_replace(skb, checksum_offset(protocol, transport), from->word[i], to->word[i],
					flags))
			return -1;
	return bpf_skb_store_bytes(skb, field, to, sizeof(*to), 0);
}

static __always_inline int wrap4(struct __sk_buff *skb, __be32 source, __be32 server)
{
	struct iphdr outer = {
		.version = 4,
		.ihl = sizeof(outer) / 4,
		.ttl = TTL,
		.protocol = IPPROTO_IPIP,
		.saddr = source,
		.daddr = server,
		.tot_len = bpf_htons(skb->len - ETH_HLEN + sizeof(outer)),
	};
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	__s64 sum = bpf_csum_diff(0, 0, (__be32 *)&outer, sizeof(outer), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	outer.check = ~sum;
	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0);
}

static __always_inline int wrap6(struct __sk_buff *skb, const struct address *source,
				 const struct address *server)
{
	struct ipv6hdr outer = {
		.version = 6,
		.hop_limit = TTL,
		.nexthdr = IPPROTO_IPV6,
		.payload_len = bpf_htons(skb->len - ETH_HLEN),
	};
	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

	__builtin_memcpy(&outer.saddr, source, sizeof(*source));
	__builtin_memcpy(&outer.daddr, server, sizeof(*server));
	if (bpf_skb_adjust_room(skb, sizeof(outer), BPF_ADJ_ROOM_MAC, flags))
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, sizeof(outer), 0);
}

static __always_inline int out4(struct __sk_buff *skb)
{
	int transport = ETH_HLEN + sizeof(struct iphdr);
	struct iphdr ip;
	struct flow *flow;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.ihl != sizeof(ip) / 4 ||
	    (ip.frag_off & bpf_htons(FRAGMENT)))
		return TC_ACT_UNSPEC;
	flow = find(skb, ip.protocol, transport, 1);
	if (!flow || !is(&flow->server, &ip.daddr, 1))
		return TC_ACT_UNSPEC;
	if (rewrite4(skb, ETH_HLEN + offsetof(struct iphdr, daddr), ip.protocol, transport, ip.daddr,
		     flow->vip.word[3]))
		return TC_ACT_SHOT;
	if (flow->tunnel && wrap4(skb, ip.saddr, ip.daddr))
		return TC_ACT_SHOT;
	flow->seen = 1;
	return TC_ACT_UNSPEC;
}

static __always_inline int out6(struct __sk_buff *skb)
{
	int transport = ETH_HLEN + sizeof(struct ipv6hdr);
	struct address source, server;
	struct ipv6hdr ip;
	struct flow *flow;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	flow = find(skb, ip.nexthdr, transport, 1);
	if (!flow)
		return TC_ACT_UNSPEC;
	__builtin_memcpy(&source, &ip.saddr, sizeof(source));
	__builtin_memcpy(&server, &ip.daddr, sizeof(server));
	if (!is(&flow->server, server.word, 4))
		return TC_ACT_UNSPEC;
	if (rewrite6(skb, ETH_HLEN + offsetof(struct ipv6hdr, daddr), ip.nexthdr, transport, &server,
		     &flow->vip, BPF_F_PSEUDO_HDR))
		return TC_ACT_SHOT;
	if (flow->tunnel && wrap6(skb, &source, &server))
		return TC_ACT_SHOT;
	flow->seen = 1;
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int sluice_vip_out(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return out4(skb);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return out6(skb);
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int sluice_vip_in(struct __sk_buff *skb)
{
	struct flow *flow;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		int transport = ETH_HLEN + sizeof(struct iphdr);
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.ihl != sizeof(ip) / 4 ||
		    (ip.frag_off & bpf_htons(FRAGMENT)))
			return TC_ACT_UNSPEC;
		flow = find(skb, ip.protocol, transport, 0);
		if (!flow || !is(&flow->vip, &ip.saddr, 1))
			return TC_ACT_UNSPEC;
		if (rewrite4(skb, ETH_HLEN + offsetof(struct iphdr, saddr), ip.protocol, transport, ip.saddr,
			     flow->server.word[3]))
			return TC_ACT_SHOT;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		int transport = ETH_HLEN + sizeof(struct ipv6hdr);
		struct ipv6hdr ip;
		struct address vip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return TC_ACT_UNSPEC;
		flow = find(skb, ip.nexthdr, transport, 0);
		if (!flow)
			return TC_ACT_UNSPEC;
		__builtin_memcpy(&vip, &ip.saddr, sizeof(vip));
		if (!is(&flow->vip, vip.word, 4))
			return TC_ACT_UNSPEC;
		/* Without "pseudo header": a sum over the whole packet by the
		 * NIC stays what it was, as address and checksum change by
		 * opposite amounts. */
		if (rewrite6(skb, ETH_HLEN + offsetof(struct ipv6hdr, saddr), ip.nexthdr, transport, &vip,
			     &flow->server, 0))
			return TC_ACT_SHOT;
	}
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
