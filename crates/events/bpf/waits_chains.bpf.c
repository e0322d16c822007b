// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * The programs of waits.bpf.c for recordings with interpreters: they also follow the thread's chain of
 * frames at each sample. They require bpf_loop (Linux 5.17); other recordings do not.
 */
#define FOLLOW_CHAINS
#include "waits.bpf.c"
