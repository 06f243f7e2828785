// The decapsulator of a TUN real server: IPv4 or IPv6 in either of the two
// (RFC 2003, RFC 2473, RFC 4213).
//
// Takes the outer header off packets that a director wrapped for one of our
// VIPs, before the kernel sees them, so that no ipip, sit or ip6_tunnel module
// is needed. All else passes as it is.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#define SEC(name) __attribute__((section(name), used))
#define ALWAYS_INLINE inline __attribute__((always_inline))
// A map attribute is carried in the type information, as the length of an
// array behind a pointer.
#define MAP_NUMBER(name, value) int (*name)[value]
#define MAP_TYPE(name, value) typeof(value) *name

// Values of include/uapi/linux/bpf.h.
#define BPF_MAP_TYPE_HASH 1
#define XDP_DROP 1
#define XDP_PASS 2
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const adjust_head)(void *xdp, int delta) = (void *)44;

struct xdp_md {
    u32 data;
    u32 data_end;
    u32 data_meta;
    u32 ingress_ifindex;
    u32 rx_queue_index;
    u32 egress_ifindex;
};

struct ipv4 {
    u8 version_length;
    u8 tos;
    u16 total_length;
    u16 identification;
    u16 fragment;
    u8 ttl;
    u8 protocol;
    u16 checksum;
    u32 source;
    u32 destination;
};

// As the maps have it: IPv4 is IPv4-mapped.
struct address {
    u32 word[4];
};

struct ipv6 {
    // Version, upper half of the traffic class; its lower half, flow label.
    u8 version_class;
    u8 class_flow;
    u16 flow;
    u16 payload_length;
    u8 next_header;
    u8 hop_limit;
    struct address source;
    struct address destination;
};

#define ETHERNET 14
#define TAGGED 18
#define OUTER4 ((int)sizeof(struct ipv4))
#define OUTER6 ((int)sizeof(struct ipv6))
#define IPPROTO_IPIP 4
#define IPPROTO_IPV6 41
#define ECN_MASK 3
#define ECN_CE 3
// Where the second byte of an IPv6 header has them.
#define ECN_SHIFT_V6 4

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SWAP16(x) __builtin_bswap16(x)
#else
#define SWAP16(x) (x)
#endif
#define ETHERTYPE_IPV4 SWAP16(0x0800)
#define ETHERTYPE_IPV6 SWAP16(0x86dd)
#define ETHERTYPE_VLAN SWAP16(0x8100)
// "More fragments" and the offset; "don't fragment" does not matter.
#define FRAGMENT SWAP16(0x3fff)

// Addresses in network order. The control side finds the maps by their names.
struct {
    MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
    MAP_NUMBER(max_entries, 1024);
    MAP_TYPE(key, struct address);
    MAP_TYPE(value, u32);
} sluice_rs_vips SEC(".maps");

// Addresses of this machine, which tunnelled packets may be sent to.
struct {
    MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
    MAP_NUMBER(max_entries, 4096);
    MAP_TYPE(key, struct address);
    MAP_TYPE(value, u32);
} sluice_rs_local SEC(".maps");

// Whether the checksum of a header without options is right. The kernel will
// not look at a header that we take off.
static ALWAYS_INLINE int checksum_holds(const struct ipv4 *ip)
{
    const u16 *word = (const u16 *)ip;
    u32 sum = 0;
#pragma unroll
    for (int i = 0; i < OUTER4 / 2; i++)
        sum += word[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum == 0xffff;
}

// Tells the receiver of congestion that the tunnel has seen (RFC 6040, figure
// 4), with the checksum brought up to date (RFC 1624, equation 3).
static ALWAYS_INLINE void mark_congestion(struct ipv4 *inner)
{
    u16 before = (u16)(inner->version_length << 8 | inner->tos);
    u16 after = before | ECN_CE;
    u32 sum = (u16)~SWAP16(inner->checksum);
    sum += (u16)~before;
    sum += after;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    inner->tos |= ECN_CE;
    inner->checksum = SWAP16((u16)~sum);
}

static ALWAYS_INLINE struct address mapped(u32 v4)
{
    struct address address = {};
    ((u16 *)address.word)[5] = 0xffff;
    address.word[3] = v4;
    return address;
}

// Tells an inner IPv4 packet for one of our VIPs what the outer header has
// seen. Returns what is to become of the packet: -1 to unwrap it.
static ALWAYS_INLINE int admit_v4(struct ipv4 *inner, const u8 *end, u8 outer_ecn)
{
    if ((const u8 *)(inner + 1) > end || inner->version_length >> 4 != 4)
        return XDP_PASS;
    struct address vip = mapped(inner->destination);
    if (!map_lookup(&sluice_rs_vips, &vip))
        return XDP_PASS;
    if (outer_ecn == ECN_CE) {
        if (!(inner->tos & ECN_MASK))
            return XDP_DROP;
        mark_congestion(inner);
    }
    return -1;
}

// The same for IPv6, which has no checksum.
static ALWAYS_INLINE int admit_v6(struct ipv6 *inner, const u8 *end, u8 outer_ecn)
{
    if ((const u8 *)(inner + 1) > end || inner->version_class >> 4 != 6)
        return XDP_PASS;
    struct address vip = inner->destination;
    if (!map_lookup(&sluice_rs_vips, &vip))
        return XDP_PASS;
    if (outer_ecn == ECN_CE) {
        if (!(inner->class_flow >> ECN_SHIFT_V6 & ECN_MASK))
            return XDP_DROP;
        inner->class_flow |= ECN_CE << ECN_SHIFT_V6;
    }
    return -1;
}

// Unwraps a packet whose outer header of `outer` bytes was looked at.
static ALWAYS_INLINE int unwrap(struct xdp_md *xdp, const int link_length, const int outer, u8 protocol,
                                u8 outer_ecn)
{
    u8 *data = (u8 *)(long)xdp->data;
    const u8 *end = (const u8 *)(long)xdp->data_end;
    void *inner = data + link_length + outer;
    int verdict = XDP_PASS;

    if (protocol == IPPROTO_IPIP)
        verdict = admit_v4(inner, end, outer_ecn);
    else if (protocol == IPPROTO_IPV6)
        verdict = admit_v6(inner, end, outer_ecn);
    if (verdict >= 0)
        return verdict;

    u8 header[TAGGED];
    if (data + link_length > end)
        return XDP_DROP;
    __builtin_memcpy(header, data, link_length);
    *(u16 *)(header + link_length - 2) = protocol == IPPROTO_IPIP ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
    if (adjust_head(xdp, outer))
        return XDP_DROP;
    data = (u8 *)(long)xdp->data;
    end = (const u8 *)(long)xdp->data_end;
    if (data + link_length > end)
        return XDP_DROP;
    __builtin_memcpy(data, header, link_length);
    return XDP_PASS;
}

static ALWAYS_INLINE int in_v4(struct xdp_md *xdp, const int link_length)
{
    const u8 *end = (const u8 *)(long)xdp->data_end;
    struct ipv4 *outer = (struct ipv4 *)((u8 *)(long)xdp->data + link_length);

    if ((const u8 *)(outer + 1) > end)
        return XDP_PASS;
    if (outer->version_length != 0x45 || outer->fragment & FRAGMENT)
        return XDP_PASS;
    u32 length = SWAP16(outer->total_length);
    if (length < 2 * OUTER4 || length > (u32)(end - (const u8 *)outer))
        return XDP_PASS;
    struct address to = mapped(outer->destination);
    if (!map_lookup(&sluice_rs_local, &to) || !checksum_holds(outer))
        return XDP_PASS;
    return unwrap(xdp, link_length, OUTER4, outer->protocol, outer->tos & ECN_MASK);
}

static ALWAYS_INLINE int in_v6(struct xdp_md *xdp, const int link_length)
{
    const u8 *end = (const u8 *)(long)xdp->data_end;
    struct ipv6 *outer = (struct ipv6 *)((u8 *)(long)xdp->data + link_length);

    if ((const u8 *)(outer + 1) > end || outer->version_class >> 4 != 6)
        return XDP_PASS;
    u32 length = SWAP16(outer->payload_length);
    if (length < OUTER4 || length > (u32)(end - (const u8 *)(outer + 1)))
        return XDP_PASS;
    struct address to = outer->destination;
    if (!map_lookup(&sluice_rs_local, &to))
        return XDP_PASS;
    return unwrap(xdp, link_length, OUTER6, outer->next_header,
                  outer->class_flow >> ECN_SHIFT_V6 & ECN_MASK);
}

SEC("xdp")
int sluice_decap(struct xdp_md *xdp)
{
    const u8 *data = (const u8 *)(long)xdp->data;
    const u8 *end = (const u8 *)(long)xdp->data_end;

    if (data + TAGGED > end)
        return XDP_PASS;
    u16 type = *(const u16 *)(data + 12);
    if (type == ETHERTYPE_IPV4)
        return in_v4(xdp, ETHERNET);
    if (type == ETHERTYPE_IPV6)
        return in_v6(xdp, ETHERNET);
    if (type != ETHERTYPE_VLAN)
        return XDP_PASS;
    type = *(const u16 *)(data + 16);
    if (type == ETHERTYPE_IPV4)
        return in_v4(xdp, TAGGED);
    if (type == ETHERTYPE_IPV6)
        return in_v6(xdp, TAGGED);
    return XDP_PASS;
}

char sluice_rs_license[] SEC("license") = "Apache-2.0";
