// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// Hands every packet to the AF_XDP socket of its queue.
#include "traffic/bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, 64);
    __type(key, __u32);
    __type(value, __u32);
} xsks_map SEC(".maps");

SEC("xdp")
int limit(struct xdp_md *context)
{
    return bpf_redirect_map(&xsks_map, context->rx_queue_index, XDP_PASS);
}

char _license[] SEC("license") = "Dual BSD/GPL";
