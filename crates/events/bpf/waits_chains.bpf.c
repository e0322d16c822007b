// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The programs of waits.bpf.c for targets among which there are interpreters: with each sample the
 * thread's chain of frames is followed. They take bpf_loop (Linux 5.17). All other targets have
 * programs that know nothing of it.
 */
#define FOLLOW_CHAINS
#include "waits.bpf.c"
