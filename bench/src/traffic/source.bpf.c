// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// The traffic source. Run by BPF_PROG_TEST_RUN with live frames, it makes each packet anew and sends it out of an
// interface.
//
// The kernel hands back the pages of packets sent, as the forwarder left them. So every header field is written each
// time; the payload, which no forwarder touches, comes with the page.
#include "bpf.h"

// Set before loading. Addresses and ports in host order.
const volatile __u32 out_interface = 0;
const volatile __u8 source_mac[6] = {};
const volatile __u8 destination_mac[6] = {};
const volatile __u32 client = 0;
const volatile __u32 virtual_address = 0;
const volatile __u16 virtual_port = 0;
const volatile __u8 protocol = IPPROTO_UDP;
const volatile __u8 tcp_flags = 0;
const volatile __u32 flows = 1;
// Sum of the payload's 16-bit words, for the checksum.
const volatile __u32 payload_sum = 0;
const volatile __u16 payload_len = 0;

// Ports of one client address before the next one is used.
#define PORTS 50000
#define FIRST_PORT 10000

// The flow of the next packet. One CPU runs a source at a time.
__u32 next_flow = 0;

static __always_inline __u16 fold(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

static __always_inline __u32 halves(__u32 address)
{
    return (address >> 16) + (address & 0xffff);
}

SEC("xdp")
int source(struct xdp_md *context)
{
    void *data = (void *)(long)context->data;
    void *end = (void *)(long)context->data_end;
    struct ethernet *eth = data;
    struct ipv4 *ip = (void *)(eth + 1);
    void *transport = ip + 1;
    struct udp *udp = transport;
    struct tcp *tcp = transport;
    if ((void *)(tcp + 1) > end)
        return XDP_ABORTED;

    __u32 flow = next_flow;
    __u32 following = flow + 1;
    // flows = 0 stands for 2^32: a new flow for each packet.
    next_flow = following == flows ? 0 : following;

    __u32 address = client + flow / PORTS;
    __u16 port = FIRST_PORT + flow % PORTS;
    __u8 is_tcp = protocol == IPPROTO_TCP;
    __u16 transport_len = (is_tcp ? sizeof(*tcp) : sizeof(*udp)) + payload_len;
    __u16 len = sizeof(*ip) + transport_len;

#pragma unroll
    for (int i = 0; i < 6; i++) {
        eth->destination[i] = destination_mac[i];
        eth->source[i] = source_mac[i];
    }
    eth->type = htons(ETH_P_IP);

    ip->version_ihl = 0x45;
    ip->tos = 0;
    ip->len = htons(len);
    ip->id = 0;
    ip->fragment = htons(0x4000);
    ip->ttl = 64;
    ip->protocol = protocol;
    ip->source = htonl(address);
    ip->destination = htonl(virtual_address);
    __u32 addresses = halves(address) + halves(virtual_address);
    ip->checksum = htons(fold(0x4500 + len + 0x4000 + (64 << 8) + protocol + addresses));

    __u32 sum = addresses + protocol + transport_len + port + virtual_port + payload_sum;
    if (is_tcp) {
        // A sequence number a flow, so that retransmitted packets of one flow are alike.
        __u32 sequence = flow * 2654435761u;
        __u32 acknowledgement = tcp_flags & 0x10 ? 1 : 0;
        tcp->source = htons(port);
        tcp->destination = htons(virtual_port);
        tcp->sequence = htonl(sequence);
        tcp->acknowledgement = htonl(acknowledgement);
        tcp->data_offset = 5 << 4;
        tcp->flags = tcp_flags;
        tcp->window = 0xffff;
        tcp->urgent = 0;
        sum += halves(sequence) + acknowledgement + ((5 << 12) | tcp_flags) + 0xffff;
        tcp->checksum = htons(fold(sum));
    } else {
        udp->source = htons(port);
        udp->destination = htons(virtual_port);
        udp->len = htons(transport_len);
        __u16 checksum = fold(sum + transport_len);
        // RFC 768: 0 would mean that there is none.
        udp->checksum = checksum ? htons(checksum) : 0xffff;
    }
    return bpf_redirect(out_interface, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
