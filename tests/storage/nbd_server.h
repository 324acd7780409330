/*
 * For tests of NBD: nbdkit as the server, on a Unix socket.
 */
#ifndef TESTS_STORAGE_NBD_SERVER_H
#define TESTS_STORAGE_NBD_SERVER_H

#include <criterion/criterion.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char server_path[96]; /* set by the test */

static inline double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Does somebody answer there? The socket's file appears a moment before. */
static inline bool answers(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	bool does;

	snprintf(to.sun_path, sizeof(to.sun_path), "%s", server_path);
	does = fd >= 0 && !connect(fd, (const struct sockaddr *)&to, sizeof(to));
	close(fd);
	return does;
}

/* nbdkit with these arguments behind the socket server_path; its process. */
static inline pid_t serve(const char *arguments)
{
	char command[512];
	pid_t pid;

	if (system("command -v nbdkit >/dev/null 2>&1") != 0)
		cr_skip_test("no nbdkit");
	unlink(server_path);
	snprintf(command, sizeof(command), "exec nbdkit -f -U %s %s 2>/dev/null", server_path, arguments);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (!pid) {
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 1000 && !answers(); i++)
		usleep(10000);
	return pid;
}

static inline void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

#endif
