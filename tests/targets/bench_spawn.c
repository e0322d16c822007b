// Runs a command for scripts/bench and reports what it used:
//   bench_spawn CMD ARG...
// prints `pid PID` immediately and, when CMD has ended,
//   used status=N user=SECONDS sys=SECONDS maxrss=KIB faults=N switches=N
// on file descriptor 3. User and system time are those of the command and of all children that it
// waited for. This is a separate program because a forked process inherits its parent's peak
// memory: below a Python interpreter every command would seem to use that much.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    // Interrupts are meant for the command, which scripts/bench signals by its PID.
    signal(SIGINT, SIG_IGN);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        return 3;
    }
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        close(3);
        execvp(argv[1], argv + 1);
        perror(argv[1]);
        _exit(127);
    }
    dprintf(3, "pid %d\n", (int)pid);
    int status;
    struct rusage used;
    while (wait4(pid, &status, 0, &used) < 0) {
        if (errno != EINTR)
            return 3;
    }
    dprintf(3, "used status=%d user=%ld.%06ld sys=%ld.%06ld maxrss=%ld faults=%ld switches=%ld\n",
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            (long)used.ru_utime.tv_sec, (long)used.ru_utime.tv_usec, (long)used.ru_stime.tv_sec,
            (long)used.ru_stime.tv_usec, used.ru_maxrss, used.ru_minflt + used.ru_majflt,
            used.ru_nvcsw + used.ru_nivcsw);
    return 0;
}
