// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// What the programs of the bench crate need of BPF: the kernel's own header and a few helpers by number, so that no
// libbpf need be installed.
#pragma once

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

#define htons(x) __builtin_bswap16(x)
#define htonl(x) __builtin_bswap32(x)

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
                                         __u64 flags) = (void *)BPF_FUNC_map_update_elem;
static long (*const bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

#define ETH_P_IP 0x0800
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

struct ethernet {
    __u8 destination[6];
    __u8 source[6];
    __u16 type;
} __attribute__((packed));

struct ipv4 {
    __u8 version_ihl;
    __u8 tos;
    __u16 len;
    __u16 id;
    __u16 fragment;
    __u8 ttl;
    __u8 protocol;
    __u16 checksum;
    __u32 source;
    __u32 destination;
} __attribute__((packed));

struct udp {
    __u16 source;
    __u16 destination;
    __u16 len;
    __u16 checksum;
} __attribute__((packed));

struct tcp {
    __u16 source;
    __u16 destination;
    __u32 sequence;
    __u32 acknowledgement;
    __u8 data_offset;
    __u8 flags;
    __u16 window;
    __u16 checksum;
    __u16 urgent;
} __attribute__((packed));
