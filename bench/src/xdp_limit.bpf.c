// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// Sends every IPv4 packet out of another interface, and looks nothing up on the way but where that is.
#include "traffic/bpf.h"

struct header {
    __u8 macs[12];
    __u32 reserved;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct header);
} header SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} device SEC(".maps");

SEC("xdp")
int xdp_limit(struct xdp_md *context)
{
    void *data = (void *)(long)context->data, *end = (void *)(long)context->data_end;
    struct ethernet *ethernet = data;
    struct header *macs;
    __u32 zero = 0;

    if ((void *)(ethernet + 1) > end || ethernet->type != htons(ETH_P_IP))
        return XDP_PASS;
    macs = bpf_map_lookup_elem(&header, &zero);
    if (!macs)
        return XDP_PASS;
    __builtin_memcpy(data, macs->macs, sizeof(macs->macs));
    return bpf_redirect_map(&device, 0, XDP_DROP);
}

char _license[] SEC("license") = "Dual BSD/GPL";
