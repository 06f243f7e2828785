// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// The traffic sink: counts UDP, TCP and IP-in-IP over IPv4 and drops it. The rest, ARP above all, goes to the kernel.
#include "bpf.h"

#define IPPROTO_IPIP 4

struct count {
    __u64 packets;
    __u64 bytes;
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct count);
} total SEC(".maps");

// By destination address, as in the packet.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, struct count);
} destinations SEC(".maps");

const volatile __u8 by_destination = 0;

static __always_inline void add(struct count *count, __u64 bytes)
{
    count->packets++;
    count->bytes += bytes;
}

SEC("xdp")
int sink(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    struct ethernet *eth = data;
    struct ipv4 *ip = (void *)(eth + 1);
    if ((void *)(ip + 1) > end || eth->type != htons(ETH_P_IP))
        return XDP_PASS;
    if (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_IPIP)
        return XDP_PASS;

    __u64 bytes = end - data;
    __u32 key = 0;
    struct count *count = bpf_map_lookup_elem(&total, &key);
    if (count)
        add(count, bytes);
    if (by_destination) {
        __u32 destination = ip->destination;
        count = bpf_map_lookup_elem(&destinations, &destination);
        if (count) {
            add(count, bytes);
        } else {
            struct count first = {.packets = 1, .bytes = bytes};
            bpf_map_update_elem(&destinations, &destination, &first, BPF_NOEXIST);
        }
    }
    return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
