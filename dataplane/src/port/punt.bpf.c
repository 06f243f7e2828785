/* Lets frames that are written to the punt TAP appear as received on the
 * interface that they came from, so that the kernel's reverse-path filter, its
 * per-interface settings and its counters see what they would have seen had
 * XDP passed the frame.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/* Set by the loader. */
volatile const __u32 interface_index = 0;

SEC("classifier")
int sluice_punt(struct __sk_buff *skb)
{
	return bpf_redirect(interface_index, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
